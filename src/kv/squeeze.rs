//! Closes the holes within pages: cells move towards the beginning of their sequence, order kept.
//!
//! What moves as one is a chain: pages that follow each other in the tables of the same sequences, read alike by all of
//! them. A step fills one page of a chain from the cells behind it, or as much of it as a chunk takes. Where the page has
//! holes before its last cell it is filled anew in a free page, so that moves are long and the old one is free once it is
//! drained; that is a blank page, or else the cached one that was given back first. Without any free page the cells move
//! within it, piece by piece. After every step each table is whole again.

use super::compact::Chunk;
use super::table::{Sequence, bits, low};
use super::{Move, PageId, PagedKv, SequenceId};
use crate::index::Id;

/// Pages that move as one.
struct Chain {
    /// Who reads them, and where in its table they begin.
    holders: Vec<(SequenceId, usize)>,
    pages: Vec<PageId>,
    live: Vec<u64>,
}

/// One page filled from the cells behind it.
struct Filled {
    target: PageId,
    /// The pages of the chain that the cells come from, and what stays live in each.
    sources: Vec<u64>,
    moves: Vec<Move>,
    /// Cells in the target.
    count: u32,
}

impl PagedKv {
    /// Closes holes as far as the chunk goes.
    pub(super) fn squeeze(&mut self, chunk: &mut Chunk) {
        let dense = |sequence: &Sequence| sequence.slots(self.page()) == sequence.count;
        if self.sequences.iter().flatten().all(dense) {
            return;
        }
        let mut drained = Vec::new();
        while let Some((mut chain, at)) = self.first_with_holes() {
            if !self.squeeze_chain(&mut chain, at, chunk, &mut drained) {
                break;
            }
        }
        // Pages were drained first to last; as everywhere the last is to be given back first.
        drained.into_iter().rev().for_each(|page| self.pages.refresh(page));
    }

    /// Closes the holes of a chain from its page `at` on; false where the chunk ended before.
    fn squeeze_chain(&mut self, chain: &mut Chain, at: usize, chunk: &mut Chunk, drained: &mut Vec<PageId>) -> bool {
        let mut at = Some(at);
        while let Some(k) = at {
            let filled = self.fill(chain, k, chunk);
            if filled.moves.is_empty() {
                return false;
            }
            chunk.add(&filled.moves);
            self.replace(chain, k, filled, drained);
            at = hole(&chain.live, self.page()).filter(|_| self.has_room(chain));
        }
        true
    }

    /// The first chain that has a hole to be closed, and the page of it.
    fn first_with_holes(&self) -> Option<(Chain, usize)> {
        let mut chains = self.chains().into_iter();
        chains.find_map(|chain| {
            let at = hole(&chain.live, self.page())?;
            self.has_room(&chain).then_some((chain, at))
        })
    }

    /// Whether squeezing a chain leaves what is promised: each of several readers may then have to copy its last page.
    fn has_room(&self, chain: &Chain) -> bool {
        let readers = chain.holders.len() as u32;
        readers == 1 || self.promised() == 0 || self.pages.free() >= self.promised() + readers
    }

    /// All chains, in order of the sequences that read them first.
    fn chains(&self) -> Vec<Chain> {
        let total = self.pages.total() as usize;
        let mut readers: Vec<Vec<(SequenceId, usize)>> = vec![Vec::new(); total];
        for (id, sequence) in self.sequences.iter_ids() {
            for (at, page) in sequence.iter().flat_map(|s| s.pages.iter().enumerate()) {
                readers[page.index()].push((id, at));
            }
        }
        let mut chains: Vec<Chain> = Vec::new();
        for (id, sequence) in self.sequences.iter_ids() {
            let mut open = false;
            for page in sequence.iter().flat_map(|s| &s.pages) {
                let holders = &readers[page.index()];
                let Some(live) = self.alike(holders).filter(|_| holders[0].0 == id) else {
                    open = false;
                    continue;
                };
                match chains.last_mut().filter(|chain| open && chain.goes_on(holders)) {
                    Some(chain) => {
                        chain.pages.push(*page);
                        chain.live.push(live);
                    }
                    None => chains.push(Chain { holders: holders.clone(), pages: vec![*page], live: vec![live] }),
                }
                open = true;
            }
        }
        chains
    }

