//! A sequence is let in with all that it may come to need, or not at all.

use super::{KvError, PagedKv, SequenceId};
use crate::units::Tokens;

impl PagedKv {
    /// Starts a sequence that will have `total` tokens, of which `tokens` are the first: shares what the cache has of
    /// these (see [`PagedKv::start_with_prefix`]) and sets pages aside for the others. How many tokens are shared.
    ///
    /// # Errors
    /// Too few pages are free. Nothing has changed.
    pub fn admit(&mut self, tokens: &[u32], total: Tokens) -> Result<(SequenceId, Tokens), KvError> {
        let (id, shared) = self.start_with_prefix(tokens);
        let rest = Tokens(total.0.saturating_sub(shared.0));
        match self.reserve(id, rest) {
            Ok(()) => Ok((id, shared)),
            Err(full) => {
                self.end(id)?;
                Err(full)
            }
        }
    }

    /// Tokens that a sequence can take now, what is set aside for it included.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn room(&self, id: SequenceId) -> Result<Tokens, KvError> {
        let sequence = self.sequence(id)?;
        let others = self.promised() - self.due(sequence);
        let free = self.pages.free().saturating_sub(others);
        let (page, slots) = (self.page(), sequence.slots(self.page()));
        Ok(Tokens(match self.shared_end(sequence) {
            Some(_) if free == 0 => 0,
            Some(_) => (free - 1) * page + page - slots % page,
            None => free * page + slots.next_multiple_of(page) - slots,
        }))
    }
}
