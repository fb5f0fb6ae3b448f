//! Sequences that begin alike share the pages of what they have in common, also after the first of them has ended.

use super::prefix::Chain;
use super::table::{Sequence, low};
use super::{KvError, PagedKv, SequenceId};
use crate::units::Tokens;

impl PagedKv {
    /// Tells that all cells of a sequence hold the rows of their tokens, so that its full pages may be shared. To be
    /// called after a step that has succeeded: before, the rows are not there, and after one that failed they never
    /// will be. A page is shared only if its tokens and all before it are the first of the sequence, none removed,
    /// shifted or restored.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn written(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.sequence(id)?;
        let page = self.page();
        let PagedKv { pages, cells, sequences, .. } = self;
        let Some(sequence) = sequences[id].as_mut() else { return Err(KvError::NoSequence(id)) };
        let (mut count, mut chain) = sequence.known;
        while (count + 1) * page <= sequence.unbroken {
            chain = pages.index.insert(chain, sequence.pages[count as usize], cells.tokens());
            count += 1;
        }
        sequence.known = (count, chain);
        Ok(())
    }

    /// Starts a sequence with as many whole pages of `tokens` as the cache still has from sequences that began with the
    /// same, and tells how many tokens these are. Their cells need not be written again. A caller that needs logits of
    /// the last token leaves it out here.
    ///
    /// Fewer are shared where a cached page is set aside for a reservation.
    pub fn start_with_prefix(&mut self, tokens: &[u32]) -> (SequenceId, Tokens) {
        let page = self.page();
        let id = self.start();
        let mut chain = Chain::ROOT;
        for ids in tokens.chunks_exact(page as usize) {
            let Some((found, next)) = self.pages.index.find(chain, ids, self.cells.tokens()) else { break };
            self.pages.hold(found);
            if self.keeps_promises().is_err() {
                self.pages.release(found);
                break;
            }
            chain = next;
            if let Some(sequence) = self.sequences[id].as_mut() {
                sequence.share(found, page, chain);
            }
        }
        let shared = self.sequences[id].as_ref().map_or(0, |sequence| sequence.count);
        (id, Tokens(shared))
    }
}

impl Sequence {
    /// Takes a page whose content was found.
    fn share(&mut self, found: super::PageId, page: u32, chain: Chain) {
        self.pages.push(found);
        self.live.push(low(page));
        self.count += page;
        self.unbroken += page;
        self.known = (self.pages.len() as u32, chain);
    }
}
