//! A sequence is let in with all that it may come to need, or not at all.

use super::prefix::Chain;
use super::{KvError, PageId, PagedKv, SequenceId};
use crate::units::Tokens;

impl PagedKv {
    /// Starts a sequence for a request: with whole pages of `tokens` as [`PagedKv::start_with_prefix`] does, and with
    /// pages set aside so that it can come to have `total` tokens, or as many as `tokens` are if that is more. All or
    /// nothing: once it was admitted it never waits for a page. Tells how many tokens are shared; what is set aside is for
    /// the rest. Takes time by the pages of `tokens` and by the sequences there are.
    ///
    /// # Errors
    /// Too few pages are free: those that the request needs beyond shared ones, and the shared ones that nobody holds,
    /// which are free now and would not be any more. Nothing has changed. A request of more tokens than there are
    /// [cells](PagedKv::cells) is never admitted, any other once no sequence is left.
    pub fn admit(&mut self, tokens: &[u32], total: Tokens) -> Result<(SequenceId, Tokens), KvError> {
        let total = Tokens(total.0.max(u32::try_from(tokens.len()).unwrap_or(u32::MAX)));
        self.admit_found(&self.found(tokens), total)
    }

    /// As [`PagedKv::admit`], with pages that were found.
    pub(super) fn admit_found(
        &mut self,
        found: &[(PageId, Chain)],
        total: Tokens,
    ) -> Result<(SequenceId, Tokens), KvError> {
        let shared = found.len() as u32 * self.page();
        let pages: Vec<PageId> = found.iter().map(|&(page, _)| page).collect();
        let needed = self.pages_needed(Tokens(shared), total).saturating_add(self.taken_by_sharing(&pages));
        let promised = self.promised();
        if needed.saturating_add(promised) > self.pages.free() {
            return Err(self.full(needed, promised));
        }
        let id = self.start();
        for &(page, chain) in found {
            self.pages.hold(page);
            self.share(id, page, chain);
        }
        self.sequence_mut(id)?.promised = total.0 - shared;
        Ok((id, Tokens(shared)))
    }

    /// Pages that `total` tokens take beyond the whole pages of those that are `shared`, whatever is free; see
    /// [`PagedKv::admit`] for what an admission takes.
    pub fn pages_needed(&self, shared: Tokens, total: Tokens) -> u32 {
        total.0.div_ceil(self.page()).saturating_sub(shared.0 / self.page())
    }

    /// Tokens that a sequence can take now, what is set aside for it included; contiguous cells may have to be brought
    /// together first.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn room(&self, id: SequenceId) -> Result<Tokens, KvError> {
        let sequence = self.sequence(id)?;
        if let Some(window) = self.window {
            return Ok(self.room_behind(window, sequence));
        }
        let copied = self.shared_end(sequence);
        let others = self.promised() - self.due(sequence) - self.spared(id, copied.as_slice());
        let free = self.pages.free().saturating_sub(others);
        let (page, slots) = (self.page(), sequence.slots(self.page()));
        Ok(Tokens(match copied {
            Some(_) if free == 0 => 0,
            Some(_) => (free - 1) * page + page - slots % page,
            None => free * page + slots.next_multiple_of(page) - slots,
        }))
    }

    /// Free pages that one holder more of each of `pages` takes: those that nobody holds, and copies of those that one
    /// sequence alone holds, ends in, and was promised to go on in.
    fn taken_by_sharing(&self, pages: &[PageId]) -> u32 {
        let unheld = pages.iter().filter(|&&page| self.pages.holders(page) == 0).count();
        let promised = self.sequences.iter().flatten().filter(|sequence| sequence.promised > 0);
        let ends = promised.filter_map(|sequence| self.open_end(sequence));
        (unheld + ends.filter(|end| self.pages.holders(*end) == 1 && pages.contains(end)).count()) as u32
    }
}
