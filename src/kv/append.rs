//! Tokens at the end of a sequence.

use super::table::low;
use super::{CellId, KvError, KvLayout, Move, POSITIONS, PageId, PagedKv, SequenceId};
use crate::units::Tokens;

/// What appended tokens ask of the caller. Calls add to it, so that one serves all sequences of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Copies of pages that others read too, to be made first.
    pub copies: Vec<Move>,
    /// The cell of each token. They are written before cells are moved: a compaction does not change what is here.
    pub cells: Vec<CellId>,
}

impl Writes {
    /// With room for the tokens of a step, so that it never allocates.
    pub fn with_room(tokens: Tokens) -> Writes {
        Writes { copies: Vec::with_capacity(tokens.index()), cells: Vec::with_capacity(tokens.index()) }
    }

    /// Forgets all, keeps the room.
    pub fn clear(&mut self) {
        self.copies.clear();
        self.cells.clear();
    }
}

impl PagedKv {
    /// Appends tokens to a sequence at the positions that follow its last, and adds their cells to `writes`, after a
    /// copy where the last page is shared; on error nothing has changed.
    ///
    /// # Errors
    /// Too few pages are free, none lie side by side where the layout needs it, positions end, or there is no such
    /// sequence.
    pub fn append(&mut self, id: SequenceId, tokens: &[u32], writes: &mut Writes) -> Result<(), KvError> {
        let (first, sequence) = (self.next_position(id)?, self.sequence(id)?);
        let unbroken = sequence.unbroken == sequence.gone + sequence.slots(self.page());
        let from = writes.cells.len();
        self.grow(id, first, tokens.len(), writes)?;
        for (position, (&cell, &token)) in (first..).zip(writes.cells[from..].iter().zip(tokens)) {
            self.cells.set(cell, token, position, position);
        }
        if unbroken {
            let sequence = self.sequence_mut(id)?;
            sequence.unbroken += tokens.len() as u32;
        }
        Ok(())
    }

    /// Adds `count` live slots to a sequence; their facts are still to be set.
    pub(super) fn grow(
        &mut self,
        id: SequenceId,
        first: u32,
        count: usize,
        writes: &mut Writes,
    ) -> Result<(), KvError> {
        let tokens = positions(first, count)?;
        let run = self.room_for(id, tokens)?;
        let sequence = self.sequence(id)?;
        if tokens > 0 && !sequence.slots(self.page()).is_multiple_of(self.page()) {
            writes.copies.extend(self.own(id, sequence.pages.len() - 1));
        }
        self.extend(id, tokens, run, writes)
    }

    /// Checks that [`PagedKv::append`] of so many would succeed.
    pub(super) fn may_append(&self, id: SequenceId, count: usize) -> Result<(), KvError> {
        self.room_for(id, positions(self.next_position(id)?, count)?).map(|_| ())
    }

    /// Checks that `tokens` more can be had; for contiguous cells, where.
    fn room_for(&self, id: SequenceId, tokens: u32) -> Result<Option<PageId>, KvError> {
        let sequence = self.sequence(id)?;
        let copied = self.shared_end(sequence);
        let others = self.promised() - self.due(sequence) - self.spared(id, copied.as_slice());
        let needed = self.pages_for(sequence, tokens);
        if needed > self.pages.free().saturating_sub(others) {
            return Err(self.full(needed, others));
        }
        match self.layout {
            KvLayout::Contiguous if tokens > 0 => match self.pages.run(tokens, sequence.pages.last().copied()) {
                Ok(first) => Ok(Some(first)),
                Err(longest) => Err(KvError::NoSlot { needed: tokens, longest, free: self.pages.free() }),
            },
            KvLayout::Contiguous | KvLayout::Paged { .. } => Ok(None),
        }
    }

    /// Makes a page of a sequence its own, to be changed: a shared one is replaced by a copy of its live cells.
    pub(super) fn own(&mut self, id: SequenceId, at: usize) -> Option<Move> {
        let page = self.page();
        let held = self.sequences[id].as_ref()?.pages[at];
        if self.pages.holders(held) == 1 {
            self.pages.index.forget(held);
            return None;
        }
        let fresh = self.pages.take()?;
        let sequence = self.sequences[id].as_mut()?;
        let (shared, live) = (std::mem::replace(&mut sequence.pages[at], fresh), sequence.live[at]);
        self.pages.release(shared);
        let (first, len) = (live.trailing_zeros(), u64::BITS - live.leading_zeros() - live.trailing_zeros());
        let copy = Move { src: shared.cell(first, page), dst: fresh.cell(first, page), len: Tokens(len) };
        self.cells.copy(copy);
        Some(copy)
    }

    /// Makes `tokens` slots live, in the room of the last page and in new ones: neighbours from `run` on, or any.
    fn extend(&mut self, id: SequenceId, tokens: u32, run: Option<PageId>, writes: &mut Writes) -> Result<(), KvError> {
        let page = self.page();
        let PagedKv { pages, sequences, .. } = self;
        let Some(sequence) = sequences[id].as_mut() else { return Err(KvError::NoSequence(id)) };
        let mut run = run.into_iter().flat_map(|first| (first.0..).map(PageId));
        let (start, mut slots) = (sequence.slots(page), sequence.slots(page));
        while slots < start + tokens {
            let slot = slots % page;
            if slot == 0 {
                let next = run.next().inspect(|&next| pages.claim(next)).or_else(|| pages.take());
                sequence.pages.push(next.expect("room was checked"));
                sequence.live.push(0);
            }
            let (last, count) = (sequence.pages.len() - 1, (page - slot).min(start + tokens - slots));
            sequence.live[last] |= low(count) << slot;
            writes.cells.extend((slot..slot + count).map(|slot| sequence.pages[last].cell(slot, page)));
            slots += count;
        }
        sequence.count += tokens;
        sequence.promised = sequence.promised.saturating_sub(tokens);
        Ok(())
    }
}

/// Checks that positions do not end within `count` from `first` on.
fn positions(first: u32, count: usize) -> Result<u32, KvError> {
    let tokens = u32::try_from(count).ok().filter(|&n| n <= POSITIONS && first <= POSITIONS - n);
    tokens.ok_or(KvError::Positions { next: first, needed: count })
}
