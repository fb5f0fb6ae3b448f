//! Buffers of the CPU backend: zeroed huge-page memory, or host memory used in place.
//! Hands out raw ranges; who may touch one, and when, is the plan's and the program's to say.
#![allow(unsafe_code)]

use std::sync::Arc;

use memmap2::{Advice, MmapMut, MmapOptions};

use crate::backend::{BackendError, BufferId, BufferSpan, HostBytes};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::units::Bytes;

/// One buffer; kept alive by the programs that were prepared on it.
pub struct Buffer {
    owner: Owner,
    start: *mut u8,
    len: usize,
}

enum Owner {
    Anonymous { _map: MmapMut },
    Host { _bytes: HostBytes },
    Empty,
}

// SAFETY: the memory behind `start` belongs to `owner`, which moves with the buffer; all access goes through `Raw`,
// whose users promise not to race.
unsafe impl Send for Buffer {}
// SAFETY: as above; `&Buffer` alone reads no byte.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeroed memory in huge pages where the system has them.
    pub fn zeroed(bytes: Bytes) -> std::io::Result<Buffer> {
        if bytes == Bytes::ZERO {
            return Ok(Buffer { owner: Owner::Empty, start: std::ptr::NonNull::dangling().as_ptr(), len: 0 });
        }
        let mut map = MmapOptions::new().len(bytes.index()).map_anon()?;
        // A system without huge pages refuses the advice; small pages then serve.
        let _ = map.advise(Advice::HugePage);
        let start = map.as_mut_ptr();
        Ok(Buffer { owner: Owner::Anonymous { _map: map }, start, len: bytes.index() })
    }

    /// Host memory, read-only.
    pub fn adopted(bytes: HostBytes) -> Buffer {
        let slice: &[u8] = (*bytes).as_ref();
        let (start, len) = (slice.as_ptr().cast_mut(), slice.len());
        Buffer { owner: Owner::Host { _bytes: bytes }, start, len }
    }

    /// Whether kernels may write to it.
    pub fn writable(&self) -> bool {
        match &self.owner {
            Owner::Anonymous { .. } | Owner::Empty => true,
            Owner::Host { .. } => false,
        }
    }

    /// Its size.
    pub fn bytes(&self) -> Bytes {
        Bytes::of_len(self.len)
    }

    /// All of it.
    pub fn whole(self) -> Raw {
        let (start, len) = (self.start, self.len);
        Raw { start, len, _buffer: Arc::new(self) }
    }

    /// A range of it, or `None` where the range leaves it.
    pub fn raw(self: &Arc<Buffer>, span: Span) -> Option<Raw> {
        let end = span.offset.checked_add(span.len)?;
        (end <= self.bytes()).then(|| Raw {
            // SAFETY: the range was just checked to lie inside the allocation.
            start: unsafe { self.start.add(span.offset.index()) },
            len: span.len.index(),
            _buffer: Arc::clone(self),
        })
    }
}

/// A buffer's memory for others to read, who keep it alive.
struct Lent(Arc<Buffer>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the allocation lives as long as the buffer; who borrows it does so while nobody writes to it.
        unsafe { std::slice::from_raw_parts(self.0.start, self.0.len) }
    }
}

/// A range of a live buffer.
#[derive(Clone)]
pub struct Raw {
    start: *mut u8,
    len: usize,
    _buffer: Arc<Buffer>,
}

