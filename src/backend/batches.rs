//! How keys of caches turn; and work on their cells → batches for cards, which take so many at a time: rows are gathered,
//! then written where they go; keys are gathered, turned and written back.

use std::collections::{BTreeMap, BTreeSet};

use super::frequencies::Frequencies;
use super::{CacheWork, CellMove, CellTurn, key_rotation};
use crate::graph::StateId;
use crate::graph::ops::RopeStyle;

/// Cells that a batch has at most.
pub const CELLS: usize = 1024;

/// Different turns of those.
pub const TURNS: usize = 64;

/// Moves as if done one after the other, in batches of cells with those whose rows they get. Rows of a batch are all read
/// before one is written.
pub fn moves(moves: &[CellMove]) -> Vec<Vec<(u32, u32)>> {
    let (mut batches, mut from) = (Vec::new(), BTreeMap::new());
    for CellMove { src, dst, len } in moves.iter().flat_map(|&step| pieces(step)) {
        if from.len() + len as usize > CELLS {
            batches.push(pairs(&std::mem::take(&mut from)));
        }
        let sources: Vec<u32> = (src..src + len).map(|cell| *from.get(&cell).unwrap_or(&cell)).collect();
        from.extend((dst..).zip(sources));
    }
    batches.push(pairs(&from));
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// Where rows come from and go to, but for those that stay.
fn pairs(from: &BTreeMap<u32, u32>) -> Vec<(u32, u32)> {
    from.iter().map(|(&to, &from)| (from, to)).filter(|(from, to)| from != to).collect()
}

/// A move in parts of at most so many cells as there is room for, in an order in which none overwrites what a later one
/// reads.
fn pieces(step: CellMove) -> impl Iterator<Item = CellMove> {
    let most = CELLS as u32;
    let count = step.len.div_ceil(most);
    (0..count).map(move |i| {
        let first = if step.dst <= step.src { i } else { count - 1 - i } * most;
        CellMove { src: step.src + first, dst: step.dst + first, len: most.min(step.len - first) }
    })
}

/// Different cells that turn, each with the place of what it turns by.
#[derive(Default)]
pub struct TurnBatch {
    /// Cells, and places.
    pub cells: Vec<(u32, usize)>,
    /// By how many positions.
    pub deltas: Vec<i32>,
}

impl TurnBatch {
    /// Cosines and sines of its turns for keys that are rotated alike, one turn after the other.
    pub fn table(&self, key: &KeyTurn) -> Vec<f32> {
        let each = 2 * key.frequencies.pairs();
        let mut table = vec![0f32; each * self.deltas.len()];
        for (delta, table) in self.deltas.iter().zip(table.chunks_exact_mut(each.max(1))) {
            key.frequencies.table(*delta as f32, key.factors.as_deref(), table);
        }
        table
    }
}

/// Turns in batches, in order.
pub fn turns(turns: &[CellTurn]) -> Vec<TurnBatch> {
    let (mut batches, mut batch, mut seen) = (Vec::new(), TurnBatch::default(), BTreeSet::new());
    for turn in turns.iter().filter(|turn| turn.delta != 0) {
        for cell in turn.first..turn.first + turn.len {
            let full = !batch.deltas.contains(&turn.delta) && batch.deltas.len() == TURNS;
            if batch.cells.len() == CELLS || full || seen.contains(&cell) {
                batches.push(std::mem::take(&mut batch));
                seen.clear();
            }
            let place = batch.deltas.iter().position(|delta| *delta == turn.delta).unwrap_or_else(|| {
                batch.deltas.push(turn.delta);
                batch.deltas.len() - 1
            });
            batch.cells.push((cell, place));
            seen.insert(cell);
        }
    }
    batches.push(batch);
    batches.retain(|batch| !batch.cells.is_empty());
    batches
}

/// How keys of a state were rotated.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyTurn {
    /// By what angles.
    pub frequencies: Frequencies,
    /// What frequencies are divided by.
    pub factors: Option<Vec<f32>>,
    /// Elements of a head before those that were rotated.
    pub offset: u32,
    /// How those are paired.
    pub style: RopeStyle,
}

impl KeyTurn {
    /// How those of a state were rotated, if it has keys and they were.
    ///
    /// # Errors
    /// Factors are missing, or not as many as pairs.
    pub fn of(work: &CacheWork<'_>, state: StateId) -> Result<Option<KeyTurn>, String> {
        let Some(rope) = key_rotation(work.graph, state) else { return Ok(None) };
        let factors = rope.factors.map(|id| {
            let pairs = rope.rotary as usize / 2;
            let found = work.factors.get(&id).filter(|factors| factors.len() == pairs).cloned();
            found.ok_or_else(|| format!("is rotated with factors, of which {pairs} are needed"))
        });
        let frequencies = Frequencies::new(rope.rotary, rope.base, &rope.scaling).of_length_one();
        Ok(Some(KeyTurn { frequencies, factors: factors.transpose()?, offset: rope.offset, style: rope.style }))
    }
}