    /// The live slots of a page, if all its readers read the same.
    fn alike(&self, readers: &[(SequenceId, usize)]) -> Option<u64> {
        let mut masks = readers.iter().filter_map(|&(id, at)| self.sequences[id].as_ref().map(|s| s.live[at]));
        let first = masks.next()?;
        masks.all(|mask| mask == first).then_some(first)
    }

    /// Where the cells of page `k` of a chain and of those behind it go: as many as a page holds and the chunk takes.
    fn fill(&self, chain: &Chain, k: usize, chunk: &Chunk) -> Filled {
        let page = self.page();
        let settled = chain.live[k] == low(chain.live[k].count_ones());
        // The chunk may end before the old page is drained, and then one more is held.
        let spare = self.pages.next().filter(|_| !settled && self.pages.free() > self.promised());
        let target = spare.unwrap_or(chain.pages[k]);
        let mut filled = Filled { target, sources: Vec::new(), moves: Vec::new(), count: 0 };
        for (&source, &live) in chain.pages[k..].iter().zip(&chain.live[k..]) {
            let mut left = live;
            for slot in bits(live).take((page - filled.count) as usize) {
                let (src, dst) = (source.cell(slot, page), target.cell(filled.count, page));
                if src != dst && !chunk.extends(&mut filled.moves, src, dst) {
                    break;
                }
                filled.count += 1;
                left &= !(1 << slot);
            }
            filled.sources.push(left);
            if left != 0 || filled.count == page {
                break;
            }
        }
        filled
    }

    /// Brings chain and tables up to date: the target in place `k`, drained pages gone.
    fn replace(&mut self, chain: &mut Chain, k: usize, filled: Filled, drained: &mut Vec<PageId>) {
        let Filled { target, sources, moves, count } = filled;
        let old = chain.pages[k..k + sources.len()].to_vec();
        let kept = old.iter().zip(&sources).filter(|&(&page, &left)| left != 0 && page != target);
        let here = if old[0] == target { sources[0] } else { 0 };
        let entries = std::iter::once((target, low(count) | here)).chain(kept.map(|(&page, &left)| (page, left)));
        let (pages, live): (Vec<PageId>, Vec<u64>) = entries.unzip();
        if old[0] == target {
            self.pages.index.forget(target);
        } else {
            self.pages.claim(target);
            (1..chain.holders.len()).for_each(|_| self.pages.hold(target));
        }
        moves.iter().for_each(|&step| self.cells.copy(step));
        for &(id, first) in &chain.holders {
            let places = first + k..first + k + sources.len();
            if let Some(sequence) = self.sequences[id].as_mut() {
                sequence.splice(places, &pages, &live);
            }
            old.iter().filter(|page| !pages.contains(page)).for_each(|&page| self.pages.release(page));
        }
        drained.extend(old.iter().filter(|page| !pages.contains(page)));
        chain.pages.splice(k..k + sources.len(), pages);
        chain.live.splice(k..k + sources.len(), live);
    }
}

impl Chain {
    /// Whether a page with these readers comes right behind the chain for all who read the chain.
    fn goes_on(&self, readers: &[(SequenceId, usize)]) -> bool {
        let behind = self.holders.iter().map(|&(id, first)| (id, first + self.pages.len()));
        behind.eq(readers.iter().copied())
    }
}

impl Sequence {
    fn splice(&mut self, places: std::ops::Range<usize>, pages: &[PageId], live: &[u64]) {
        self.pages.splice(places.clone(), pages.iter().copied());
        self.live.splice(places, live.iter().copied());
    }
}

/// The first page with a hole that has a live cell behind it.
fn hole(live: &[u64], page: u32) -> Option<usize> {
    let at = live.iter().position(|&mask| mask != low(page))?;
    let within = live[at] != low(live[at].count_ones());
    (within || at + 1 < live.len()).then_some(at)
}
