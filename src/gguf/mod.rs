//! GGUF files: bytes to metadata and a tensor directory over mapped memory, and back to files.
//! Format: the GGUF specification in ggml's docs, versions 2 and 3, little-endian.
//!
//! Everything is checked when a file is opened, so what a [`Gguf`] hands out is inside the file and well-formed. No
//! weight is read or copied; the memory used is bounded by the file's size, whatever the file claims.

mod cursor;
mod directory;
mod error;
mod metadata;
mod mmap;
mod owned;
mod split;
mod value;
mod writer;

use std::path::Path;
use std::sync::Arc;

use crate::units::Bytes;
use cursor::Cursor;
use mmap::Source;

pub use directory::TensorInfo;
pub use error::GgufError;
pub use metadata::Metadata;
pub use owned::MetaValue;
pub use split::shard_path;
pub use value::{Array, Strings, Value, ValueType, Values};
pub use writer::{TensorSpec, WriteError, Writer};

/// The key of the alignment.
const KEY_ALIGNMENT: &str = "general.alignment";

/// `general.alignment` where a file has none.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// One model: the first shard's metadata, and the tensors of all its shards.
pub struct Gguf {
    shards: Vec<Arc<Source>>,
    version: u32,
    alignment: u64,
    metadata: Metadata,
    /// In file order, shard by shard.
    tensors: Vec<TensorInfo>,
    /// Positions in `tensors`, in the order of names.
    by_name: Vec<u32>,
}

