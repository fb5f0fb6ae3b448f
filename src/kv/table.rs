//! The block table of a sequence: its pages in order and, page by page, which of their slots are live.
//!
//! Slot `i` of a sequence lies in page `i / page` of its table. Positions ascend along the live slots. A slot that is not
//! live is a hole; a page without live slots leaves the table, so that no hole comes after the last live slot.

use std::ops::Range;

use super::cells::Cells;
use super::prefix::Chain;
use super::{CellId, KvLayout, PageId};
use crate::index::Id;
use crate::units::Tokens;

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) pages: Vec<PageId>,
    /// A bit a live slot, by page.
    pub(super) live: Vec<u64>,
    /// Live slots.
    pub(super) count: u32,
    /// Tokens for which pages are set aside.
    pub(super) promised: u32,
    /// Slots before the first that it still has: whole pages that no window reaches.
    pub(super) gone: u32,
    /// Leading slots, those that are gone included, that are the first of the sequence and were made from nothing but
    /// each other.
    pub(super) unbroken: u32,
    /// Leading pages, those that are gone included, that were looked up in the index, and their content.
    pub(super) known: (u32, Chain),
}

/// The slots of one page with bits in a mask, ascending.
pub(super) fn bits(mask: u64) -> impl Iterator<Item = u32> {
    let rest = |mask: u64| (mask != 0).then_some(mask);
    std::iter::successors(rest(mask), move |&mask| rest(mask & (mask - 1))).map(u64::trailing_zeros)
}

/// `count` low bits.
pub(super) fn low(count: u32) -> u64 {
    u64::MAX.checked_shr(u64::BITS - count.min(u64::BITS)).unwrap_or(0)
}

impl Sequence {
    /// An empty sequence with room for `pages`, so that it never allocates as it grows.
    pub(super) fn new(pages: u32) -> Sequence {
        let room = pages as usize;
        let (pages, live) = (Vec::with_capacity(room), Vec::with_capacity(room));
        Sequence { pages, live, count: 0, promised: 0, gone: 0, unbroken: 0, known: (0, Chain::ROOT) }
    }

    /// A sequence of the same cells with no promise, and room for `pages`.
    pub(super) fn fork(&self, pages: u32) -> Sequence {
        let mut fork = Sequence::new(pages);
        fork.pages.extend_from_slice(&self.pages);
        fork.live.extend_from_slice(&self.live);
        Sequence { count: self.count, gone: self.gone, unbroken: self.unbroken, known: self.known, ..fork }
    }

    /// Slots up to the last live one.
    pub(super) fn slots(&self, page: u32) -> u32 {
        let before = (self.pages.len() as u32).saturating_sub(1) * page;
        before + self.live.last().map_or(0, |live| u64::BITS - live.leading_zeros())
    }

    /// Live cells in order.
    pub(super) fn cells(&self, page: u32) -> impl Iterator<Item = CellId> {
        self.cells_from(0, page)
    }

    /// Those of them in the pages from one place in the table on.
    pub(super) fn cells_from(&self, place: usize, page: u32) -> impl Iterator<Item = CellId> {
        let entries = self.pages[place..].iter().zip(&self.live[place..]);
        entries.flat_map(move |(&p, &live)| bits(live).map(move |slot| p.cell(slot, page)))
    }

    /// One position past the last.
    pub(super) fn next_position(&self, cells: &Cells, page: u32) -> u32 {
        match (self.pages.last(), self.live.last()) {
            (Some(last), Some(live)) => cells.position(last.cell(live.ilog2(), page)) + 1,
            (None, _) | (_, None) => 0,
        }
    }

    /// The places in the table of the pages with positions `from..to`.
    pub(super) fn places(&self, from: u32, to: u32, cells: &Cells, page: u32) -> Range<usize> {
        let position = |at: usize, slot: u32| cells.position(self.pages[at].cell(slot, page));
        let mut all = 0..self.pages.len();
        let start = all.find(|&at| position(at, self.live[at].ilog2()) >= from).unwrap_or(all.end);
        let end = (start..self.pages.len()).find(|&at| position(at, self.live[at].trailing_zeros()) >= to);
        start..end.unwrap_or(self.pages.len())
    }

