//! Devices whose calls can be looked at, held up, or refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use loadmaster::backend::{
    self, Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTurn,
    Event, HostBytes, ProgramId, Queue, SplitWork,
};
use loadmaster::device::DeviceSpec;
use loadmaster::engine::Opener;
use loadmaster::graph::StateId;
use loadmaster::units::Bytes;

/// A call that a device may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Alloc(Bytes),
    Write(Queue),
    Read,
    Copy,
    Prepare,
    Submit,
    PrepareCaches,
    Rearrange,
    Turn,
    ReadCells,
    WriteCells,
    Wait,
}

/// Asked before a call is made.
pub type Hook = Arc<dyn Fn(&DeviceSpec, Call) -> Result<(), BackendError> + Send + Sync>;

/// Told how long writes and splits took, with what the hook took of it.
pub type Timed = Arc<dyn Fn(&DeviceSpec, Call, Duration) + Send + Sync>;

/// Opens devices of this version that ask `hook` before every call.
pub fn hooked(hook: Hook) -> Opener {
    timed(hook, Arc::new(|_, _, _| {}))
}

/// The same, and `timed` is told of the calls that work.
pub fn timed(hook: Hook, timed: Timed) -> Opener {
    Arc::new(move |spec| {
        let (inner, hook, timed) = (backend::open(spec)?, Arc::clone(&hook), Arc::clone(&timed));
        Ok(Box::new(Hooked { inner, hook, timed }))
    })
}

/// Calls that are let through before one fails; below zero none does.
pub type Fuse = Arc<AtomicI64>;

/// Lets calls through until the fuse has burnt down.
pub fn burn(fuse: &Fuse, device: &DeviceSpec) -> Result<(), BackendError> {
    match fuse.fetch_sub(1, Ordering::SeqCst) {
        0 => Err(BackendError::Worker { device: device.name.clone(), why: "a fault".into() }),
        _ => Ok(()),
    }
}

/// Devices of which a call fails now and then, but none that allocates; they share a fuse.
pub fn faulty(fuse: &Fuse) -> Opener {
    let fuse = Arc::clone(fuse);
    hooked(Arc::new(move |spec, call| if matches!(call, Call::Alloc(_)) { Ok(()) } else { burn(&fuse, spec) }))
}

/// The methods of a backend that only pass on to `self.inner`, by name. Types are those of the caller.
macro_rules! pass_on {
    ($($method:ident)*) => { $(pass_on!(@ $method);)* };
    (@ spec) => {
        fn spec(&self) -> &DeviceSpec {
            self.inner.spec()
        }
    };
    (@ alloc) => {
        fn alloc(&self, kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError> {
            self.inner.alloc(kind, bytes)
        }
    };
    (@ adopt) => {
        fn adopt(&self, bytes: HostBytes) -> Result<BufferId, BackendError> {
            self.inner.adopt(bytes)
        }
    };
    (@ free) => {
        fn free(&self, buffer: BufferId) -> Result<(), BackendError> {
            self.inner.free(buffer)
        }
    };
    (@ allocated) => {
        fn allocated(&self) -> Bytes {
            self.inner.allocated()
        }
    };
    (@ write) => {
        fn write(&self, queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
            self.inner.write(queue, dst, src, waits)
        }
    };
    (@ read) => {
        fn read(&self, queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
            self.inner.read(queue, src, dst, waits)
        }
    };
    (@ copy) => {
        fn copy(&self, queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError> {
            self.inner.copy(queue, src, dst, waits)
        }
    };
    (@ prepare) => {
        fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError> {
            self.inner.prepare(work)
        }
    };
    (@ discard) => {
        fn discard(&self, program: ProgramId) -> Result<(), BackendError> {
            self.inner.discard(program)
        }
    };
    (@ submit) => {
        fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
            self.inner.submit(program, args, waits)
        }
    };
    (@ prepare_caches) => {
        fn prepare_caches(&self, work: &CacheWork<'_>) -> Result<CachesId, BackendError> {
            self.inner.prepare_caches(work)
        }
    };
    (@ rearrange) => {
        fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError> {
            self.inner.rearrange(caches, moves, waits)
        }
    };
    (@ turn) => {
        fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError> {
            self.inner.turn(caches, turns, waits)
        }
    };
    (@ read_cells) => {
        fn read_cells(&self, caches: CachesId, state: StateId, cells: &[u32], dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
            self.inner.read_cells(caches, state, cells, dst, waits)
        }
    };
    (@ write_cells) => {
        fn write_cells(&self, caches: CachesId, state: StateId, cells: &[u32], src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
            self.inner.write_cells(caches, state, cells, src, waits)
        }
    };
    (@ wait) => {
        fn wait(&self, event: Event) -> Result<(), BackendError> {
            self.inner.wait(event)
        }
    };
}
pub(crate) use pass_on;

struct Hooked {
    inner: Box<dyn Backend>,
    hook: Hook,
    timed: Timed,
}

impl Hooked {
    fn ask(&self, call: Call) -> Result<&dyn Backend, BackendError> {
        (self.hook)(self.inner.spec(), call).map(|()| &*self.inner)
    }

    /// Asks, works, and tells how long that took.
    fn work<T>(
        &self,
        call: Call,
        work: impl FnOnce(&dyn Backend) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let start = Instant::now();
        let done = work(self.ask(call)?);
        (self.timed)(self.inner.spec(), call, start.elapsed());
        done
    }
}

impl Backend for Hooked {
    pass_on!(spec adopt free allocated discard);

    fn alloc(&self, kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError> {
        self.ask(Call::Alloc(bytes))?.alloc(kind, bytes)
    }

    fn write(&self, queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
        self.work(Call::Write(queue), |inner| inner.write(queue, dst, src, waits))
    }

    fn read(&self, queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
        self.ask(Call::Read)?.read(queue, src, dst, waits)
    }

    fn copy(&self, queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError> {
        self.ask(Call::Copy)?.copy(queue, src, dst, waits)
    }

    fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError> {
        self.ask(Call::Prepare)?.prepare(work)
    }

    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
        self.work(Call::Submit, |inner| inner.submit(program, args, waits))
    }

    fn prepare_caches(&self, work: &CacheWork<'_>) -> Result<CachesId, BackendError> {
        self.ask(Call::PrepareCaches)?.prepare_caches(work)
    }

    fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError> {
        self.ask(Call::Rearrange)?.rearrange(caches, moves, waits)
    }

    fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError> {
        self.ask(Call::Turn)?.turn(caches, turns, waits)
    }

    fn read_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), BackendError> {
        self.ask(Call::ReadCells)?.read_cells(caches, state, cells, dst, waits)
    }

    fn write_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        src: &[u8],
        waits: &[Event],
    ) -> Result<Event, BackendError> {
        self.ask(Call::WriteCells)?.write_cells(caches, state, cells, src, waits)
    }

    fn wait(&self, event: Event) -> Result<(), BackendError> {
        self.ask(Call::Wait)?.wait(event)
    }
}
