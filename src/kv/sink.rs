//! Moves held pages to the beginning of the cache.
//!
//! What is cached in the way of them moves to where others have left, so that it can still be found. It takes one blank
//! page to begin with: where there is none, the cached page that was given back first is forgotten.

use super::compact::Chunk;
use super::gather::gather;
use super::{CellId, Move, PageId, PagedKv};
use crate::index::Id;
use crate::units::Tokens;

/// Pages to be moved, by number.
#[derive(Clone, Copy, Debug)]
struct Step {
    src: u32,
    dst: u32,
    len: u32,
}

impl PagedKv {
    /// Moves held pages that lie above their number into the holes below it, as far as the chunk goes. Holes in which
    /// something is cached come last: it moves to where others have left.
    pub(super) fn sink(&mut self, chunk: &mut Chunk) {
        if self.pages.span() == self.used() {
            return;
        }
        self.pages.have_blank();
        let (cached, blank): (Vec<Step>, Vec<Step>) =
            self.steps().into_iter().partition(|step| self.pages.is_cached(PageId(step.dst)));
        let mut went = vec![None; self.pages.total() as usize];
        if blank.into_iter().all(|step| self.carry(step, chunk, &mut went)) {
            cached.into_iter().all(|step| self.clear_and_carry(step, chunk, &mut went));
        }
        self.follow(&went);
    }

    /// What is held above and where it goes, the holes of a step either all cached or all blank.
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for whole in gather(&self.pages.map(), Tokens(1)) {
            let mut kind = None;
            for at in 0..whole.len.0 {
                let (src, dst) = (whole.src.0 + at, whole.dst.0 + at);
                let cached = self.pages.is_cached(PageId(dst));
                match steps.last_mut().filter(|_| kind == Some(cached)) {
                    Some(step) => step.len += 1,
                    None => steps.push(Step { src, dst, len: 1 }),
                }
                kind = Some(cached);
            }
        }
        steps
    }

    /// Moves what is held, as far as the chunk goes; false where that is not to the end of the step.
    fn carry(&mut self, step: Step, chunk: &mut Chunk, went: &mut [Option<PageId>]) -> bool {
        let len = chunk.pages(self.page()).min(step.len);
        self.step(Step { len, ..step }, chunk);
        for at in 0..len {
            let (src, dst) = (PageId(step.src + at), PageId(step.dst + at));
            self.pages.relocate(src, dst);
            went[src.index()] = Some(dst);
        }
        len == step.len
    }

    /// The same where something is cached: it moves into blank pages, as much at a time as lie together. With the other
    /// holes filled they are all above.
    fn clear_and_carry(&mut self, step: Step, chunk: &mut Chunk, went: &mut [Option<PageId>]) -> bool {
        let mut done = 0;
        while done < step.len {
            let (src, dst) = (step.src + done, step.dst + done);
            let (to, len) = self.pages.blanks(chunk.pages(self.page()).min(step.len - done));
            self.step(Step { src: dst, dst: to.0, len }, chunk);
            (0..len).for_each(|at| self.pages.relocate_cached(PageId(dst + at), PageId(to.0 + at)));
            if len == 0 || !self.carry(Step { src, dst, len }, chunk, went) {
                return false;
            }
            done += len;
        }
        true
    }

    /// Hands out a move of pages and moves what is known of their cells.
    fn step(&mut self, step: Step, chunk: &mut Chunk) {
        let Step { src, dst, len } = step;
        let [src, dst, len] = [src, dst, len].map(|pages| pages * self.page());
        let whole = Move { src: CellId(src), dst: CellId(dst), len: Tokens(len) };
        if len > 0 {
            chunk.add(&[whole]);
            self.cells.copy(whole);
        }
    }

    /// Has every table name the pages where they went.
    fn follow(&mut self, went: &[Option<PageId>]) {
        let tables = self.sequences.iter_mut().flatten().flat_map(|sequence| &mut sequence.pages);
        for page in tables {
            if let Some(dst) = went[page.index()] {
                *page = dst;
            }
        }
    }
}