    /// The live slots of one page that have positions `from..to`, by its place in the table.
    pub(super) fn within(&self, at: usize, from: u32, to: u32, cells: &Cells, page: u32) -> u64 {
        let position = |slot: u32| cells.position(self.pages[at].cell(slot, page));
        bits(self.live[at]).filter(|&slot| (from..to).contains(&position(slot))).fold(0, |mask, slot| mask | 1 << slot)
    }

    /// Makes holes of the slots at positions `from..to`; pages without live slots leave the table. They are dropped last
    /// first, as whenever pages are given back: of what is cached of a prefix its beginning then stays longest.
    pub(super) fn remove(&mut self, from: u32, to: u32, cells: &Cells, page: u32, mut dropped: impl FnMut(PageId)) {
        let (before, places) = (self.count, self.places(from, to, cells, page));
        for at in places.clone().rev() {
            let gone = self.within(at, from, to, cells, page);
            self.count -= gone.count_ones();
            self.live[at] &= !gone;
            if self.live[at] == 0 {
                dropped(self.pages[at]);
            }
        }
        let mut kept = places.start;
        for at in places.clone() {
            if self.live[at] == 0 {
                continue;
            }
            (self.pages[kept], self.live[kept]) = (self.pages[at], self.live[at]);
            kept += 1;
        }
        self.pages.drain(kept..places.end);
        self.live.drain(kept..places.end);
        // Of what is gone some may be removed, too.
        if self.count < before || from < self.gone {
            self.break_at(from, page);
        }
        self.begin_anew();
    }

    /// Takes away the last live slots, so that at most `count` are left; pages without live slots leave the table.
    pub(super) fn shorten(&mut self, count: u32, page: u32, mut dropped: impl FnMut(PageId)) {
        while let Some(live) = self.live.last_mut().filter(|_| self.count > count) {
            *live &= !(1 << live.ilog2());
            self.count -= 1;
            if *live == 0 {
                self.live.pop();
                self.pages.pop().into_iter().for_each(&mut dropped);
            }
        }
        self.break_at(self.gone + self.slots(page), page);
        self.begin_anew();
    }

    /// A sequence without tokens has left nothing behind it.
    fn begin_anew(&mut self) {
        if self.pages.is_empty() {
            (self.gone, self.unbroken, self.known) = (0, 0, (0, Chain::ROOT));
        }
    }

    /// Slots from `slot` on are no longer made from nothing but what precedes them.
    pub(super) fn break_at(&mut self, slot: u32, page: u32) {
        self.unbroken = self.unbroken.min(slot);
        if self.known.0 * page > self.unbroken {
            self.known = (0, Chain::ROOT);
        }
    }
}

/// What a reader of a sequence needs, without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    /// Page `i` holds the slots `page i .. page (i + 1)`, `page` being that of the [`KvLayout`].
    pub pages: &'a [PageId],
    /// Slots up to the last live one.
    pub slots: Tokens,
    /// Live slots, each a token of the sequence.
    pub live: Tokens,
}

impl Table<'_> {
    /// Whether every slot is live, so that the table alone tells what to read; else there are [runs](Run).
    pub fn is_dense(&self) -> bool {
        self.slots == self.live
    }
}

/// Live cells side by side in a page, their positions one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The page.
    pub page: PageId,
    /// The first cell within the page.
    pub first: u32,
    /// Cells.
    pub len: Tokens,
    /// Position of the first.
    pub position: u32,
}

/// Cuts cells into runs, none of which leaves a reader's page.
pub(super) struct Runs<'a, I: Iterator<Item = CellId>> {
    pub(super) cells: std::iter::Peekable<I>,
    pub(super) facts: &'a Cells,
    pub(super) layout: KvLayout,
}

impl<I: Iterator<Item = CellId>> Iterator for Runs<'_, I> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let page = self.layout.reader_page();
        let start = self.cells.next()?;
        let (position, room) = (self.facts.position(start), page - start.0 % page);
        let mut len = 1;
        let follows = |cell: CellId, len: u32| {
            len < room && cell.0 == start.0 + len && self.facts.position(cell) == position + len
        };
        while self.cells.next_if(|&cell| follows(cell, len)).is_some() {
            len += 1;
        }
        Some(Run { page: PageId(start.0 / page), first: start.0 % page, len: Tokens(len), position })
    }
}

impl PageId {
    /// A cell of this page, by its slot.
    pub(super) fn cell(self, slot: u32, page: u32) -> CellId {
        CellId::from_index(self.index() * page as usize + slot as usize)
    }
}
