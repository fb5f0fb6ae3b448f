//! What a compaction would cost and what it would save: the decision as data.

use super::table::Sequence;
use super::{Compaction, Depth, KvLayout, PagedKv};
use crate::units::{Bytes, Tokens};

/// What speaks for a compaction and what against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// What two classes of a cache cost and save together.
    pub fn and(self, other: Price) -> Price {
        Price {
            reads: self.reads + other.reads,
            reads_after: self.reads_after + other.reads_after,
            moved: self.moved + other.moved,
            steps: self.steps.max(other.steps),
            saved: self.saved + other.saved,
        }
    }

    /// Whether more than twice as many bytes are saved as moved: each is read and written once.
    pub fn pays(&self) -> bool {
        self.saved > self.moved.times(2)
    }
}

impl PagedKv {
    /// What a whole compaction would cost and save over `steps` decode steps, with `cell` bytes a cell over all layers.
    /// Readers follow the tables: whole pages, of contiguous cells those that have some of them.
    pub fn price(&self, depth: Depth, cell: Bytes, steps: Tokens) -> Price {
        let mut trial = self.clone();
        let mut compaction = Compaction::at_once(depth);
        while !compaction.chunk(&mut trial).is_empty() {}
        let (reads, reads_after) = (self.reads(), trial.reads());
        let moved = cell.times(compaction.moved);
        let page = cell.times(self.layout.reader_page().into());
        let saved = page.times(reads.saturating_sub(reads_after).into()).times(steps.0.into());
        Price { reads, reads_after, moved, steps, saved }
    }

    /// Pages that one decode step of every sequence reads, those of a [`Run`](super::Run); one that a sequence comes back
    /// to counts again.
    pub fn reads(&self) -> u32 {
        match self.layout {
            KvLayout::Paged { .. } => self.sequences.iter().flatten().map(|sequence| sequence.pages.len() as u32).sum(),
            KvLayout::Contiguous => self.sequences.iter().flatten().map(|sequence| self.visits(sequence)).sum(),
        }
    }

    fn visits(&self, sequence: &Sequence) -> u32 {
        let mut pages = sequence.cells(self.page()).map(|cell| cell.0 / self.layout.reader_page());
        let first = pages.next();
        let (count, _) = pages.fold((u32::from(first.is_some()), first), |(count, last), page| {
            (count + u32::from(last != Some(page)), Some(page))
        });
        count
    }

    /// The most pages by which a compaction could lessen the [reads](PagedKv::reads) of a decode step; 0: none can. Looks
    /// at the length of each table, not into it, and allocates nothing, so that it can be asked every step. What shared
    /// pages stand in the way of counts too, so who was told that it does not pay asks for the [price](PagedKv::price)
    /// again once this has grown.
    pub fn avoidable(&self, depth: Depth) -> u32 {
        match (self.layout, depth) {
            (KvLayout::Paged { .. }, Depth::Pages) => 0,
            (KvLayout::Paged { .. }, Depth::Cells) => {
                let spare = |sequence: &Sequence| sequence.pages.len() as u32 - sequence.count.div_ceil(self.page());
                self.sequences.iter().flatten().map(spare).sum()
            }
            // A cell that moves into a hole leaves one page of each of its sequences, and may have stood between two parts.
            (KvLayout::Contiguous, Depth::Pages | Depth::Cells) => {
                let holes = self.pages.span() - self.used();
                holes.saturating_mul(2 * self.sequences.iter().flatten().count() as u32)
            }
        }
    }
}
