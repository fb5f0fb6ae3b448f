//! A sequence with its rows ↔ bytes, to be taken up again later: in another process, in a cache of another size or layout,
//! on other devices; where the same layers keep windows. Loading is all or nothing: what is refused has changed nothing and holds no page.
//!
//! # The format, version 1
//!
//! Numbers are little-endian; a text is a `u32` of bytes, then UTF-8; a list is a `u32` of items, then the items.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `LMSAVED\n` |
//! | `u32` | the version, 1 |
//! | `u64` | bytes of the whole file |
//! | list of pairs of texts | what the rows depend on, see [`facts`] |
//! | `u32` | the version of what follows, that of [`SavedSequence`] |
//! | list of `u32` | tokens of the sequence |
//! | list of 4 `u32` | where they are: a [`SavedRun`] in the order of its fields |
//! | list of `u32` | tokens that follow and are not evaluated yet |
//! | a `u32` a window | tokens at the end whose rows are kept, where caches keep a window of them, the smallest window first |
//! | rows | of the caches that keep all, then of each window: those of the tokens in order, in pieces of as many cells as fit [`PIECE`], at least one; in a piece cache after cache |
//! | `u64` | XXH64 with seed 0 of all before |
//!
//! A row is that of [`Session::read_cells`](crate::exec::Session::read_cells), in the type of its cache.

mod facts;
mod file;
mod wire;

use std::io::{self, Read, Seek, Write};

use thiserror::Error;

use super::{CHUNK, Engine, EngineError};
use crate::exec::ExecError;
use crate::index::{CacheClassId, IndexVec};
use crate::kv::{Depth, KvError, KvLayout, Run, SavedRun, SavedSequence, SequenceId, Writes};
use crate::text::TokenId;
use crate::units::{Bytes, Tokens};

use facts::Fact;
use wire::{Reader, Writer};

pub use facts::FactOf;
pub use file::SavedFile;

/// What a file begins with.
const MAGIC: [u8; 8] = *b"LMSAVED\n";

/// The format that is written and read.
const VERSION: u32 = 1;

/// Bytes of rows that are read or written at a time, where a cell has no more.
const PIECE: Bytes = Bytes::mib(4);

/// Why a sequence cannot be saved or loaded.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages name the fields; `file` is the path or name given")]
pub enum SavedError {
    #[error("{file}: cannot {action}: {source}")]
    Io { file: String, action: &'static str, source: io::Error },
    #[error("{file}: needed a regular file for a session, found something else")]
    NotAFile { file: String },
    #[error("{file}: is no saved session: it begins with \"{}\", needed \"{}\"", .found.escape_ascii(), MAGIC.escape_ascii())]
    Foreign { file: String, found: Vec<u8> },
    #[error("{file}: the saved session has format {found}; this version reads format {VERSION}")]
    Version { file: String, found: u32 },
    #[error("{file}: the saved session is cut off: needed {needed} bytes, found {found}")]
    Truncated { file: String, needed: u64, found: u64 },
    #[error("{file}: the saved session is damaged: {field} needed {needed}, found {found}")]
    Damaged { file: String, field: &'static str, needed: String, found: String },
    #[error("{file}: the session was saved with another {of}: needed {needed:?}, found {found:?}")]
    Other { file: String, of: FactOf, needed: String, found: String },
    #[error(
        "{file}: the saved session takes {needed} cells of the cache, {free} of {total} are free: give a larger context"
    )]
    TooLarge { file: String, needed: u32, free: u32, total: u32 },
    #[error("{file}: {why}")]
    Sequence { file: String, why: KvError },
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The sequence, new in this engine.
    pub sequence: SequenceId,
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Tokens that follow and are still to be fed.
    pub next: Vec<TokenId>,
}

