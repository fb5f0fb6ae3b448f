//! When a queue compacts: when the reads that this spares the coming steps are more than twice what it moves, a chunk
//! between any two steps, until nothing is left to move.

use super::{CHUNK, Compacted, Engine, EngineError};
use crate::kv::{Compaction, Depth, Price};
use crate::units::Tokens;

/// The compactions of a queue.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    under_way: Option<Compaction>,
    /// What could be avoided when it was last found not to pay.
    declined: u32,
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
        match engine.compact_chunk(&mut compaction)? {
            true => self.under_way = Some(compaction),
            false => {
                self.before = self.before.and(engine.compacted(&compaction));
                self.declined = engine.kv.avoidable(Depth::Cells);
            }
        }
        Ok(())
    }

    /// What was moved in all.
    pub fn moved(&self, engine: &Engine) -> Compacted {
        self.under_way.as_ref().map_or(self.before, |now| self.before.and(engine.compacted(now)))
    }

    fn pays(&mut self, engine: &Engine, steps: Tokens) -> bool {
        let avoidable = engine.kv.avoidable(Depth::Cells);
        if avoidable <= self.declined {
            self.declined = avoidable;
            return false;
        }
        let price = engine.kv.price(Depth::Cells, engine.session.cell_bytes(), steps);
        self.price = Some(price);
        if !price.pays() {
            self.declined = avoidable;
        }
        price.pays()
    }
}

impl Compacted {
    fn and(self, other: Compacted) -> Compacted {
        Compacted {
            chunks: self.chunks + other.chunks,
            moves: self.moves + other.moves,
            bytes: self.bytes + other.bytes,
        }
    }
}
