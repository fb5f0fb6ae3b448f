//! Which cells of the cache belong to which sequence: pages, block tables and lengths. Bookkeeping only, no buffers.

use thiserror::Error;

use crate::define_id;
use crate::index::IndexVec;
use crate::units::Tokens;

define_id! {
    /// A sequence of a cache.
    pub SequenceId("q"),
}

/// Why cells cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KvError {
    /// All pages are taken.
    #[error("the KV cache is full: {needed} pages of 16 tokens are needed, {free} of {total} are free")]
    Full {
        /// Pages asked for.
        needed: u32,
        /// Pages left.
        free: u32,
        /// Pages in all.
        total: u32,
    },
    /// The sequence ended or never was.
    #[error("sequence {0} does not exist")]
    NoSequence(SequenceId),
}

#[derive(Debug)]
struct Sequence {
    length: u32,
    pages: Vec<u32>,
}

/// The pages of a cache and the sequences that hold them.
#[derive(Debug)]
pub struct PagedKv {
    total: u32,
    /// Free pages, lowest last.
    free: Vec<u32>,
    sequences: IndexVec<SequenceId, Option<Sequence>>,
}

impl PagedKv {
    /// A cache of `cells`, rounded down to whole pages.
    pub fn new(cells: Tokens) -> PagedKv {
        let total = cells.0 / Tokens::PAGE.0;
        PagedKv { total, free: (0..total).rev().collect(), sequences: IndexVec::new() }
    }

    /// Cells of all pages.
    pub fn cells(&self) -> Tokens {
        Tokens(self.total * Tokens::PAGE.0)
    }

    /// Pages that no sequence holds.
    pub fn free_pages(&self) -> u32 {
        self.free.len() as u32
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        // Room for every page, so that a sequence never allocates as it grows.
        let sequence = Some(Sequence { length: 0, pages: Vec::with_capacity(self.total as usize) });
        let unused = self.sequences.iter_ids().find(|(_, s)| s.is_none()).map(|(id, _)| id);
        match unused {
            Some(id) => {
                self.sequences[id] = sequence;
                id
            }
            None => self.sequences.push(sequence),
        }
    }

    /// Tokens in a sequence.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn length(&self, id: SequenceId) -> Result<Tokens, KvError> {
        Ok(Tokens(self.sequence(id)?.length))
    }

    /// The block table of a sequence: page `i` holds its cells `16 i .. 16 i + 16`.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn pages(&self, id: SequenceId) -> Result<&[u32], KvError> {
        Ok(&self.sequence(id)?.pages)
    }

    /// Appends `tokens` to a sequence and the cell of each to `cells`; on error nothing has changed.
    ///
    /// # Errors
    /// Too few pages are free, or there is no such sequence.
    pub fn append(&mut self, id: SequenceId, tokens: Tokens, cells: &mut Vec<u32>) -> Result<(), KvError> {
        let sequence = self.sequence(id)?;
        let (held, length) = (sequence.pages.len() as u32, sequence.length);
        let needed = Tokens(length.saturating_add(tokens.0)).pages().saturating_sub(held);
        let free = self.free.len() as u32;
        if needed > free {
            return Err(KvError::Full { needed, free, total: self.total });
        }
        let Some(sequence) = self.sequences[id].as_mut() else { return Err(KvError::NoSequence(id)) };
        for _ in 0..needed {
            sequence.pages.extend(self.free.pop());
        }
        for position in length..length + tokens.0 {
            cells.push(
                sequence.pages[(position / Tokens::PAGE.0) as usize] * Tokens::PAGE.0 + position % Tokens::PAGE.0,
            );
        }
        sequence.length = length + tokens.0;
        Ok(())
    }

    /// Shortens a sequence to `length` tokens and frees the pages behind them.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn truncate(&mut self, id: SequenceId, length: Tokens) -> Result<(), KvError> {
        self.sequence(id)?;
        let Some(sequence) = self.sequences[id].as_mut() else { return Err(KvError::NoSequence(id)) };
        sequence.length = sequence.length.min(length.0);
        while sequence.pages.len() > Tokens(sequence.length).pages() as usize {
            self.free.extend(sequence.pages.pop());
        }
        Ok(())
    }

    /// Ends a sequence and frees its pages.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn end(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.truncate(id, Tokens(0))?;
        self.sequences[id] = None;
        Ok(())
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence, KvError> {
        self.sequences.get(id).and_then(Option::as_ref).ok_or(KvError::NoSequence(id))
    }
}
