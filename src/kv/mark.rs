//! A step that failed is taken back: its tokens go and what was set aside for them is set aside again.

use super::{KvError, PagedKv, SequenceId};
use crate::units::Tokens;

/// Where a sequence stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Tokens in it.
    pub count: Tokens,
    /// Tokens [reserved](PagedKv::reserve) for it beyond these.
    pub promised: Tokens,
}

impl PagedKv {
    /// Where a sequence stands, to be asked before a step appends to it.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn mark(&self, id: SequenceId) -> Result<Mark, KvError> {
        let sequence = self.sequence(id)?;
        Ok(Mark { count: Tokens(sequence.count), promised: Tokens(sequence.promised) })
    }

    /// Removes the tokens that were appended to a sequence since `mark`, whatever their positions, and reserves for it
    /// what was reserved then, so that the step can be tried again or others can have the pages.
    ///
    /// A page that an append took in place of a shared one stays the sequence's own. A step that failed before it made
    /// the [copies](super::Writes::copies) of that append therefore still owes them, before anything is written. They are
    /// made once: what the step wrote later may lie where they read. Who cannot tell whether they were made ends the
    /// sequence.
    ///
    /// # Errors
    /// There is no such sequence; or what was reserved cannot be had, because the sequence was not only appended to
    /// since: a fork of it keeps the pages, or compaction had two sequences share a last page. Nothing has changed.
    pub fn take_back(&mut self, id: SequenceId, mark: Mark) -> Result<(), KvError> {
        self.may_take_back(id, mark)?;
        let page = self.page();
        let PagedKv { pages, sequences, .. } = self;
        if let Some(sequence) = sequences[id].as_mut() {
            sequence.shorten(mark.count.0, page, |dropped| pages.release(dropped));
            sequence.promised = mark.promised.0;
        }
        Ok(())
    }

    /// Checks that [`PagedKv::take_back`] would succeed.
    pub(super) fn may_take_back(&self, id: SequenceId, mark: Mark) -> Result<(), KvError> {
        let page = self.page();
        self.may_drop(id, |sequence, dropped| {
            sequence.shorten(mark.count.0, page, dropped);
            sequence.promised = mark.promised.0;
        })
    }
}