// SAFETY: a range is an address and a length; dereferencing it is unsafe and states its own conditions.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Raw {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The first element, for kernels that write through views of their own.
    pub fn as_mut_ptr<T>(&self) -> *mut T {
        self.start.cast()
    }

    /// Copies a range of the same length, which may overlap this one.
    ///
    /// # Safety
    /// Nobody else writes `src` or touches this range meanwhile, and the buffer is writable.
    pub unsafe fn copy_from(&self, src: &Raw) {
        assert_eq!(self.len, src.len, "ranges of one length");
        // SAFETY: both ranges lie in live allocations; `copy` allows overlap; nobody races by the caller's promise.
        unsafe { std::ptr::copy(src.start, self.start, self.len) };
    }

    /// Whether two ranges share a byte.
    pub fn meets(&self, other: &Raw) -> bool {
        let (a, b) = (self.start as usize, other.start as usize);
        self.len > 0 && other.len > 0 && a < b + other.len && b < a + self.len
    }

    /// Bytes of the range.
    ///
    /// # Safety
    /// Nobody writes to the range while the slice lives.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in a live allocation; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Elements of the range.
    ///
    /// # Safety
    /// Nobody writes to the range while the slice lives.
    pub unsafe fn slice<T: bytemuck::AnyBitPattern>(&self) -> &[T] {
        // SAFETY: passed on to the caller.
        bytemuck::cast_slice(unsafe { self.bytes() })
    }

    /// Elements `range` of the range, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes these elements while the slice lives, and the buffer is writable.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise, not the borrow checker's")]
    pub unsafe fn slice_mut<T: bytemuck::Pod>(&self, range: std::ops::Range<usize>) -> &mut [T] {
        let size = size_of::<T>();
        assert!(range.start <= range.end && range.end <= self.len / size, "{range:?} of {} elements", self.len / size);
        // SAFETY: in range by the assertion; exclusive by the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start * size), range.len() * size) };
        bytemuck::cast_slice_mut(bytes)
    }

    /// A part of the range.
    pub fn part(&self, offset: usize, len: usize) -> Raw {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "{offset} + {len} of {}", self.len);
        // SAFETY: inside the range by the assertion.
        Raw { start: unsafe { self.start.add(offset) }, len, _buffer: Arc::clone(&self._buffer) }
    }
}

/// All buffers of one device.
#[derive(Default)]
pub struct Buffers {
    table: IndexVec<BufferId, Option<Arc<Buffer>>>,
}

impl Buffers {
    /// Adds a buffer.
    pub fn add(&mut self, buffer: Buffer) -> BufferId {
        self.table.push(Some(Arc::new(buffer)))
    }

    /// Drops the table's hold on a buffer.
    pub fn remove(&mut self, device: &str, id: BufferId) -> Result<(), BackendError> {
        self.get(device, id)?;
        self.table[id] = None;
        Ok(())
    }

    /// A range of a buffer, writable if asked.
    pub fn raw(&self, device: &str, at: BufferSpan, write: bool) -> Result<Raw, BackendError> {
        let buffer = self.get(device, at.buffer)?;
        if write && !buffer.writable() {
            return Err(BackendError::ReadOnly { device: device.into(), buffer: at.buffer });
        }
        buffer.raw(at.span).ok_or_else(|| BackendError::OutOfBuffer {
            device: device.into(),
            buffer: at.buffer,
            span: at.span,
            len: buffer.bytes(),
        })
    }

    /// The memory of a buffer, for others to read while nobody writes to it. A file's mapping is not lent: it may be larger
    /// than what can be pinned.
    pub fn lend(&self, id: BufferId) -> Option<HostBytes> {
        let buffer = self.table.get(id).and_then(Option::as_ref)?;
        match &buffer.owner {
            Owner::Anonymous { .. } => Some(Arc::new(Lent(Arc::clone(buffer)))),
            Owner::Host { .. } | Owner::Empty => None,
        }
    }

    /// Bytes allocated and not freed; adopted host memory does not count.
    pub fn allocated(&self) -> Bytes {
        self.table.iter().flatten().filter(|b| b.writable()).map(|b| b.bytes()).sum()
    }

    fn get(&self, device: &str, id: BufferId) -> Result<&Arc<Buffer>, BackendError> {
        let found = self.table.get(id).and_then(Option::as_ref);
        found.ok_or_else(|| BackendError::NoBuffer { device: device.into(), buffer: id })
    }
}
