//! What the books of the cache change beside steps, carried out on the devices: sequences are forked, cells are brought
//! together, a full context makes room for what follows.

use super::{Engine, EngineError};
use crate::backend::{CellMove, CellTurn};
use crate::index::{CacheClassId, IndexVec};
use crate::kv::{Books, Budget, Compaction, Depth, Move, MoveCost, Price, Rotation, SequenceId};
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

    /// A compaction of every class that has moved nothing yet.
    pub(super) fn compaction(&self, depth: Depth, budget: Budget) -> Compactions {
        let nodes = self.session.states().len() as u32;
        let cost = |class| MoveCost { cell: self.session.cell_bytes(class), nodes };
        self.kv.classes().ids().map(|class| Compaction::new(depth, cost(class), budget)).collect()
    }

    /// Moves one chunk; false: nothing is left to move. Errors as for [`Engine::compact`].
    pub(super) fn compact_chunk(&mut self, compactions: &mut Compactions) -> Result<bool, EngineError> {
        for class in compactions.ids() {
            let moves: Vec<CellMove> =
                compactions[class].chunk(self.kv.class_mut(class)).into_iter().map(cell_move).collect();
            if moves.is_empty() {
                continue;
            }
            let moved = self.session.rearrange(class, &moves);
            if let Err(why) = self.mended(moved) {
                self.kv.clear();
                return Err(why);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// What a compaction has moved so far.
    pub(super) fn compacted(&self, compactions: &Compactions) -> Compacted {
        let each = compactions.iter_ids().map(|(class, compaction)| Compacted {
            chunks: compaction.chunks,
            moves: compaction.made,
            bytes: self.session.cell_bytes(class).times(compaction.moved),
        });
        each.fold(Compacted::default(), Compacted::and)
    }

    /// What a whole compaction would cost, and save over `steps` decode steps.
    pub(super) fn compaction_price(&self, depth: Depth, steps: Tokens) -> Price {
        let each = self.kv.classes().iter_ids();
        let priced = each.map(|(class, books)| books.price(depth, self.session.cell_bytes(class), steps));
        priced.fold(Price::default(), Price::and)
    }

    /// Removes the tokens at positions `from..to` from a sequence; what follows keeps its positions. Pages of which nothing
    /// is left are given back at once, holes in others are not read.
    ///
    /// # Errors
    /// There is no such sequence, what is set aside for it would not be there any more, or a layer has given up rows that
    /// its window would reach then.
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
        let each = self.kv.classes().iter_ids().map(|(class, books)| {
            let pages = books.reads();
            (pages, self.session.cell_bytes(class).times((Tokens::PAGE.0 * pages).into()))
        });
        each.fold((0, Bytes::ZERO), |sum, (pages, bytes)| (sum.0 + pages, sum.1 + bytes))
    }

    /// Drops the older half of what follows the first `keep` tokens, so that a full sequence can go on: in whole pages,
    /// `keep` rounded up to such, and nothing that a window reaches. What stays moves to the positions that became free, its
    /// keys are rotated; none of them more than once in its life where sequences are shortened in no other way.
    ///
    /// # Errors
    /// Fewer than two pages follow, or no page that no window reaches; the sequence has holes; pages that others read would
    /// have to be copied and none is free for that; there is no such sequence. Nothing has changed, except that after a
    /// failure of a device the sequence has ended.
    pub fn shift(&mut self, sequence: SequenceId, keep: Tokens) -> Result<Shifted, EngineError> {
        let page = self.kv.layout().page();
        let table = self.kv.whole().table(sequence)?;
        let held = table.pages.len() as u32;
        let end = self.kv.next_position(sequence)?;
        if !table.is_dense() || table.slots.0 != end {
            return Err(EngineError::Holes(sequence));
        }
        let kept = keep.0.div_ceil(page);
        let old = (end.saturating_sub(self.kv.tail(sequence)?.0) / page).saturating_sub(kept);
        if held < kept + 2 || old == 0 {
            let context = held * page;
            return Err(EngineError::Context { needed: context as usize + 1, context });
        }
        let dropped = (held - kept).div_ceil(2).min(old) * page;
        let (from, to) = (kept * page, kept * page + dropped);
        let delta = -(dropped as i32);
        let drop_on = |books: &mut Books| {
            books.remove(sequence, from, to)?;
            books.shift(sequence, (to, end), delta)
        };
        let before = self.kv.clone();
        let copies = drop_on(&mut self.kv).inspect_err(|_| self.kv = before)?;
        match self.copy_and_turn(copies) {
            Ok(turned) => Ok(Shifted { dropped: Tokens(dropped), turned }),
            Err(why) => {
                self.kv.end(sequence)?;
                Err(why)
            }
        }
    }

    /// Carries out what a shift asks for; tells of how many tokens keys were turned.
    fn copy_and_turn(&mut self, copies: IndexVec<CacheClassId, Vec<Move>>) -> Result<Tokens, EngineError> {
        for (class, copies) in copies.iter_ids() {
            let copies: Vec<CellMove> = copies.iter().copied().map(cell_move).collect();
            self.session.rearrange(class, &copies)?;
        }
        self.turn_owed()
    }

    /// Rotates all keys that are owed it; tells of how many tokens at most in a class.
    pub(super) fn turn_owed(&mut self) -> Result<Tokens, EngineError> {
        let mut most = Tokens(0);
        for (class, owed) in self.kv.rotations().iter_ids() {
            let turns: Vec<CellTurn> = owed.iter().copied().map(cell_turn).collect();
            let turned = self.session.turn(class, &turns);
            // What was read again is at its position in every class.
            let all_done = self.mended(turned)?;
            most = most.max(Tokens(turns.iter().map(|turn| turn.len).sum()));
            if all_done {
                break;
            }
        }
        Ok(most)
    }
}

/// A compaction of every class.
pub(super) type Compactions = IndexVec<CacheClassId, Compaction>;

pub(super) fn cell_move(step: Move) -> CellMove {
    CellMove { src: step.src.0, dst: step.dst.0, len: step.len.0 }
}

fn cell_turn(turn: Rotation) -> CellTurn {
    CellTurn { first: turn.first.0, len: turn.len.0, delta: turn.delta }
}