impl Gguf {
    /// Maps a model. Any shard of a split model opens all of it; the others are found by name.
    ///
    /// The files must not be shortened while they are mapped: reading past the new end kills the process (SIGBUS).
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let opened = Gguf::read(Source::map(path)?)?;
        let Some(place) = split::place(&opened.metadata)? else { return Ok(opened) };
        let file = opened.shards[0].name().to_owned();
        let prefix = split::prefix(path, &file, place)?;
        let shard = |no| Gguf::read(Source::map(&split::shard_path(&prefix, no, place.count))?);
        let mut model = if place.no == 0 { opened } else { shard(0)? };
        split::check_place(model.shards[0].name(), split::place(&model.metadata)?, split::Place { no: 0, ..place })?;
        for no in 1..place.count {
            let next = shard(no)?;
            split::check_place(next.shards[0].name(), split::place(&next.metadata)?, split::Place { no, ..place })?;
            model.append(next);
        }
        model.sort()?;
        split::check_tensors(model.shards[0].name(), &model.metadata, model.tensors.len())?;
        Ok(model)
    }

    /// Reads a model that is embedded in the program; `name` is what messages call it.
    /// Nothing is copied, except all of it where it lies at an address that is no multiple of 16.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf, GgufError> {
        Gguf::read_whole(Source::from_static(name, bytes))
    }

    /// Reads a model from memory; `name` is what messages call it. Copies as [`Gguf::from_static`] does.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        Gguf::read_whole(Source::from_vec(name, bytes))
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensor offsets are multiples of: `general.alignment` or 32, the least of all shards.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The metadata, of the first shard where there are several.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.by_name.binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name)).ok()?;
        self.tensors.get(self.by_name[found] as usize)
    }

    /// A tensor's data where it lies, nothing copied. Its address is a multiple of 16, or of [`Gguf::alignment`] where
    /// that is less; below 4 a cast to `f32` can fail.
    ///
    /// # Panics
    /// For a tensor of another model that does not fit this one.
    pub fn bytes(&self, t: &TensorInfo) -> &[u8] {
        let start = Bytes(t.offset).index();
        &self.shards[t.shard()].bytes()[start..start + t.bytes.index()]
    }

    /// Path or name, and size, of every shard.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = (&str, Bytes)> {
        self.shards.iter().map(|s| (s.name(), Bytes::of_len(s.bytes().len())))
    }

    /// Gives the memory of a tensor's data back to the system, after it was copied or repacked elsewhere.
    /// A hint for the mapped pages that lie wholly inside the data; reading it again fetches it from the file.
    pub fn release(&self, t: &TensorInfo) {
        let start = Bytes(t.offset).index();
        self.shards[t.shard()].release(start..start + t.bytes.index());
    }

    /// Reads a file that must not be one shard of several.
    fn read_whole(source: Source) -> Result<Gguf, GgufError> {
        let model = Gguf::read(source)?;
        split::check_place(model.shards[0].name(), split::place(&model.metadata)?, split::Place { no: 0, count: 1 })?;
        Ok(model)
    }

    /// Header, metadata, directory, data: each starts where the one before ends.
    fn read(source: Source) -> Result<Gguf, GgufError> {
        let source = Arc::new(source);
        let (file, bytes) = (source.name(), source.bytes());
        let mut cursor = Cursor::new(file, bytes, 0);
        let version = read_version(&mut cursor)?;
        let tensors = cursor.u64(&"tensor count")?;
        let entries = cursor.u64(&"metadata count")?;
        cursor.check_count(tensors, directory::LEAST_ENTRY, &"tensor count")?;
        cursor.check_count(entries, metadata::LEAST_ENTRY, &"metadata count")?;

        let (metadata, end) = Metadata::read(source.clone(), cursor.at(), entries)?;
        let alignment = read_alignment(file, &metadata)?;
        let mut cursor = Cursor::new(file, bytes, end);
        let mut tensors = directory::read(&mut cursor, tensors, bytes.len() as u64)?;
        let data_start = (cursor.at() as u64).next_multiple_of(alignment);
        directory::place(&mut tensors, file, data_start, bytes.len() as u64, alignment)?;

        let by_name = Vec::new();
        let mut model = Gguf { shards: vec![source.clone()], version, alignment, metadata, tensors, by_name };
        model.sort()?;
        Ok(model)
    }

    /// Adds the tensors of the next shard; [`Gguf::sort`] comes after the last.
    fn append(&mut self, next: Gguf) {
        let shard = self.shards.len() as u32;
        self.shards.extend(next.shards);
        self.alignment = self.alignment.min(next.alignment);
        self.tensors.extend(next.tensors.into_iter().map(|t| TensorInfo { shard, ..t }));
    }

    /// Orders the tensors by name and refuses a name that is there twice.
    fn sort(&mut self) -> Result<(), GgufError> {
        let tensors = &self.tensors;
        self.by_name = (0..tensors.len() as u32).collect();
        self.by_name.sort_unstable_by(|&a, &b| tensors[a as usize].name.cmp(&tensors[b as usize].name).then(a.cmp(&b)));
        let twice = |w: &&[u32]| tensors[w[0] as usize].name == tensors[w[1] as usize].name;
        let Some(&[first, second]) = self.by_name.windows(2).find(twice) else { return Ok(()) };
        let file = |i: u32| self.shards[tensors[i as usize].shard()].name().to_owned();
        Err(GgufError::DuplicateTensor {
            file: file(second),
            tensor: tensors[second as usize].name.clone(),
            first: file(first),
        })
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.shards().map(|(name, _)| name).collect();
        write!(f, "Gguf({files:?}, {} keys, {} tensors)", self.metadata.len(), self.tensors.len())
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let file = cursor.file().to_owned();
    let found = cursor.u32(&"magic")?.to_le_bytes();
    if &found != b"GGUF" {
        return Err(GgufError::Magic { file, found });
    }
    let found = cursor.u32(&"version")?;
    match (found, found.swap_bytes()) {
        (2 | 3, _) => Ok(found),
        (_, version @ 1..=3) => Err(GgufError::BigEndian { file, version }),
        _ => Err(GgufError::Version { file, found }),
    }
}

fn read_alignment(file: &str, metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = metadata.u64(KEY_ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
    // The format stores 32 bits; a greater power of two would overflow positions.
    if alignment.is_power_of_two() && alignment <= 1 << 31 {
        return Ok(alignment);
    }
    Err(GgufError::Alignment { file: file.to_owned(), found: alignment })
}
