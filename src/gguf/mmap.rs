//! A file's bytes: mapped, embedded in the program, or owned. Nothing is copied when a file is mapped.
//! Never writes. A file that someone else shortens while it is mapped kills the process with SIGBUS at the next read
//! past its new end: that is the price of mapping, and the only input that no check here can refuse.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use memmap2::{Mmap, UncheckedAdvice};

use super::GgufError;

/// One file's bytes and the name to call it in messages.
pub(super) struct Source {
    name: String,
    bytes: Storage,
}

enum Storage {
    /// Mapped read-only.
    Mapped(Mmap),
    /// Embedded and well aligned.
    Static(&'static [u8]),
    /// Owned and well aligned.
    Owned(Vec<u8>),
    /// Copied into lines, so that it is aligned, and the number of bytes.
    Copied(Vec<Line>, usize),
    /// A file of no bytes, which cannot be mapped.
    Empty,
}

/// What every source's first byte is aligned to, so that tensors in files of the usual alignment are too.
/// Allocators align to this on their own, so owned bytes are rarely copied.
#[repr(C, align(16))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u8; 16]);

impl Source {
    /// Maps a regular file.
    pub(super) fn map(path: &Path) -> Result<Source, GgufError> {
        let name = path.display().to_string();
        let io = |action| {
            let file = name.clone();
            move |source| GgufError::Io { file, action, source }
        };
        // Opening a pipe would wait for its writer, so the kind comes first.
        if !std::fs::metadata(path).map_err(io("open"))?.is_file() {
            return Err(GgufError::NotAFile { file: name });
        }
        let file = File::open(path).map_err(io("open"))?;
        let bytes = if file.metadata().map_err(io("read its size"))?.len() == 0 {
            Storage::Empty
        } else {
            // SAFETY: the map is private to this struct and read-only. Another process can still change the file under
            // it; every reader here treats the bytes as untrusted at each access and derives no invariant from a past
            // read, so changed bytes give other numbers or an error, and a shortened file gives SIGBUS, not memory errors.
            Storage::Mapped(unsafe { Mmap::map(&file) }.map_err(io("map"))?)
        };
        Ok(Source { name, bytes })
    }

    /// Takes bytes of the program itself; copies them only where they lie badly aligned.
    pub(super) fn from_static(name: &str, bytes: &'static [u8]) -> Source {
        let bytes = if is_aligned(bytes) { Storage::Static(bytes) } else { Storage::copied(bytes) };
        Source { name: name.to_owned(), bytes }
    }

    /// Takes owned bytes; copies them only where they lie badly aligned.
    pub(super) fn from_vec(name: &str, bytes: Vec<u8>) -> Source {
        let bytes = if is_aligned(&bytes) { Storage::Owned(bytes) } else { Storage::copied(&bytes) };
        Source { name: name.to_owned(), bytes }
    }

    /// The path or the name given.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Storage::Mapped(map) => map,
            Storage::Static(bytes) => bytes,
            Storage::Owned(bytes) => bytes,
            Storage::Copied(lines, len) => &bytemuck::cast_slice(lines)[..*len],
            Storage::Empty => &[],
        }
    }

    /// Gives the mapped pages wholly inside `range` back to the system; reading them later fetches them again.
    /// Does nothing for bytes that are not mapped. A refusal by the system is ignored, as this is a hint.
    pub(super) fn release(&self, range: Range<usize>) {
        let Storage::Mapped(map) = &self.bytes else { return };
        let page = page_size();
        let start = range.start.next_multiple_of(page);
        let end = range.end.min(map.len()) / page * page;
        if start < end {
            // SAFETY: MADV_DONTNEED drops pages, which for a read-only map of a file that was never written through
            // the map means that the next access reads the same bytes from the file again. The range is whole pages
            // inside the map.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

impl Storage {
    fn copied(bytes: &[u8]) -> Storage {
        let mut lines = vec![Line::zeroed(); bytes.len().div_ceil(size_of::<Line>())];
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Storage::Copied(lines, bytes.len())
    }
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(align_of::<Line>())
}

fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096).max(4096)
}
