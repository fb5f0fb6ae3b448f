//! What a compaction would cost and what it would save: the decision as data.

use super::{Compaction, Depth, KvLayout, PagedKv};
use crate::units::{Bytes, Tokens};

/// What speaks for a compaction and what against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Pages that one decode step of every sequence reads now.
    pub reads: u32,
    /// Those that it would read afterwards.
    pub reads_after: u32,
    /// Bytes that would be moved.
    pub moved: Bytes,
    /// The coming steps.
    pub steps: Tokens,
    /// Bytes that these steps would not have to read.
    pub saved: Bytes,
}

impl Price {
    /// Whether more than twice as many bytes are saved as moved: each is read and written once.
    pub fn pays(&self) -> bool {
        self.saved > self.moved.times(2)
    }
}

impl PagedKv {
    /// What a whole compaction would cost and save over `steps` decode steps, with `page` bytes a page over all layers.
    /// A reader of pages reads those of each table, a reader of contiguous cells the span up to the highest.
    pub fn price(&self, depth: Depth, page: Bytes, steps: Tokens) -> Price {
        let mut trial = self.clone();
        let mut compaction = Compaction::at_once(depth);
        while !compaction.chunk(&mut trial).is_empty() {}
        let (reads, reads_after) = (self.reads(), trial.reads());
        let moved = Bytes((u128::from(compaction.moved) * u128::from(page.0) / u128::from(self.page())) as u64);
        let saved = page.times(reads.saturating_sub(reads_after).into()).times(steps.0.into());
        Price { reads, reads_after, moved, steps, saved }
    }

    /// Pages that one decode step of every sequence reads.
    pub fn reads(&self) -> u32 {
        match self.layout {
            KvLayout::Paged { .. } => self.sequences.iter().flatten().map(|sequence| sequence.pages.len() as u32).sum(),
            KvLayout::Contiguous => self.pages.map().iter().rposition(|&held| held).map_or(0, |last| last as u32 + 1),
        }
    }
}