impl Engine {
    /// Writes a sequence with its rows, some MiB at a time. `next` are the tokens that follow and are not evaluated, such
    /// as the last one of a text that was generated; `name` is what messages call the target.
    ///
    /// # Errors
    /// There is no such sequence, a token is none of the model's, a device failed, or nothing more can be written.
    pub fn save(
        &mut self,
        sequence: SequenceId,
        next: &[TokenId],
        name: &str,
        to: &mut dyn Write,
    ) -> Result<(), EngineError> {
        let (saved, cells) = (self.kv.save(sequence)?, self.cells_of(sequence)?);
        let windows: Vec<u32> = cells.iter().skip(1).map(|cells| cells.len() as u32).collect();
        let next: Vec<u32> = next.iter().map(|token| token.0).collect();
        let vocab = self.session.vocab();
        if let Some(&id) = next.iter().find(|&&id| id >= vocab) {
            return Err(ExecError::TokenId { id, vocab }.into());
        }
        let front = front(&self.facts(), &saved, &next, &windows);
        let rows = cells.iter_ids().map(|(class, cells)| self.rows(class, cells.len())).sum::<Bytes>();
        let mut writer = Writer::new(name, to);
        writer.head(Bytes::of_len(front.len()) + rows)?;
        writer.put(&front)?;
        let mut bytes = Vec::new();
        for (class, cells) in cells.iter_ids() {
            for piece in cells.chunks(self.piece(class)) {
                bytes.resize(self.rows(class, piece.len()).index(), 0);
                self.session.read_cells(class, piece, &mut bytes)?;
                writer.put(&bytes)?;
            }
        }
        Ok(writer.seal()?)
    }

    /// Takes up what [`Engine::save`] has written, in free pages of its own. All of it is read twice: first its checksum,
    /// then, some MiB at a time, what it holds.
    ///
    /// # Errors
    /// It is no saved session, cut off, damaged, of another version, of another model or other caches, or does not fit;
    /// it cannot be read, or a device failed. The engine is as before; where rows could not be read any more or a device
    /// failed, but for what was cached in the pages that they were for.
    pub fn load(&mut self, name: &str, from: &mut (impl Read + Seek)) -> Result<Loaded, EngineError> {
        let mut reader = Reader::verified(name, from)?;
        facts::check(&self.facts(), &mut reader)?;
        let version = reader.count("version of the sequence")?;
        let saved = SavedSequence { version, tokens: self.tokens(&mut reader)?, runs: runs(&mut reader)? };
        let next = reader.list("tokens that follow")?;
        self.known(name, saved.tokens.iter().chain(&next))?;
        let held = self.rows_held(&mut reader, saved.tokens.len() as u32)?;
        let rows = held.iter_ids().map(|(class, &held)| self.rows(class, held as usize)).sum();
        reader.ends_behind("rows", rows)?;
        let (sequence, cells) = self.place(name, &saved, &held)?;
        if let Err(why) = self.fill(&cells, &mut reader) {
            self.kv.end(sequence)?;
            return Err(why);
        }
        let ids = |tokens: Vec<u32>| tokens.into_iter().map(TokenId).collect();
        Ok(Loaded { sequence, tokens: ids(saved.tokens), next: ids(next) })
    }

    /// The cells of a sequence in the order of its tokens, by class.
    pub(super) fn cells_of(&self, sequence: SequenceId) -> Result<IndexVec<CacheClassId, Vec<u32>>, EngineError> {
        let page = match self.kv.layout() {
            layout @ KvLayout::Paged { .. } => layout.page(),
            KvLayout::Contiguous => Tokens::PAGE.0,
        };
        let cells = |run: Run| (run.page.0 * page + run.first..).take(run.len.index());
        self.kv.classes().iter().map(|books| Ok(books.runs(sequence)?.flat_map(cells).collect())).collect()
    }

    /// Bytes of the rows of so many cells of a class.
    fn rows(&self, class: CacheClassId, cells: usize) -> Bytes {
        self.session.cell_bytes(class).times(cells as u64)
    }

    /// Tokens at the end of a sequence of `tokens` whose rows there are, by class.
    fn rows_held(
        &self,
        reader: &mut Reader<'_, impl Read>,
        tokens: u32,
    ) -> Result<IndexVec<CacheClassId, u32>, SavedError> {
        let mut held: IndexVec<CacheClassId, u32> = [tokens].into_iter().collect();
        for class in self.kv.classes().ids().skip(1) {
            let found = reader.count("rows of a window")?;
            let most = tokens.min(self.kv.most(class).0);
            if found > most {
                let needed = format!("at most {most}");
                return Err(wire::damaged(&reader.file(), "rows of a window", needed, found.to_string()));
            }
            held.push(found);
        }
        Ok(held)
    }

