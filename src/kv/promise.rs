//! Pages set aside for tokens to come. What is set aside never exceeds what is free: whatever would break a promise is
//! refused before it changes anything.

use super::table::Sequence;
use super::{KvError, PageId, PagedKv, SequenceId};
use crate::units::Tokens;

impl PagedKv {
    /// Sets pages aside so that a sequence can take `tokens` more, in place of what it had reserved before. Until then
    /// nobody else gets these pages: appending as many tokens fails neither at once nor little by little, however the
    /// sequence is forked, shifted or shortened in between. Contiguous cells may have to be brought together first.
    ///
    /// # Errors
    /// Too few pages are free, or there is no such sequence.
    pub fn reserve(&mut self, id: SequenceId, tokens: Tokens) -> Result<(), KvError> {
        let before = std::mem::replace(&mut self.sequence_mut(id)?.promised, tokens.0);
        let (promised, needed) = (self.promised(), self.due(self.sequence(id)?));
        if promised > self.pages.free() {
            self.sequence_mut(id)?.promised = before;
            return Err(self.full(needed, promised - needed));
        }
        Ok(())
    }

    /// Free pages that are set aside.
    pub(super) fn promised(&self) -> u32 {
        if let Some(window) = self.window {
            return self.claims(window).saturating_sub(self.used());
        }
        self.sequences.iter().flatten().fold(0, |sum: u32, sequence| sum.saturating_add(self.due(sequence)))
    }

    /// Free pages that a sequence needs to take what it was promised.
    pub(super) fn due(&self, sequence: &Sequence) -> u32 {
        match self.window {
            Some(window) => self.claim(window, sequence, sequence.promised) - sequence.pages.len() as u32,
            None => self.pages_for(sequence, sequence.promised),
        }
    }

    /// `needed` pages are not there, `promised` are for others.
    pub(super) fn full(&self, needed: u32, promised: u32) -> KvError {
        KvError::Full { needed, free: self.pages.free().saturating_sub(promised), total: self.pages.total() }
    }

    /// Pages that a sequence lacks for `tokens` more: new ones, and one in place of a shared one that it would write to,
    /// unless [claims](PagedKv::claim) count it already.
    pub(super) fn pages_for(&self, sequence: &Sequence, tokens: u32) -> u32 {
        if tokens == 0 {
            return 0;
        }
        let page = self.page();
        let slots = sequence.slots(page);
        let pages = slots.saturating_add(tokens).div_ceil(page) - sequence.pages.len() as u32;
        pages + u32::from(self.window.is_none() && self.shared_end(sequence).is_some())
    }

    /// The last page of a sequence if it has room.
    pub(super) fn open_end(&self, sequence: &Sequence) -> Option<PageId> {
        let partly = !sequence.slots(self.page()).is_multiple_of(self.page());
        sequence.pages.last().copied().filter(|_| partly)
    }

    /// The last page of a sequence if it has room, but for others to read.
    pub(super) fn shared_end(&self, sequence: &Sequence) -> Option<PageId> {
        self.open_end(sequence).filter(|&last| self.pages.holders(last) > 1)
    }

    /// Checks that all that was promised is still free.
    pub(super) fn keeps_promises(&self) -> Result<(), KvError> {
        let (promised, free) = (self.promised(), self.pages.free());
        if promised > free { Err(self.full(promised, 0)) } else { Ok(()) }
    }

    /// Checks that enough is left for all promises once `change` was made to a sequence; it names the pages it drops.
    pub(super) fn may_drop(
        &self,
        id: SequenceId,
        change: impl FnOnce(&mut Sequence, &mut dyn FnMut(PageId)),
    ) -> Result<(), KvError> {
        let mut trial = self.sequence(id)?.clone();
        let mut dropped = Vec::new();
        if let Some(window) = self.window {
            let others = self.claims(window) - self.claim(window, &trial, trial.promised);
            change(&mut trial, &mut |_| {});
            return self.may_claim(others, self.claim(window, &trial, trial.promised));
        }
        let others = self.promised() - self.due(&trial);
        change(&mut trial, &mut |page| dropped.push(page));
        let given_back = dropped.iter().filter(|&&page| self.pages.holders(page) == 1).count() as u32;
        let (needed, others) = (self.due(&trial), others - self.spared(id, &dropped));
        if needed.saturating_add(others) > self.pages.free() + given_back {
            return Err(self.full(needed, others));
        }
        Ok(())
    }

    /// Checks that a sequence can have copies of those of `pages` that others read too. What was set aside for the copy of
    /// a last page is there for it.
    pub(super) fn may_copy(&self, id: SequenceId, pages: impl Iterator<Item = PageId>) -> Result<(), KvError> {
        let sequence = self.sequence(id)?;
        if self.window.is_some() {
            // Whoever holds a page with others claims one of its own.
            return Ok(());
        }
        let shared: Vec<PageId> = pages.filter(|&page| self.pages.holders(page) > 1).collect();
        let end = self.shared_end(sequence).filter(|end| sequence.promised > 0 && shared.contains(end));
        let needed = shared.len() as u32;
        let promised = self.promised() - u32::from(end.is_some()) - self.spared(id, &shared);
        if needed.saturating_add(promised) > self.pages.free() { Err(self.full(needed, promised)) } else { Ok(()) }
    }

    /// Pages set aside for other sequences to copy their last page, which one of them then need not do any more once
    /// `id` no longer holds `pages`: nobody else reads it.
    pub(super) fn spared(&self, id: SequenceId, pages: &[PageId]) -> u32 {
        if self.window.is_some() {
            return 0;
        }
        let others = self.sequences.iter_ids().filter(|&(other, _)| other != id).filter_map(|(_, s)| s.as_ref());
        let ends = others.filter(|other| other.promised > 0).filter_map(|other| self.shared_end(other));
        ends.filter(|&end| self.pages.holders(end) == 2 && pages.contains(&end)).count() as u32
    }
}
