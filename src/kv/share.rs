//! Sequences that begin alike share the pages of what they have in common, also after the first of them has ended.

use super::prefix::Chain;
use super::table::{Sequence, low};
use super::{KvError, PageId, PagedKv, SequenceId};
use crate::units::Tokens;

impl PagedKv {
    /// Tells that all cells of a sequence hold the rows of their tokens, so that its full pages may be shared. To be
    /// called after a step that has succeeded: before, the rows are not there, and after one that failed they never
    /// will be. A page is shared only if its tokens and all before it are the first of the sequence, none removed,
    /// shifted or restored.
    ///
    /// A content is kept once. Of sequences that began alike at the same time the first to be written shares its pages;
    /// the others take these in place of their own, which are given back: the table of a sequence may change. Otherwise
    /// the same prompt would take its room as often as it was asked for, and be forgotten with the one that was first.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn written(&mut self, id: SequenceId) -> Result<(), KvError> {
        let (page, sequence) = (self.page(), self.sequence(id)?);
        let ((mut count, mut chain), unbroken) = (sequence.known, sequence.unbroken);
        while (count + 1) * page <= unbroken {
            (count, chain) = (count + 1, self.publish(id, count as usize, chain)?);
        }
        self.sequence_mut(id)?.known = (count, chain);
        Ok(())
    }

    /// Has the page at a place in the table of a sequence be found as the content that follows `parent`, or takes the one
    /// that is; returns the content up to its end.
    pub(super) fn publish(&mut self, id: SequenceId, at: usize, parent: Chain) -> Result<Chain, KvError> {
        let own = self.sequence(id)?.pages[at];
        let (found, chain) = self.pages.index.insert(parent, own, self.cells.tokens());
        if found != own {
            self.unite(id, at, found)?;
        }
        Ok(chain)
    }

    /// Has one page where a sequence has another of the same content in its table than the one that is found. If nobody
    /// holds that one, the sequence's own is found from now on. Only where forks hold its own too, and a reader of the
    /// one found would have to copy it but could not any more, both stay.
    fn unite(&mut self, id: SequenceId, at: usize, found: PageId) -> Result<(), KvError> {
        let own = self.sequence(id)?.pages[at];
        if self.pages.holders(found) == 0 {
            self.pages.succeed(found, own);
            return Ok(());
        }
        self.pages.hold(found);
        let costs = self.pages.holders(own) > 1 && self.window.is_none();
        if costs && self.keeps_promises().is_err() {
            self.pages.release(found);
            return Ok(());
        }
        self.pages.release(own);
        self.sequence_mut(id)?.pages[at] = found;
        Ok(())
    }

    /// Starts a sequence with as many whole pages of `tokens` as the cache still has from sequences that began with the
    /// same, and tells how many tokens these are. Their cells need not be written again. A caller that needs logits of
    /// the last token leaves it out here.
    ///
    /// Fewer are shared where a cached page is set aside for a reservation.
    pub fn start_with_prefix(&mut self, tokens: &[u32]) -> (SequenceId, Tokens) {
        let (id, mut shared) = (self.start(), 0);
        for (found, chain) in self.found(tokens) {
            self.pages.hold(found);
            if self.keeps_promises().is_err() {
                self.pages.release(found);
                break;
            }
            shared += self.share(id, found, chain);
        }
        (id, Tokens(shared))
    }

    /// The pages that hold the first of `tokens`, with the content up to the end of each.
    pub(super) fn found(&self, tokens: &[u32]) -> Vec<(PageId, Chain)> {
        let mut chain = Chain::ROOT;
        let pages = tokens.chunks_exact(self.page() as usize).map_while(|ids| {
            let (page, next) = self.pages.index.find(chain, ids, self.cells.tokens())?;
            chain = next;
            Some((page, next))
        });
        pages.collect()
    }

    /// Adds a page that was found, and that is held for it, to a sequence; returns its tokens.
    pub(super) fn share(&mut self, id: SequenceId, found: PageId, chain: Chain) -> u32 {
        let page = self.page();
        if let Some(sequence) = self.sequences[id].as_mut() {
            sequence.share(found, page, chain);
        }
        page
    }
}

impl Sequence {
    /// Takes a page whose content was found.
    fn share(&mut self, found: PageId, page: u32, chain: Chain) {
        self.pages.push(found);
        self.live.push(low(page));
        self.count += page;
        self.unbroken += page;
        self.known = (self.gone / page + self.pages.len() as u32, chain);
    }
}
