//! What the books of the cache change beside steps, carried out on the devices: sequences are forked, cells are brought
//! together, a full context makes room for what follows.

use super::{Engine, EngineError};
use crate::backend::{CellMove, CellTurn};
use crate::kv::{Budget, Compaction, Depth, Move, MoveCost, PagedKv, Rotation, SequenceId};
use crate::units::{Bytes, Tokens};

/// What a compaction moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Chunks, between any two of which all sequences could be read.
    pub chunks: u32,
    /// Moves.
    pub moves: u64,
    /// Bytes that they copied, over all layers.
    pub bytes: Bytes,
}

/// What a shift did to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shifted {
    /// Tokens that were dropped.
    pub dropped: Tokens,
    /// Tokens whose keys were rotated to their new positions.
    pub turned: Tokens,
}

impl Engine {
    /// A new sequence with the same tokens; pages are copied only where one of the two goes on.
    ///
    /// # Errors
    /// There is no such sequence, or what is set aside for it would not be there any more.
    pub fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, EngineError> {
        Ok(self.kv.fork(sequence)?)
    }

    /// Brings what is held to the beginning of the cache, chunk by chunk of at most `budget`, until nothing is left to move.
    ///
    /// # Errors
    /// A device failed: what it has moved is not known, so all sequences have ended.
    pub fn compact(&mut self, depth: Depth, budget: Budget) -> Result<Compacted, EngineError> {
        let mut compaction = self.compaction(depth, budget);
        while self.compact_chunk(&mut compaction)? {}
        Ok(self.compacted(&compaction))
    }

    /// A compaction that has moved nothing yet.
    pub(super) fn compaction(&self, depth: Depth, budget: Budget) -> Compaction {
        let (cell, nodes) = (self.session.cell_bytes(), self.session.states().len() as u32);
        Compaction::new(depth, MoveCost { cell, nodes }, budget)
    }

    /// Moves one chunk; false: nothing is left to move. Errors as for [`Engine::compact`].
    pub(super) fn compact_chunk(&mut self, compaction: &mut Compaction) -> Result<bool, EngineError> {
        let moves: Vec<CellMove> = compaction.chunk(&mut self.kv).into_iter().map(cell_move).collect();
        if let Err(why) = self.session.rearrange(&moves) {
            self.kv.clear();
            return Err(why.into());
        }
        Ok(!moves.is_empty())
    }

    /// What a compaction has moved so far.
    pub(super) fn compacted(&self, compaction: &Compaction) -> Compacted {
        let bytes = self.session.cell_bytes().times(compaction.moved);
        Compacted { chunks: compaction.chunks, moves: compaction.made, bytes }
    }

    /// Removes the tokens at positions `from..to` from a sequence; what follows keeps its positions. Pages of which nothing
    /// is left are given back at once, holes in others are not read.
    ///
    /// # Errors
    /// There is no such sequence, or what is set aside for it would not be there any more.
    pub fn remove(&mut self, sequence: SequenceId, from: u32, to: u32) -> Result<(), EngineError> {
        Ok(self.kv.remove(sequence, from, to)?)
    }

    /// Ends all sequences but one.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn keep(&mut self, sequence: SequenceId) -> Result<(), EngineError> {
        Ok(self.kv.keep(sequence)?)
    }

    /// Pages that one decode step of every sequence reads, and their bytes over all layers.
    pub fn reads(&self) -> (u32, Bytes) {
        let pages = self.kv.reads();
        (pages, self.session.cell_bytes().times((Tokens::PAGE.0 * pages).into()))
    }

    /// Drops the older half of what follows the first `keep` tokens, so that a full sequence can go on: in whole pages,
    /// `keep` rounded up to such. What stays moves to the positions that became free, its keys are rotated; none of them
    /// more than once in its life where sequences are shortened in no other way.
    ///
    /// # Errors
    /// Fewer than two pages follow; the sequence has holes; pages that others read would have to be copied and none is free
    /// for that; there is no such sequence. Nothing has changed, except that after a failure of a device the sequence has
    /// ended.
    pub fn shift(&mut self, sequence: SequenceId, keep: Tokens) -> Result<Shifted, EngineError> {
        let page = self.kv.layout().page();
        let table = self.kv.table(sequence)?;
        let held = table.pages.len() as u32;
        let end = self.kv.next_position(sequence)?;
        if !table.is_dense() || table.slots.0 != end {
            return Err(EngineError::Holes(sequence));
        }
        let kept = keep.0.div_ceil(page);
        if held < kept + 2 {
            let context = held * page;
            return Err(EngineError::Context { needed: context as usize + 1, context });
        }
        let dropped = (held - kept).div_ceil(2) * page;
        let (from, to) = (kept * page, kept * page + dropped);
        let delta = -(dropped as i32);
        let drop_on = |books: &mut PagedKv, copies: &mut Vec<Move>| {
            books.remove(sequence, from, to)?;
            books.shift(sequence, to, end, delta, copies)
        };
        drop_on(&mut self.kv.clone(), &mut Vec::new())?;
        let mut copies = Vec::new();
        drop_on(&mut self.kv, &mut copies)?;
        let turns: Vec<CellTurn> = self.kv.rotations().into_iter().map(cell_turn).collect();
        let copies: Vec<CellMove> = copies.into_iter().map(cell_move).collect();
        if let Err(why) = self.session.rearrange(&copies).and_then(|()| self.session.turn(&turns)) {
            self.kv.end(sequence)?;
            return Err(why.into());
        }
        Ok(Shifted { dropped: Tokens(dropped), turned: Tokens(turns.iter().map(|turn| turn.len).sum()) })
    }
}

pub(super) fn cell_move(step: Move) -> CellMove {
    CellMove { src: step.src.0, dst: step.dst.0, len: step.len.0 }
}

pub(super) fn cell_turn(turn: Rotation) -> CellTurn {
    CellTurn { first: turn.first.0, len: turn.len.0, delta: turn.delta }
}
