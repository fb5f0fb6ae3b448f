//! Streams of a card, marks in them, launches, and launches that were recorded to be replayed at once.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::{Context, DeviceBytes, Function, Refused, told};

/// Work that a card does in order.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    stream: sys::CUstream,
}

// SAFETY: a stream is a name that any thread may use while its context is current there.
unsafe impl Send for Stream {}
// SAFETY: the driver locks a stream while it takes work.
unsafe impl Sync for Stream {}

/// A kernel's launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// What runs.
    pub function: &'a Function,
    /// Blocks along each axis, none of them without any.
    pub grid: (u32, u32, u32),
    /// Threads of a block.
    pub threads: u32,
    /// Bytes that they share beside what the kernel itself says.
    pub shared: u32,
    /// The kernel's one parameter: of the size that it was compiled for.
    pub params: &'a [u64],
}

impl Stream {
    /// A new one, which waits for no other.
    ///
    /// # Errors
    /// The driver refuses, here and below.
    pub fn new(context: &Arc<Context>) -> Result<Stream, Refused> {
        context.bind()?;
        let stream = told("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        Ok(Stream { context: Arc::clone(context), stream })
    }

    /// Begins to copy host bytes to `dst` from byte `at` on. They must stay as they are until a later mark is reached:
    /// who calls keeps them in pinned memory that nobody writes before.
    ///
    /// # Errors
    /// The range leaves the buffer, or the driver refuses.
    pub fn bring(&self, src: &[u8], dst: &DeviceBytes, at: u64) -> Result<(), Refused> {
        let to = inside("cuMemcpyHtoDAsync", dst, at..at + src.len() as u64)?;
        self.context.bind()?;
        // SAFETY: the range lies in the buffer; the bytes stay, as promised.
        told("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, src, self.stream) })
    }

    /// Begins to copy bytes of `src` from byte `at` on to pinned host memory, which nobody reads or writes before a later
    /// mark is reached.
    ///
    /// # Errors
    /// As for [`Stream::bring`].
    pub fn fetch(&self, src: &DeviceBytes, at: u64, dst: &mut [u8]) -> Result<(), Refused> {
        let from = inside("cuMemcpyDtoHAsync", src, at..at + dst.len() as u64)?;
        self.context.bind()?;
        // SAFETY: the range lies in the buffer; the bytes are left alone, as promised.
        told("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(dst, from, self.stream) })
    }

    /// Begins to copy within the card.
    ///
    /// # Errors
    /// As for [`Stream::bring`].
    pub fn copy(
        &self,
        (src, from): (&DeviceBytes, u64),
        (dst, to): (&DeviceBytes, u64),
        len: u64,
    ) -> Result<(), Refused> {
        let from = inside("cuMemcpyDtoDAsync", src, from..from + len)?;
        let to = inside("cuMemcpyDtoDAsync", dst, to..to + len)?;
        self.context.bind()?;
        // SAFETY: both ranges lie in their buffers.
        told("cuMemcpyDtoDAsync", unsafe { result::memcpy_dtod_async(to, from, len as usize, self.stream) })
    }

    /// Begins a launch.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<(), Refused> {
        let Launch { function, grid, threads, shared, params } = *launch;
        self.context.bind()?;
        let mut params = [params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the function is loaded; its parameter has the size that it was compiled for, and is read before this
        // returns. What the kernel writes lies in buffers of the card, as those who prepare launches see to.
        let done = unsafe {
            result::launch_kernel(function.handle(), grid, (threads, 1, 1), shared, self.stream, &mut params)
        };
        told(function.name(), done)
    }

    /// Records what `work` begins on this stream instead of doing it. Nobody else may use the stream meanwhile.
    ///
    /// # Errors
    /// The driver refuses, or `work` fails.
    pub fn record(&self, work: impl FnOnce() -> Result<(), Refused>) -> Result<Replay, Refused> {
        self.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        told("cuStreamBeginCapture", unsafe { result::stream::begin_capture(self.stream, mode) })?;
        let worked = work();
        // SAFETY: as above.
        let graph = told("cuStreamEndCapture", unsafe { result::stream::end_capture(self.stream) });
        worked?;
        let graph = graph?;
        // SAFETY: the graph was recorded just now, and is not needed once it has been made ready to run.
        let ready = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above.
        let freed = unsafe { result::graph::destroy(graph) };
        let replay = Replay { context: Arc::clone(&self.context), ready: told("cuGraphInstantiate", ready)? };
        told("cuGraphDestroy", freed)?;
        Ok(replay)
    }

    /// Begins what was recorded.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn replay(&self, replay: &Replay) -> Result<(), Refused> {
        self.context.bind()?;
        // SAFETY: both are alive and of one context.
        told("cuGraphLaunch", unsafe { result::graph::launch(replay.ready, self.stream) })
    }

    /// Marks what was begun so far.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn mark(&self, mark: &Mark) -> Result<(), Refused> {
        self.context.bind()?;
        // SAFETY: both are alive and of one context.
        told("cuEventRecord", unsafe { result::event::record(mark.event, self.stream) })
    }

    /// What is begun later waits for a mark of another stream.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn wait(&self, mark: &Mark) -> Result<(), Refused> {
        self.context.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        told("cuStreamWaitEvent", unsafe { result::stream::wait_event(self.stream, mark.event, flags) })
    }

    /// Returns when all that was begun is done.
    ///
    /// # Errors
    /// The driver refuses, or what was begun failed.
    pub fn finish(&self) -> Result<(), Refused> {
        self.context.bind()?;
        // SAFETY: it is alive.
        told("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // What memory was lent for is over before that is given back; a lost card has ended all.
            // SAFETY: made by `new`, destroyed once.
            let _ = unsafe { result::stream::synchronize(self.stream) };
            // SAFETY: as above.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

/// The address of a range, if the buffer has it.
fn inside(call: &'static str, buffer: &DeviceBytes, range: Range<u64>) -> Result<u64, Refused> {
    buffer.range(&range).ok_or(Refused { call, status: sys::CUresult::CUDA_ERROR_INVALID_VALUE })
}

/// A place in a stream.
#[derive(Debug)]
pub struct Mark {
    context: Arc<Context>,
    event: sys::CUevent,
}

// SAFETY: an event is a name that any thread may use while its context is current there.
unsafe impl Send for Mark {}
// SAFETY: the driver locks an event while it is recorded or waited for.
unsafe impl Sync for Mark {}

impl Mark {
    /// A new one, which is nowhere: whoever waits for it waits for nothing.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn new(context: &Arc<Context>) -> Result<Mark, Refused> {
        context.bind()?;
        let event = told("cuEventCreate", result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        Ok(Mark { context: Arc::clone(context), event })
    }

    /// Returns when what was marked is done.
    ///
    /// # Errors
    /// The driver refuses, or the work failed.
    pub fn reach(&self) -> Result<(), Refused> {
        self.context.bind()?;
        // SAFETY: it is alive.
        told("cuEventSynchronize", unsafe { result::event::synchronize(self.event) })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made by `new`, destroyed once; the driver does so when nobody waits for it.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Work that was recorded.
#[derive(Debug)]
pub struct Replay {
    context: Arc<Context>,
    ready: sys::CUgraphExec,
}

// SAFETY: a name, as above; who has it uses it on one stream at a time.
unsafe impl Send for Replay {}

impl Drop for Replay {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made by `record`, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.ready) };
        }
    }
}
