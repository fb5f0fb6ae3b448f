//! Sequences are forked, shortened, cut and shifted.

use super::table::bits;
use super::{CellId, KvError, Move, POSITIONS, PageId, PagedKv, SequenceId};
use crate::units::Tokens;

/// Keys to be rotated to where their cells were shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The first cell.
    pub first: CellId,
    /// Cells.
    pub len: Tokens,
    /// By how many positions.
    pub delta: i32,
}

impl PagedKv {
    /// A new sequence with the same cells; nothing is copied until one of the two writes into a page that both read.
    ///
    /// # Errors
    /// The sequence has pages set aside and it takes one more, which is not free, to keep that promise; behind a window,
    /// the new one could not have as many pages of its own; or there is no such sequence.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, KvError> {
        let fork = self.sequence(id)?.fork(self.pages.total());
        if let Some(window) = self.window {
            self.may_claim(self.claims(window), fork.pages.len() as u32)?;
        }
        fork.pages.iter().for_each(|&page| self.pages.hold(page));
        if let Err(full) = self.keeps_promises() {
            fork.pages.iter().for_each(|&page| self.pages.release(page));
            return Err(full);
        }
        Ok(self.put(Some(fork)))
    }

    /// Removes the tokens at positions `from..to` from a sequence. Pages that none of its tokens is left in are given
    /// back at once, others keep holes.
    ///
    /// # Errors
    /// The sequence has pages set aside and would come to end in a page that others read, which takes one more that is
    /// not free; or there is no such sequence.
    pub fn remove(&mut self, id: SequenceId, from: u32, to: u32) -> Result<(), KvError> {
        self.may_remove(id, from, to)?;
        let page = self.page();
        let PagedKv { pages, sequences, cells, .. } = self;
        if let Some(sequence) = sequences[id].as_mut() {
            sequence.remove(from, to, cells, page, |dropped| pages.release(dropped));
        }
        Ok(())
    }

    /// Checks that [`PagedKv::remove`] would succeed.
    pub(super) fn may_remove(&self, id: SequenceId, from: u32, to: u32) -> Result<(), KvError> {
        if self.sequence(id)?.promised == 0 {
            return Ok(());
        }
        let page = self.page();
        self.may_drop(id, |sequence, dropped| sequence.remove(from, to, &self.cells, page, dropped))
    }

    /// Tokens that a sequence would have without those at positions `from..to`.
    pub(super) fn without(&self, id: SequenceId, from: u32, to: u32) -> Result<u32, KvError> {
        let (page, sequence) = (self.page(), self.sequence(id)?);
        let places = sequence.places(from, to, &self.cells, page);
        let gone = places.map(|at| sequence.within(at, from, to, &self.cells, page).count_ones());
        Ok(sequence.count - gone.sum::<u32>())
    }

    /// Removes the tokens from position `to` on.
    ///
    /// # Errors
    /// As for [`PagedKv::remove`].
    pub fn truncate(&mut self, id: SequenceId, to: u32) -> Result<(), KvError> {
        self.remove(id, to, u32::MAX)
    }

    /// Moves the tokens at positions `from..to` by `delta`. Pages that others read too are copied first: the copies are
    /// added to `copies`. The keys are owed a rotation, see [`PagedKv::rotations`].
    ///
    /// # Errors
    /// Positions would not ascend any more or be out of range, too few pages are free for copies, or there is no such
    /// sequence. Nothing has changed.
    pub fn shift(
        &mut self,
        id: SequenceId,
        from: u32,
        to: u32,
        delta: i32,
        copies: &mut Vec<Move>,
    ) -> Result<(), KvError> {
        if delta == 0 || !self.may_shift(id, from, to, delta)? {
            return Ok(());
        }
        let (page, affected) = (self.page(), self.affected(id, from, to)?);
        self.may_copy(id, affected.iter().map(|&(_, held, _)| held))?;
        for (at, _, mask) in affected {
            copies.extend(self.own(id, at));
            let held = self.sequence(id)?.pages[at];
            bits(mask).for_each(|slot| self.cells.shift(held.cell(slot, page), delta));
        }
        self.turned = true;
        self.sequence_mut(id)?.break_at(from, page);
        Ok(())
    }

    /// The rotations that shifts have left to do, as few as there can be: however often a cell was shifted, its key is
    /// rotated once, and not at all if it came back. They count as done from now on. To be asked before a step
    /// that reads the sequence and no earlier: until then shifts only add up.
    pub fn rotations(&mut self) -> Vec<Rotation> {
        let mut rotations: Vec<Rotation> = Vec::new();
        if !std::mem::take(&mut self.turned) {
            return rotations;
        }
        let page = self.page();
        let PagedKv { sequences, cells, .. } = self;
        for cell in sequences.iter().flatten().flat_map(|sequence| sequence.cells(page)) {
            let delta = cells.turn(cell);
            match rotations.last_mut() {
                _ if delta == 0 => {}
                Some(last) if last.delta == delta && last.first.0 + last.len.0 == cell.0 => last.len.0 += 1,
                Some(_) | None => rotations.push(Rotation { first: cell, len: Tokens(1), delta }),
            }
        }
        rotations
    }

    /// The most often that a key of a sequence was rotated since it was written; what is still owed does not count. Every
    /// rotation of a quantised key rounds it again, and the key as it was written is not kept: who allows one feeds the
    /// tokens, which [`PagedKv::save`] tells, anew instead of shifting keys that have had it. Goes over the sequence.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn turns(&self, id: SequenceId) -> Result<u32, KvError> {
        let cells = self.sequence(id)?.cells(self.page());
        Ok(cells.map(|cell| self.cells.turns(cell)).max().unwrap_or(0))
    }

    /// Whether there is anything to shift, and that it stays between what comes before and behind.
    fn may_shift(&self, id: SequenceId, from: u32, to: u32, delta: i32) -> Result<bool, KvError> {
        let (page, sequence) = (self.page(), self.sequence(id)?);
        let places = sequence.places(from, to, &self.cells, page);
        let (mut above, mut below, mut moved) = (0, POSITIONS, None);
        for cell in sequence.cells_from(places.start.saturating_sub(1), page) {
            match self.cells.position(cell) {
                position if position < from => above = position + 1,
                position if position < to => moved = Some((moved.map_or(position, |(first, _)| first), position)),
                position => {
                    below = position;
                    break;
                }
            }
        }
        let Some((first, last)) = moved else { return Ok(false) };
        let stays = |position: u32| {
            position.checked_add_signed(delta).is_some_and(|position| (above..below).contains(&position))
        };
        if stays(first) && stays(last) { Ok(true) } else { Err(KvError::Shift { from, to, delta, above, below }) }
    }

    /// The places in the table, pages and live slots of a range of positions.
    fn affected(&self, id: SequenceId, from: u32, to: u32) -> Result<Vec<(usize, PageId, u64)>, KvError> {
        let (page, sequence) = (self.page(), self.sequence(id)?);
        let places = sequence.places(from, to, &self.cells, page);
        let masked = places.map(|at| (at, sequence.pages[at], sequence.within(at, from, to, &self.cells, page)));
        Ok(masked.filter(|&(_, _, mask)| mask != 0).collect())
    }
}
