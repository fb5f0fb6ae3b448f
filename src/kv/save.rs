//! A sequence as data, to be kept and taken up again later, in another cache too.
//!
//! What is saved are tokens and positions in order, what the keys are rotated to and how often they were; the rows themselves are the
//! caller's, in the order of [`PagedKv::runs`], which is the order of the cells that restoring gives.

use serde::{Deserialize, Serialize};

use super::{KvError, POSITIONS, PagedKv, SequenceId, Writes};

/// The format that is written and read.
const VERSION: u32 = 1;

/// Tokens whose positions, and those that their keys are rotated to, follow each other; the keys were rotated as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRun {
    /// Tokens.
    pub len: u32,
    /// Position of the first.
    pub position: u32,
    /// The position that its key is rotated to.
    pub key_at: u32,
    /// How often the key of each was rotated.
    pub turns: u32,
}

/// A saved sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSequence {
    /// The format, 1.
    pub version: u32,
    /// The tokens in order.
    pub tokens: Vec<u32>,
    /// Where they are, in order.
    pub runs: Vec<SavedRun>,
}

impl PagedKv {
    /// What is to be known to restore a sequence, besides its rows.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn save(&self, id: SequenceId) -> Result<SavedSequence, KvError> {
        let mut saved = SavedSequence { version: VERSION, tokens: Vec::new(), runs: Vec::new() };
        for cell in self.sequence(id)?.cells(self.page()) {
            saved.tokens.push(self.cells.token(cell));
            let (position, key_at) = (self.cells.position(cell), self.cells.key_at(cell));
            let next = SavedRun { len: 1, position, key_at, turns: self.cells.turns(cell) };
            match saved.runs.last_mut() {
                Some(run) if run.goes_on(next) => run.len += 1,
                Some(_) | None => saved.runs.push(next),
            }
        }
        Ok(saved)
    }

    /// Starts a sequence like the saved one in free pages, without holes, and adds its cells to `writes` in the order of
    /// the tokens. Its pages are not shared with sequences that begin alike: what the rows were made from is not known.
    ///
    /// # Errors
    /// The saved sequence is of another format or damaged, or its cells cannot be had, as for [`PagedKv::append`].
    pub fn restore(&mut self, saved: &SavedSequence, writes: &mut Writes) -> Result<SequenceId, KvError> {
        let id = self.start();
        match self.restore_as(id, saved, writes) {
            Ok(()) => Ok(id),
            Err(why) => {
                self.end(id)?;
                Err(why)
            }
        }
    }

    /// As [`PagedKv::restore`], into an empty sequence.
    pub(super) fn restore_as(
        &mut self,
        id: SequenceId,
        saved: &SavedSequence,
        writes: &mut Writes,
    ) -> Result<(), KvError> {
        saved.check()?;
        let from = writes.cells.len();
        self.grow(id, 0, saved.tokens.len(), writes)?;
        let places = saved.runs.iter().flat_map(|run| (0..run.len).map(move |i| (run, i)));
        for ((&cell, &token), (run, i)) in writes.cells[from..].iter().zip(&saved.tokens).zip(places) {
            self.cells.set(cell, token, run.position + i, run.key_at + i);
            self.cells.set_turns(cell, run.turns);
            self.turned |= run.position != run.key_at;
        }
        Ok(())
    }
}

impl SavedRun {
    /// Whether a token comes right behind this run.
    fn goes_on(&self, next: SavedRun) -> bool {
        let SavedRun { len, position, key_at, turns } = *self;
        (position + len, key_at + len, turns) == (next.position, next.key_at, next.turns)
    }
}

impl SavedSequence {
    /// The same without all but the last `tokens` tokens.
    pub(super) fn last(&self, tokens: u32) -> SavedSequence {
        let mut skipped = (self.tokens.len() as u32).saturating_sub(tokens);
        let mut last =
            SavedSequence { version: self.version, tokens: self.tokens[skipped as usize..].to_vec(), runs: Vec::new() };
        for run in &self.runs {
            let first = skipped.min(run.len);
            skipped -= first;
            let (len, position, key_at) = (run.len - first, run.position + first, run.key_at + first);
            last.runs.extend((len > 0).then_some(SavedRun { len, position, key_at, ..*run }));
        }
        last
    }

    pub(super) fn check(&self) -> Result<(), KvError> {
        if self.version != VERSION {
            return Err(KvError::SavedVersion { found: self.version, known: VERSION });
        }
        let (mut next, mut left) = (0, self.tokens.len());
        let ends = |first: u32, len: u32| first.checked_add(len).is_some_and(|end| end <= POSITIONS);
        for (at, run) in self.runs.iter().enumerate() {
            let damaged = |why| Err(KvError::SavedDamaged { run: at, why });
            if run.len == 0 {
                return damaged("it has no tokens");
            } else if run.position < next {
                return damaged("its positions do not follow those before it");
            } else if !ends(run.position, run.len) || !ends(run.key_at, run.len) {
                return damaged("its positions are past 2147483648");
            }
            next = run.position + run.len;
            match left.checked_sub(run.len as usize) {
                Some(rest) => left = rest,
                None => return damaged("there are fewer tokens than its runs have"),
            }
        }
        if left > 0 {
            return Err(KvError::SavedDamaged {
                run: self.runs.len(),
                why: "there are more tokens than its runs have",
            });
        }
        Ok(())
    }
}
