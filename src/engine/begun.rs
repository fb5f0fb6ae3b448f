//! Steps of prompts that are under way together, each on another device: what they append is certain only when the last of
//! them has ended. Until then the books hold it, and find nothing by it.

use super::{Engine, EngineError};
use crate::kv::{Mark, SequenceId};

/// Sequences that steps under way append to, and where each stood before the first of these.
#[derive(Default)]
pub(super) struct Begun {
    marks: Vec<(SequenceId, Mark)>,
}

impl Begun {
    /// Takes in what one more step appends to; empties `pieces`.
    pub fn note(&mut self, pieces: &mut Vec<(SequenceId, Mark)>) {
        for (sequence, mark) in pieces.drain(..) {
            if self.marks.iter().all(|(other, _)| *other != sequence) {
                self.marks.push((sequence, mark));
            }
        }
    }
}

impl Engine {
    /// Whether steps gain from being under way together. Where layers look back over windows they are not: their books give
    /// pages back between steps.
    pub(super) fn may_begin(&self) -> bool {
        self.session.overlaps() && self.kv.classes().len() == 1
    }

    /// Waits for the steps under way: then all that they have appended is certain.
    ///
    /// # Errors
    /// A device failed: every sequence is as it was before the first of them.
    pub(super) fn certain(&mut self) -> Result<(), EngineError> {
        if self.begun.marks.is_empty() {
            return Ok(());
        }
        let finished = self.session.finish().map(|_| ());
        let ended = self.mended(finished).map(|_| ());
        self.ended(ended)
    }

    /// Takes note of how the steps under way have ended. After an error every sequence is as it was before the first.
    pub(super) fn ended(&mut self, ended: Result<(), EngineError>) -> Result<(), EngineError> {
        while let Some((sequence, mark)) = self.begun.marks.pop() {
            // One that was ended meanwhile has nothing to be certain of.
            if self.kv.length(sequence).is_ok() {
                match ended {
                    Ok(()) => self.kv.written(sequence)?,
                    Err(_) => self.bring_back(sequence, mark)?,
                }
            }
        }
        ended
    }
}