    fn facts(&self) -> Vec<Fact> {
        facts::facts(&self.model, &self.gguf, self.session.states())
    }

    /// Cells whose rows are a piece.
    fn piece(&self, class: CacheClassId) -> usize {
        (PIECE.0 / self.session.cell_bytes(class).0.max(1)).max(1) as usize
    }

    /// The tokens of the sequence, if the cache has room for them.
    fn tokens(&self, reader: &mut Reader<'_, impl Read>) -> Result<Vec<u32>, SavedError> {
        let needed = reader.count("tokens")?;
        let free = self.kv.whole().free_pages() * self.kv.layout().page();
        let total = self.kv.cells().0;
        if needed > free {
            return Err(SavedError::TooLarge { file: reader.file(), needed, free, total });
        }
        reader.numbers(u64::from(needed), "tokens")
    }

    /// Refuses tokens that the model does not have.
    fn known<'a>(&self, name: &str, mut tokens: impl Iterator<Item = &'a u32>) -> Result<(), SavedError> {
        let vocab = self.session.vocab();
        let needed = || format!("tokens below {vocab}");
        match tokens.find(|&&id| id >= vocab) {
            Some(id) => Err(wire::damaged(name, "tokens", needed(), id.to_string())),
            None => Ok(()),
        }
    }

    /// Starts the sequence; its cells are still to be filled.
    fn place(
        &mut self,
        name: &str,
        saved: &SavedSequence,
        held: &IndexVec<CacheClassId, u32>,
    ) -> Result<(SequenceId, IndexVec<CacheClassId, Vec<u32>>), EngineError> {
        let mut writes = self.kv.classes().iter().map(|_| Writes::default()).collect();
        let placed = match self.kv.restore(saved, held, &mut writes) {
            // Free cells are there, but not side by side.
            Err(KvError::NoSlot { .. }) => {
                self.compact(Depth::Pages, CHUNK)?;
                writes.iter_mut().for_each(Writes::clear);
                self.kv.restore(saved, held, &mut writes)
            }
            placed => placed,
        };
        let sequence = placed.map_err(|why| SavedError::Sequence { file: name.into(), why })?;
        let cells = writes.iter().map(|writes| writes.cells.iter().map(|cell| cell.0).collect());
        Ok((sequence, cells.collect()))
    }

    /// Reads rows into cells, and rotates the keys that are owed it.
    fn fill(
        &mut self,
        cells: &IndexVec<CacheClassId, Vec<u32>>,
        reader: &mut Reader<'_, impl Read>,
    ) -> Result<(), EngineError> {
        let mut bytes = Vec::new();
        for (class, cells) in cells.iter_ids() {
            for piece in cells.chunks(self.piece(class)) {
                bytes.resize(self.rows(class, piece.len()).index(), 0);
                reader.take(&mut bytes, "rows")?;
                self.session.write_cells(class, piece, &bytes)?;
            }
        }
        reader.sealed()?;
        self.turn_owed().map(|_| ())
    }
}

/// All between head and rows.
fn front(facts: &[Fact], saved: &SavedSequence, next: &[u32], windows: &[u32]) -> Vec<u8> {
    let mut front = Vec::new();
    let count = |n: usize| (n as u32).to_le_bytes();
    front.extend(count(facts.len()));
    facts.iter().for_each(|fact| fact.write(&mut front));
    front.extend(saved.version.to_le_bytes());
    front.extend(count(saved.tokens.len()));
    front.extend(saved.tokens.iter().flat_map(|id| id.to_le_bytes()));
    front.extend(count(saved.runs.len()));
    for &SavedRun { len, position, key_at, turns } in &saved.runs {
        front.extend([len, position, key_at, turns].iter().flat_map(|n| n.to_le_bytes()));
    }
    front.extend(count(next.len()));
    front.extend(next.iter().chain(windows).flat_map(|n| n.to_le_bytes()));
    front
}

fn runs(reader: &mut Reader<'_, impl Read>) -> Result<Vec<SavedRun>, SavedError> {
    let count = reader.count("runs")?;
    let numbers = reader.numbers(4 * u64::from(count), "runs")?;
    let run = |n: &[u32]| SavedRun { len: n[0], position: n[1], key_at: n[2], turns: n[3] };
    Ok(numbers.chunks_exact(4).map(run).collect())
}
