//! A step's arguments → the words that kernels of cards read them from. The one place that knows both forms.

use crate::backend::{ArgLimits, Args, CellTable, SequenceRows};
use crate::units::Tokens;

/// Words before those of the classes.
const HEADER: usize = 2;

/// Words of a token row.
const ROW: usize = 3;

/// Words that steps take where no page is in two tables.
pub fn usual_words(limits: &ArgLimits) -> usize {
    // A class that no state is of has pages without number, and tables of none.
    let pages = |cells: Tokens| if cells == Tokens(u32::MAX) { 0 } else { cells.pages() as usize };
    let class = |cells| 2 + ROW * limits.tokens.index() + pages(cells);
    HEADER + limits.classes.iter().map(|kept| class(kept.cells)).sum::<usize>()
}

/// Replaces `words` by those of admitted arguments: see `team.wgsl` and `step.cuh`.
pub fn write(args: &Args<'_>, words: &mut Vec<u32>) {
    words.clear();
    words.extend([args.tokens.0, args.outputs.0]);
    words.resize(HEADER + args.tables.len(), 0);
    for (class, table) in args.tables.iter().enumerate() {
        words[HEADER + class] = words.len() as u32;
        put_class(table, args.tokens, words);
    }
}

fn put_class(table: &CellTable, tokens: Tokens, words: &mut Vec<u32>) {
    words.push(u32::from(!table.live.is_empty()));
    let first = words.len();
    words.resize(first + ROW * tokens.index(), 0);
    for rows in &table.sequences {
        // Where the table would begin if it left out none: places are counted from the start of the sequence.
        let left_out = if table.live.is_empty() { rows.behind.0 / Tokens::PAGE.0 } else { rows.behind.0 };
        let begin = (words.len() as u32).wrapping_sub(left_out);
        put_table(table, rows, words);
        let before = rows.length.0 - rows.rows;
        for i in 0..rows.rows {
            let row = (rows.first + i) as usize;
            let cell = table.cells.get(row).copied().unwrap_or(0);
            words[first + ROW * row..][..ROW].copy_from_slice(&[cell, before + i + 1, begin]);
        }
    }
}

/// The pages of a sequence, or where there are holes its cells, in order.
fn put_table(table: &CellTable, rows: &SequenceRows, words: &mut Vec<u32>) {
    let range = rows.pages.start as usize..rows.pages.end as usize;
    let pages = table.pages.get(range.clone()).unwrap_or(&[]);
    match table.live.get(range) {
        Some(live) if !table.live.is_empty() => {
            for (&page, &mask) in pages.iter().zip(live) {
                let lanes = (0..Tokens::PAGE.0).filter(|lane| mask >> lane & 1 == 1);
                words.extend(lanes.map(|lane| page * Tokens::PAGE.0 + lane));
            }
        }
        Some(_) | None => words.extend_from_slice(pages),
    }
}
