//! Memory of a card, and host memory that it copies from at full speed.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::{Context, Refused, told};
use crate::backend::HostBytes;

/// Kernels read words of sixteen bytes that hold a byte they need: so many more bytes are there.
const BEHIND: usize = 256;

/// Bytes of a card. Freeing waits for what is under way there.
#[derive(Debug)]
pub struct DeviceBytes {
    pub(super) context: Arc<Context>,
    at: u64,
    len: usize,
}

impl DeviceBytes {
    /// New bytes, all zero.
    ///
    /// # Errors
    /// The card lacks memory.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<DeviceBytes, Refused> {
        context.bind()?;
        let context = Arc::clone(context);
        if len == 0 {
            return Ok(DeviceBytes { context, at: 0, len });
        }
        // SAFETY: the context is current; nothing is done with the address but here.
        let at = told("cuMemAlloc", unsafe { result::malloc_sync(len + BEHIND) })?;
        let made = DeviceBytes { context, at, len };
        // SAFETY: the bytes were allocated just now.
        told("cuMemsetD8", unsafe { result::memset_d8_sync(at, 0, len + BEHIND) })?;
        // Other streams do not wait for the one that has just been told to.
        // SAFETY: it is that of the current context.
        told("cuStreamSynchronize", unsafe { result::stream::synchronize(result::stream::null()) })?;
        Ok(made)
    }

    /// A copy of bytes.
    ///
    /// # Errors
    /// The card lacks memory.
    pub fn holding(context: &Arc<Context>, bytes: &[u8]) -> Result<DeviceBytes, Refused> {
        let made = DeviceBytes::new(context, bytes.len())?;
        if !bytes.is_empty() {
            // SAFETY: so many bytes were allocated just now; the call returns when they are there.
            told("cuMemcpyHtoD", unsafe { result::memcpy_htod_sync(made.at, bytes) })?;
            // SAFETY: as in `new`.
            told("cuStreamSynchronize", unsafe { result::stream::synchronize(result::stream::null()) })?;
        }
        Ok(made)
    }

    /// The address of byte `at`, for kernels.
    pub fn address(&self, at: u64) -> u64 {
        self.at + at
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of a range that lies in it.
    pub(super) fn range(&self, range: &Range<u64>) -> Option<u64> {
        (range.start <= range.end && range.end <= self.len as u64).then(|| self.at + range.start)
    }
}

impl Drop for DeviceBytes {
    fn drop(&mut self) {
        if self.len > 0 && self.context.bind().is_ok() {
            // SAFETY: allocated by `new`, freed once. A lost card has nothing to free.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Host memory that a card copies from and to by itself. What is in it while it does is the business of who has it:
/// [`Stream`](super::Stream) reads and writes it only between marks that its callers wait for.
#[derive(Debug)]
pub struct PinnedBytes {
    context: Arc<Context>,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes belong to the value, and any thread may read and write them.
unsafe impl Send for PinnedBytes {}

impl PinnedBytes {
    /// New bytes, all zero; `len` is at least one.
    ///
    /// # Errors
    /// The system gives none.
    pub fn new(context: &Arc<Context>, len: usize) -> Result<PinnedBytes, Refused> {
        context.bind()?;
        // SAFETY: the context is current; without flags the memory is plain, and cached.
        let at = told("cuMemHostAlloc", unsafe { result::malloc_host(len.max(1), 0) })?;
        let unknown = Refused { call: "cuMemHostAlloc", status: sys::CUresult::CUDA_ERROR_UNKNOWN };
        let at = NonNull::new(at.cast::<u8>()).ok_or(unknown)?;
        // SAFETY: so many bytes were allocated just now.
        unsafe { at.write_bytes(0, len.max(1)) };
        Ok(PinnedBytes { context: Arc::clone(context), at, len })
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and written by `new`; who lets a card write them waits for its end before it looks.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// The same to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for PinnedBytes {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated by `new`, freed once.
            let _ = unsafe { result::free_host(self.at.as_ptr().cast::<c_void>()) };
        }
    }
}

/// Host memory of somebody else that a card copies from by itself, as long as it is held.
pub struct LentBytes {
    context: Arc<Context>,
    bytes: HostBytes,
    /// The pages that it lies in.
    pages: *mut c_void,
}

// SAFETY: the pages are only a name for what was registered; the bytes may be read by any thread.
unsafe impl Send for LentBytes {}
// SAFETY: as above.
unsafe impl Sync for LentBytes {}

/// Pages are registered whole.
const PAGE: usize = 4096;

impl LentBytes {
    /// Registers memory that stays where it is.
    ///
    /// # Errors
    /// The system does not pin so much, or some of it is registered already.
    pub fn new(context: &Arc<Context>, bytes: HostBytes) -> Result<LentBytes, Refused> {
        context.bind()?;
        let slice: &[u8] = (*bytes).as_ref();
        let first = slice.as_ptr() as usize / PAGE * PAGE;
        let len = (slice.as_ptr() as usize + slice.len()).next_multiple_of(PAGE) - first;
        let pages = first as *mut c_void;
        // SAFETY: the pages are mapped as long as the bytes are, and these are held until they are registered no more.
        let register = |flags| unsafe { sys::cuMemHostRegister_v2(pages, len, flags) }.result();
        // Pages that are not to be written are registered only as such, where a card can.
        let registered = register(0).or_else(|_| register(sys::CU_MEMHOSTREGISTER_READ_ONLY));
        told("cuMemHostRegister", registered)?;
        Ok(LentBytes { context: Arc::clone(context), bytes, pages })
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

impl Drop for LentBytes {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // Nothing copies from it any more.
            let _ = result::ctx::synchronize();
            // SAFETY: registered by `new`, once, and the bytes are still held.
            let _ = unsafe { sys::cuMemHostUnregister(self.pages) };
        }
    }
}
