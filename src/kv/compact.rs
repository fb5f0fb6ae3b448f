//! Brings live cells together, chunk by chunk, until there is nothing left to move.
//!
//! Every chunk is planned from the books as they are then, so sequences may come, grow and go between two chunks. A chunk
//! leaves every sequence readable once its moves are made in order. None is over budget, except that a chunk makes at
//! least one move, of a page or, where it closes holes, of a cell: whatever the budget, compaction ends.

use super::{CellId, Move, PagedKv};
use crate::units::{Bytes, Tokens};

/// How far compaction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Held pages move to the beginning of the cache; their cells stay as they are in them.
    Pages,
    /// First the holes within pages are closed, then pages move: no page is held that could be spared.
    Cells,
}

/// The most that one chunk may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes copied.
    pub bytes: Bytes,
    /// Nodes of a graph, or commands of a queue.
    pub nodes: u32,
}

/// What moving takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveCost {
    /// Bytes of one cell, keys and values of all layers.
    pub cell: Bytes,
    /// Nodes of one move, however long.
    pub nodes: u32,
}

/// A compaction under way, with what it has moved so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    depth: Depth,
    /// Most cells of a chunk.
    cells: u32,
    /// Most moves of a chunk.
    moves: usize,
    /// Chunks handed out.
    pub chunks: u32,
    /// Their moves.
    pub made: u64,
    /// The cells of their moves.
    pub moved: u64,
}

impl Compaction {
    /// Nothing is moved yet.
    pub fn new(depth: Depth, cost: MoveCost, budget: Budget) -> Compaction {
        let cells = (budget.bytes.0 / cost.cell.0.max(1)).min(u32::MAX.into()) as u32;
        let moves = (budget.nodes / cost.nodes.max(1)) as usize;
        Compaction { depth, cells: cells.max(1), moves: moves.max(1), chunks: 0, made: 0, moved: 0 }
    }

    /// Without a budget: all in one chunk.
    pub fn at_once(depth: Depth) -> Compaction {
        Compaction { depth, cells: u32::MAX, moves: usize::MAX, chunks: 0, made: 0, moved: 0 }
    }

    /// The next moves; the books of `kv` already tell of the cells where they lie afterwards. None: compaction is
    /// complete.
    pub fn chunk(&mut self, kv: &mut PagedKv) -> Vec<Move> {
        let mut chunk = Chunk { moves: Vec::new(), cells: self.cells, room: self.moves };
        match self.depth {
            Depth::Cells => kv.squeeze(&mut chunk),
            Depth::Pages => {}
        }
        // A chunk in which holes are left to be closed is full.
        kv.sink(&mut chunk);
        self.chunks += u32::from(!chunk.moves.is_empty());
        self.made += chunk.moves.len() as u64;
        self.moved += chunk.moves.iter().map(|step| u64::from(step.len.0)).sum::<u64>();
        chunk.moves
    }
}

/// Moves of a chunk and how many more it takes.
pub(super) struct Chunk {
    pub(super) moves: Vec<Move>,
    cells: u32,
    room: usize,
}

impl Chunk {
    /// How many pages of `page` cells one move may still have: the first move of a chunk at least one.
    pub(super) fn pages(&self, page: u32) -> u32 {
        if self.room == 0 { 0 } else { (self.cells / page).max(u32::from(self.moves.is_empty())) }
    }

    /// Adds moves that were made to fit.
    pub(super) fn add(&mut self, moves: &[Move]) {
        self.cells = moves.iter().fold(self.cells, |cells, step| cells.saturating_sub(step.len.0));
        self.room = self.room.saturating_sub(moves.len());
        self.moves.extend_from_slice(moves);
    }

    /// Adds one cell to `moves`, which are to come next: to the last of them where it goes on and does not come to overlap
    /// itself. False where the chunk would take no more.
    pub(super) fn extends(&self, moves: &mut Vec<Move>, src: CellId, dst: CellId) -> bool {
        if moves.iter().map(|step| step.len.0).sum::<u32>() >= self.cells {
            return false;
        }
        if let Some(last) = moves.last_mut().filter(|last| last.goes_on(src, dst)) {
            last.len.0 += 1;
            return true;
        }
        let fits = moves.len() < self.room;
        moves.extend(fits.then_some(Move { src, dst, len: Tokens(1) }));
        fits
    }
}

impl Move {
    /// Whether one cell more can be moved along without overlap.
    fn goes_on(&self, src: CellId, dst: CellId) -> bool {
        let Move { src: from, dst: to, len: Tokens(len) } = *self;
        from.0 + len == src.0 && to.0 + len == dst.0 && from.0.abs_diff(to.0) > len
    }
}
