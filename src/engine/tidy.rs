//! When a queue compacts: when the reads that this spares the coming steps are more than twice what it moves, a chunk
//! between any two steps, until nothing is left to move.

use super::cells::Compactions;
use super::{CHUNK, Compacted, Engine, EngineError};
use crate::kv::{Books, Depth, Price};
use crate::units::{Bytes, Tokens};

/// The compactions of a queue.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    under_way: Option<Compactions>,
    /// What could be avoided when it was last found not to pay, and in how many steps to come.
    declined: u32,
    declined_steps: Tokens,
    /// What the one under way was weighed to move.
    most: Bytes,
    /// What those before have moved.
    before: Compacted,
    /// What was weighed in the last step, if anything was.
    pub price: Option<Price>,
}

impl Tidy {
    /// Weighs a compaction if there is something new to weigh, and moves a chunk of one that is under way. `steps` are still
    /// to come.
    pub fn step(&mut self, engine: &mut Engine, steps: Tokens) -> Result<(), EngineError> {
        self.price = None;
        if self.under_way.is_none() && !self.pays(engine, steps) {
            return Ok(());
        }
        let mut compaction = self.under_way.take().unwrap_or_else(|| engine.compaction(Depth::Cells, CHUNK));
        let more = engine.compact_chunk(&mut compaction)?;
        let moved = engine.compacted(&compaction);
        if more && moved.bytes < self.most {
            self.under_way = Some(compaction);
        } else {
            // What has come up since is weighed by itself.
            self.before = self.before.and(moved);
            self.declined = avoidable(&engine.kv);
            self.declined_steps = steps;
        }
        Ok(())
    }

    /// What was moved in all.
    pub fn moved(&self, engine: &Engine) -> Compacted {
        self.under_way.as_ref().map_or(self.before, |now| self.before.and(engine.compacted(now)))
    }

    fn pays(&mut self, engine: &Engine, steps: Tokens) -> bool {
        let avoidable = avoidable(&engine.kv);
        let longer = avoidable > 0 && steps.0 > self.declined_steps.0.saturating_mul(2);
        if avoidable <= self.declined && !longer {
            self.declined = avoidable;
            return false;
        }
        let price = engine.compaction_price(Depth::Cells, steps);
        (self.price, self.most) = (Some(price), price.moved);
        if !price.pays() {
            (self.declined, self.declined_steps) = (avoidable, steps);
        }
        price.pays()
    }
}

/// Reads that could be spared, over all classes.
fn avoidable(books: &Books) -> u32 {
    books.classes().iter().map(|books| books.avoidable(Depth::Cells)).sum()
}

impl Compacted {
    pub(super) fn and(self, other: Compacted) -> Compacted {
        Compacted {
            chunks: self.chunks + other.chunks,
            moves: self.moves + other.moves,
            bytes: self.bytes + other.bytes,
        }
    }
}
