//! What the books of the cache change beside steps, carried out on the devices: sequences are forked, cells are brought
//! together, a full context makes room for what follows.

use super::{Engine, EngineError};
use crate::backend::{CellMove, CellTurn};
use crate::kv::{Budget, Compaction, Depth, Move, MoveCost, Rotation, SequenceId};
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
    /// A device failed; the cells of the chunk then hold anything.
    pub fn compact(&mut self, depth: Depth, budget: Budget) -> Result<Compacted, EngineError> {
        let cell = self.session.cell_bytes();
        let nodes = self.session.states().len() as u32;
        let mut compaction = Compaction::new(depth, MoveCost { cell, nodes }, budget);
        loop {
            let moves: Vec<CellMove> = compaction.chunk(&mut self.kv).into_iter().map(cell_move).collect();
            if moves.is_empty() {
                let bytes = cell.times(compaction.moved);
                return Ok(Compacted { chunks: compaction.chunks, moves: compaction.made, bytes });
            }
            self.session.rearrange(&moves)?;
        }
    }

    /// Drops the older half of what follows the first `keep` tokens, so that a full sequence can go on: in whole pages,
    /// `keep` rounded up to such. What stays moves to the positions that became free, its keys are rotated; none of them
    /// more than once in its life where sequences are shortened in no other way.
    ///
    /// # Errors
    /// Fewer than two pages follow; pages that others read would have to be copied and none is free for that; there is no
    /// such sequence. Nothing has changed, unless a device failed.
    pub fn shift(&mut self, sequence: SequenceId, keep: Tokens) -> Result<Shifted, EngineError> {
        let page = self.kv.layout().page();
        let held = self.kv.table(sequence)?.pages.len() as u32;
        let kept = keep.0.div_ceil(page);
        if held < kept + 2 {
            let context = held * page;
            return Err(EngineError::Context { needed: context as usize + 1, context });
        }
        let dropped = (held - kept).div_ceil(2) * page;
        let (from, to) = (kept * page, kept * page + dropped);
        let end = self.kv.next_position(sequence)?;
        let (mut books, mut copies) = (self.kv.clone(), Vec::new());
        books.remove(sequence, from, to)?;
        books.shift(sequence, to, end, -(dropped as i32), &mut copies)?;
        let turns: Vec<CellTurn> = books.rotations().into_iter().map(cell_turn).collect();
        let copies: Vec<CellMove> = copies.into_iter().map(cell_move).collect();
        self.kv = books;
        self.session.rearrange(&copies)?;
        self.session.turn(&turns)?;
        Ok(Shifted { dropped: Tokens(dropped), turned: Tokens(turns.iter().map(|turn| turn.len).sum()) })
    }
}

pub(super) fn cell_move(step: Move) -> CellMove {
    CellMove { src: step.src.0, dst: step.dst.0, len: step.len.0 }
}

fn cell_turn(turn: Rotation) -> CellTurn {
    CellTurn { first: turn.first.0, len: turn.len.0, delta: turn.delta }
}
