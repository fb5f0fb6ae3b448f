//! A model in parts to a GGUF v3 file, or to several shards. Tensor data is streamed from a closure, so a model of any
//! size is written without holding it. A file appears under its name only when it is complete.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::owned::{MetaValue, encode_text};
use super::split::{self, shard_path};
use super::value::{MAX_NESTING, ValueType};
use super::{DEFAULT_ALIGNMENT, KEY_ALIGNMENT};
use crate::tensor::{DType, Shape};
use crate::units::Bytes;

/// The most bytes of tensor data; leaves room for padding, so that offsets never overflow.
const MAX_TOTAL: u64 = 1 << 62;

/// What will be written: metadata in order, tensors in order. The data comes later.
#[derive(Debug)]
pub struct Writer {
    alignment: u64,
    metadata: Vec<(String, MetaValue)>,
    tensors: Vec<TensorSpec>,
    /// The bytes of all tensors.
    total: u64,
    /// Keys and tensor names in use.
    keys: HashSet<String>,
    names: HashSet<String>,
}

/// A tensor to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The shape, innermost dimension first.
    pub shape: Shape,
    /// The size of the data.
    pub bytes: Bytes,
}

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum WriteError {
    /// The operating system, or the source of the data, refused.
    #[error("{file}: cannot {action}: {source}")]
    Io { file: String, action: &'static str, source: io::Error },
    /// A key twice.
    #[error("metadata key {key:?} is there twice")]
    DuplicateKey { key: String },
    /// A key that the writer sets itself.
    #[error("metadata key {key:?} is set by the writer")]
    ReservedKey { key: String },
    /// A tensor twice.
    #[error("tensor {tensor:?} is there twice")]
    DuplicateTensor { tensor: String },
    /// An array of mixed types.
    #[error("the array {key:?} needs elements of type {}, found {}", .needed.name(), .found.name())]
    Mixed { key: String, needed: ValueType, found: ValueType },
    /// Arrays nested deeper than the reader reads.
    #[error("the array {key:?} is nested deeper than {MAX_NESTING}")]
    Nesting { key: String },
    /// An alignment that aligns nothing.
    #[error("an alignment of {found}, needed a power of two")]
    Alignment { found: u32 },
    /// A row that does not end with a block, or too much data.
    #[error(
        "tensor {tensor:?} of type {dtype} and shape {shape} needs rows of whole blocks, and 2^62 bytes in all at most"
    )]
    Size { tensor: String, dtype: DType, shape: Shape },
    /// The source gave other data than announced.
    #[error("tensor {tensor:?} needs {needed} bytes of data, was given {found}")]
    Length { tensor: String, needed: u64, found: u64 },
    /// More shards than tensors, or none.
    #[error("{tensors} tensors do not make {shards} shards, needed 1 to {}", .most)]
    Shards { shards: usize, tensors: usize, most: usize },
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Nothing yet, at the usual alignment of 32.
    pub fn new() -> Writer {
        let (metadata, tensors) = (Vec::new(), Vec::new());
        Writer {
            alignment: DEFAULT_ALIGNMENT,
            metadata,
            tensors,
            total: 0,
            keys: HashSet::new(),
            names: HashSet::new(),
        }
    }

    /// Starts tensors at multiples of `alignment`, a power of two; the format's readers expect a multiple of 8.
    pub fn set_alignment(&mut self, alignment: u32) -> Result<&mut Writer, WriteError> {
        if !alignment.is_power_of_two() {
            return Err(WriteError::Alignment { found: alignment });
        }
        self.alignment = alignment.into();
        Ok(self)
    }

    /// Adds a key and its value.
    pub fn set(&mut self, key: &str, value: impl Into<MetaValue>) -> Result<&mut Writer, WriteError> {
        if [KEY_ALIGNMENT, split::KEY_NO, split::KEY_COUNT, split::KEY_TENSORS].contains(&key) {
            return Err(WriteError::ReservedKey { key: key.to_owned() });
        }
        let value = value.into();
        check_value(key, &value, 0)?;
        if !self.keys.insert(key.to_owned()) {
            return Err(WriteError::DuplicateKey { key: key.to_owned() });
        }
        self.metadata.push((key.to_owned(), value));
        Ok(self)
    }

    /// Adds a tensor.
    pub fn add_tensor(&mut self, name: &str, dtype: DType, shape: Shape) -> Result<&mut Writer, WriteError> {
        let bytes = dtype.row_bytes(shape.row_len()).and_then(|row| row.0.checked_mul(shape.rows()));
        let fits = |&bytes: &u64| self.total.checked_add(bytes).is_some_and(|total| total <= MAX_TOTAL);
        let Some(bytes) = bytes.filter(fits) else {
            return Err(WriteError::Size { tensor: name.to_owned(), dtype, shape });
        };
        if !self.names.insert(name.to_owned()) {
            return Err(WriteError::DuplicateTensor { tensor: name.to_owned() });
        }
        self.total += bytes;
        self.tensors.push(TensorSpec { name: name.to_owned(), dtype, shape, bytes: Bytes(bytes) });
        Ok(self)
    }

    /// The tensors so far, in the order in which their data will be asked for.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Writes the model to `out`. `data` is called once a tensor, in order, and writes exactly its bytes.
    pub fn write_to(
        &self,
        out: &mut dyn Write,
        data: &mut dyn FnMut(&TensorSpec, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        self.write_shard(out, "output", 0..self.tensors.len(), &[], data)
    }

    /// Writes the model to a file, as [`Writer::write_to`]; a file of that name is replaced at the end.
    pub fn write_file(
        &self,
        path: &Path,
        mut data: impl FnMut(&TensorSpec, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        self.write_shard_file(path, 0..self.tensors.len(), &[], &mut data)
    }

    /// Writes `count` shards of about equal size, `PREFIX-00001-of-0000N.gguf` and so on, and returns their paths.
    /// The metadata goes to the first, as llama.cpp's gguf-split does it.
    pub fn write_split(
        &self,
        prefix: &Path,
        count: usize,
        mut data: impl FnMut(&TensorSpec, &mut dyn Write) -> io::Result<()>,
    ) -> Result<Vec<PathBuf>, WriteError> {
        let (tensors, most) = (self.tensors.len(), self.tensors.len().min(usize::from(u16::MAX)));
        if count == 0 || count > most {
            return Err(WriteError::Shards { shards: count, tensors, most });
        }
        let mut paths = Vec::new();
        for (no, range) in equal_parts(&self.tensors, count).into_iter().enumerate() {
            let split = [
                (split::KEY_NO, MetaValue::U16(no as u16)),
                (split::KEY_COUNT, MetaValue::U16(count as u16)),
                (split::KEY_TENSORS, MetaValue::I32(tensors as i32)),
            ];
            let path = shard_path(prefix, no as u64, count as u64);
            self.write_shard_file(&path, range, &split, &mut data)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Writes under another name first, so that an interrupted write leaves no file that looks whole.
    fn write_shard_file(
        &self,
        path: &Path,
        tensors: Range<usize>,
        split: &[(&str, MetaValue)],
        data: &mut dyn FnMut(&TensorSpec, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        const BUFFER: usize = 1 << 20;
        let name = path.display().to_string();
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let written = File::create(&partial).map_err(failed(&name, "create it")).and_then(|file| {
            let mut out = BufWriter::with_capacity(BUFFER, file);
            self.write_shard(&mut out, &name, tensors, split, data)?;
            out.flush().map_err(failed(&name, "write it"))?;
            std::fs::rename(&partial, path).map_err(failed(&name, "rename it"))
        });
        if written.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&partial);
        }
        written
    }

    fn write_shard(
        &self,
        out: &mut dyn Write,
        file: &str,
        tensors: Range<usize>,
        split: &[(&str, MetaValue)],
        data: &mut dyn FnMut(&TensorSpec, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        let is_first = tensors.start == 0;
        let tensors = &self.tensors[tensors];
        let head = self.head(is_first, split, tensors);
        out.write_all(&head).map_err(failed(file, "write it"))?;
        for tensor in tensors {
            let mut counted = Counted { out, written: 0 };
            data(tensor, &mut counted).map_err(failed(file, "write a tensor's data"))?;
            let (needed, found) = (tensor.bytes.0, counted.written);
            if found != needed {
                return Err(WriteError::Length { tensor: tensor.name.clone(), needed, found });
            }
            write_padding(out, needed, self.alignment).map_err(failed(file, "write it"))?;
        }
        Ok(())
    }

    /// All that stands before the data of `tensors`, padded.
    fn head(&self, is_first: bool, split: &[(&str, MetaValue)], tensors: &[TensorSpec]) -> Vec<u8> {
        let alignment = [(KEY_ALIGNMENT, MetaValue::U32(self.alignment as u32))];
        let alignment = if self.alignment == DEFAULT_ALIGNMENT { &[][..] } else { &alignment[..] };
        let own = if is_first { &self.metadata[..] } else { &[] };
        let entries = own.iter().map(|(k, v)| (k.as_str(), v));
        let entries = entries.chain(alignment.iter().chain(split).map(|(k, v)| (*k, v)));

        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend(((own.len() + alignment.len() + split.len()) as u64).to_le_bytes());
        for (key, value) in entries {
            encode_text(key, &mut out);
            out.extend(value.kind().id().to_le_bytes());
            value.encode(&mut out);
        }
        let mut offset = Bytes::ZERO;
        for tensor in tensors {
            encode_text(&tensor.name, &mut out);
            out.extend((tensor.shape.dims().len() as u32).to_le_bytes());
            tensor.shape.dims().iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.dtype.ggml().to_le_bytes());
            out.extend(offset.0.to_le_bytes());
            offset = (offset + tensor.bytes).align_up(self.alignment);
        }
        out.resize(Bytes::of_len(out.len()).align_up(self.alignment).index(), 0);
        out
    }
}

/// Counts what passes.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_padding(out: &mut dyn Write, written: u64, alignment: u64) -> io::Result<()> {
    let missing = Bytes(written).align_up(alignment).0 - written;
    io::copy(&mut io::Read::take(io::repeat(0), missing), out).map(|_| ())
}

/// Runs of tensors of about the same number of bytes, none empty.
fn equal_parts(tensors: &[TensorSpec], count: usize) -> Vec<Range<usize>> {
    let total: u128 = tensors.iter().map(|t| u128::from(t.bytes.0)).sum();
    let (mut parts, mut start, mut sum) = (Vec::new(), 0, 0);
    for part in 1..=count {
        let last = tensors.len() - (count - part);
        let mut end = start;
        while end < last && (end == start || sum * (count as u128) < total * part as u128) {
            sum += u128::from(tensors[end].bytes.0);
            end += 1;
        }
        let end = if part == count { tensors.len() } else { end };
        parts.push(start..end);
        start = end;
    }
    parts
}

fn check_value(key: &str, value: &MetaValue, depth: u32) -> Result<(), WriteError> {
    let MetaValue::Array(needed, elements) = value else { return Ok(()) };
    if depth >= MAX_NESTING {
        return Err(WriteError::Nesting { key: key.to_owned() });
    }
    for element in elements {
        let (needed, found) = (*needed, element.kind());
        if found != needed {
            return Err(WriteError::Mixed { key: key.to_owned(), needed, found });
        }
        check_value(key, element, depth + 1)?;
    }
    Ok(())
}

fn failed(file: &str, action: &'static str) -> impl FnOnce(io::Error) -> WriteError + use<> {
    let file = file.to_owned();
    move |source| WriteError::Io { file, action, source }
}
