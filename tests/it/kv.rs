//! What the books of the cache promise, case by case.

mod compaction;
mod moves;
mod pages;
mod prefix;
mod promises;
mod saved;
mod shift;
mod steps;

use loadmaster::kv::{CellId, KvLayout, Move, PagedKv, SequenceId, Writes};
use loadmaster::units::Tokens;

fn paged(cells: u32) -> PagedKv {
    PagedKv::new(Tokens(cells), KvLayout::default())
}

fn ids(count: u32) -> Vec<u32> {
    (0..count).collect()
}

/// The cells that `count` more tokens get; nothing is to be copied for them.
fn grow(kv: &mut PagedKv, id: SequenceId, count: u32) -> Vec<CellId> {
    let mut writes = Writes::default();
    kv.append(id, &ids(count), &mut writes).unwrap();
    assert_eq!(writes.copies, []);
    writes.cells
}

fn started(kv: &mut PagedKv, count: u32) -> SequenceId {
    let id = kv.start();
    grow(kv, id, count);
    id
}

/// A sequence of `tokens` whose step has ended well.
fn prompted(kv: &mut PagedKv, tokens: &[u32]) -> SequenceId {
    let id = kv.start();
    kv.append(id, tokens, &mut Writes::default()).unwrap();
    kv.written(id).unwrap();
    id
}

/// Move by move `src > dst x len`, to be read at a glance.
fn told(moves: &[Move]) -> String {
    let each = moves.iter().map(|step| format!("{} > {} x {}", step.src.0, step.dst.0, step.len.0));
    each.collect::<Vec<_>>().join("\n")
}

fn positions(kv: &PagedKv, id: SequenceId) -> Vec<u32> {
    kv.runs(id).unwrap().flat_map(|run| run.position..run.position + run.len.0).collect()
}
