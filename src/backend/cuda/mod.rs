//! The CUDA backend: whole splits as launches of kernels that are compiled for the card at hand, on three streams. Weights
//! stay in the file's blocks and are decoded where they are multiplied; rows of caches lie as files hold them. Nothing of
//! CUDA is needed to build; a machine without a driver has no such device, and says so.

mod attention;
mod buffers;
mod build;
mod cards;
mod cells;
mod driver;
mod fused;
mod kernels;
mod operands;
mod product;
mod program;
mod queues;
mod texts;

use std::sync::{Arc, Mutex, RwLock};

use self::buffers::{Buffer, Buffers};
use self::build::refused;
use self::cells::Caches;
use self::driver::{Context, DeviceBytes, LentBytes, Refused, Trouble};
use self::kernels::Kernels;
use self::program::Program;
use self::queues::{Place, Queues, locked};
use super::{
    ArgLimits, Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTurn,
    Event, HostBytes, ProgramId, Queue, SplitWork, arguments, kept,
};
use crate::device::DeviceSpec;
use crate::graph::StateId;
use crate::index::IndexVec;
use crate::units::Bytes;

pub use self::cards::{CardFacts, cards};
pub use self::kernels::files;
pub use self::texts::{KernelText, kernel_texts};

/// One card, or a part of one, with memory of its own.
pub struct CudaBackend {
    spec: DeviceSpec,
    context: Arc<Context>,
    queues: Queues,
    kernels: Kernels,
    buffers: RwLock<Buffers>,
    /// Each held while a step is begun on it.
    programs: RwLock<IndexVec<ProgramId, Option<Arc<Mutex<Begun>>>>>,
    caches: RwLock<IndexVec<CachesId, Arc<Mutex<Caches>>>>,
}

/// A program, and the words of its step.
struct Begun {
    program: Program,
    words: Vec<u32>,
}

impl CudaBackend {
    /// Opens the card whose number the name of `spec` ends with, or the first; compiled kernels are kept in the user's
    /// cache folder.
    ///
    /// # Errors
    /// There is no such card or no compiler, or the driver refuses.
    pub fn new(spec: DeviceSpec) -> Result<CudaBackend, BackendError> {
        let ordinal = spec.name.rsplit_once(':').and_then(|(_, number)| number.parse().ok()).unwrap_or(0);
        CudaBackend::on(spec, ordinal)
    }

    /// Opens a card by its number, whatever the device is called: several may share one, each with memory of its own.
    ///
    /// # Errors
    /// As for [`CudaBackend::new`].
    pub fn on(spec: DeviceSpec, ordinal: u32) -> Result<CudaBackend, BackendError> {
        let device = spec.name.clone();
        let sound = |why| BackendError::Worker { device: device.clone(), why };
        CudaBackend::open(spec, ordinal).map_err(|why| why.error(&device, Bytes::ZERO, sound))
    }

    fn open(spec: DeviceSpec, ordinal: u32) -> Result<CudaBackend, Trouble> {
        let count = driver::cards()?;
        if ordinal >= count {
            return Err(format!("there is no card {ordinal}, the driver has {count}").into());
        }
        let context = Context::open(ordinal)?;
        Ok(CudaBackend {
            queues: Queues::new(&context)?,
            kernels: Kernels::new(&context, kept::folder().as_deref())?,
            spec,
            context,
            buffers: RwLock::default(),
            programs: RwLock::default(),
            caches: RwLock::default(),
        })
    }

    /// What a call fails with that needed so much memory.
    fn failed(&self, need: Bytes, refused: Refused) -> BackendError {
        let device = self.spec.name.clone();
        Trouble::from(refused).error(&self.spec.name, need, |why| BackendError::Worker { device, why })
    }

    fn told<T>(&self, outcome: Result<T, Refused>) -> Result<T, BackendError> {
        outcome.map_err(|why| self.failed(Bytes::ZERO, why))
    }

    fn same_len(&self, needed: Bytes, found: usize) -> Result<(), BackendError> {
        super::same_len(&self.spec.name, needed, found)
    }

    fn known(&self, events: &[Event]) -> Result<(), BackendError> {
        super::known(&self.spec.name, self.queues.last(), events)
    }

    /// A span's memory, which stays while the call lasts, and where it begins.
    fn place(&self, at: BufferSpan) -> Result<(Arc<DeviceBytes>, u64), BackendError> {
        let buffers = read(&self.buffers);
        buffers.place(&self.spec.name, at).map(|(memory, at)| (Arc::clone(memory), at))
    }

    fn caches(&self, caches: CachesId) -> Result<Arc<Mutex<Caches>>, BackendError> {
        let found = read(&self.caches).get(caches).cloned();
        found.ok_or_else(|| BackendError::NoCaches { device: self.spec.name.clone(), caches })
    }
}

impl Backend for CudaBackend {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn alloc(&self, _kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError> {
        let made = DeviceBytes::new(&self.context, bytes.index()).map_err(|why| self.failed(bytes, why))?;
        Ok(write(&self.buffers).add(Buffer::Device(Arc::new(made))))
    }

    fn adopt(&self, bytes: HostBytes) -> Result<BufferId, BackendError> {
        let lent = self.told(LentBytes::new(&self.context, bytes))?;
        Ok(write(&self.buffers).add(Buffer::Lent(Arc::new(lent))))
    }

    fn free(&self, buffer: BufferId) -> Result<(), BackendError> {
        let freed = write(&self.buffers).remove(&self.spec.name, buffer)?;
        // What is under way may still touch it.
        let finished = self.told(self.queues.finish());
        drop(freed);
        finished
    }

    fn allocated(&self) -> Bytes {
        read(&self.buffers).allocated()
    }

    fn write(&self, queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
        self.same_len(dst.span.len, src.len())?;
        self.known(waits)?;
        let (memory, at) = self.place(dst)?;
        self.told(self.queues.write(queue, (src, Place { memory: &memory, at }), waits, |_| Ok(())))
    }

    fn read(&self, queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
        self.same_len(src.span.len, dst.len())?;
        self.known(waits)?;
        let (memory, at) = self.place(src)?;
        self.told(self.queues.read(queue, (Place { memory: &memory, at }, dst), waits))
    }

    fn copy(&self, queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError> {
        self.same_len(dst.span.len, src.span.len.index())?;
        self.known(waits)?;
        let (to, at) = self.place(dst)?;
        let (from, first) = read(&self.buffers).source(&self.spec.name, src).map(|(from, at)| (from.clone(), at))?;
        let len = src.span.len;
        self.told(self.queues.begin(queue, waits, |stream| match &from {
            Buffer::Device(from) => stream.copy((from, first), (&to, at), len.0),
            // It stays as it is and where it is until the buffer is freed.
            Buffer::Lent(from) => stream.bring(&from.bytes()[first as usize..][..len.index()], &to, at),
        }))
    }

    fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError> {
        let limits = ArgLimits::of(work);
        let words = arguments::usual_words(&limits);
        let (drafts, constants) = build::drafts(&self.spec, &self.kernels, &read(&self.buffers), work)?;
        let made = Program::new(&self.kernels, &self.context, limits, (drafts, constants), words);
        let need = Bytes::of_len(4 * words);
        let refused = |why| refused(&self.spec.name, need, "the split".into(), why);
        let begun = Begun { program: made.map_err(refused)?, words: Vec::with_capacity(words) };
        Ok(write(&self.programs).push(Some(Arc::new(Mutex::new(begun)))))
    }

    fn discard(&self, program: ProgramId) -> Result<(), BackendError> {
        let gone = write(&self.programs).get_mut(program).and_then(Option::take);
        gone.map(|_| ()).ok_or_else(|| BackendError::NoProgram { device: self.spec.name.clone(), program })
    }

    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
        self.known(waits)?;
        let found = read(&self.programs).get(program).cloned().flatten();
        let found = found.ok_or_else(|| BackendError::NoProgram { device: self.spec.name.clone(), program })?;
        let mut begun = locked(&found);
        let Begun { program, words } = &mut *begun;
        program.limits.admit(&self.spec.name, args)?;
        arguments::write(args, words);
        // Sequences that share pages have a table each.
        let need = Bytes::of_len(4 * words.len());
        let room = program.words(&self.context, words.len()).map_err(|why| self.failed(need, why))?;
        let (bytes, place) = (bytemuck::cast_slice(words), Place { memory: &room, at: 0 });
        let rows = (args.tokens, args.outputs);
        self.told(self.queues.write(Queue::Compute, (bytes, place), waits, |stream| program.run(stream, rows)))
    }

    fn prepare_caches(&self, work: &CacheWork<'_>) -> Result<CachesId, BackendError> {
        let made = Caches::prepare(&self.spec.name, &self.kernels, &read(&self.buffers), work)?;
        Ok(write(&self.caches).push(Arc::new(Mutex::new(made))))
    }

    fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError> {
        self.known(waits)?;
        let caches = self.caches(caches)?;
        let mut caches = locked(&caches);
        caches.limits.admit_moves(&self.spec.name, moves)?;
        self.told(caches.rearrange(&self.queues, moves, waits))
    }

    fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError> {
        self.known(waits)?;
        let caches = self.caches(caches)?;
        let mut caches = locked(&caches);
        caches.limits.admit_turns(&self.spec.name, turns)?;
        self.told(caches.turn(&self.queues, turns, waits))
    }

    fn read_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), BackendError> {
        self.known(waits)?;
        let caches = self.caches(caches)?;
        let mut caches = locked(&caches);
        caches.limits.admit_rows(&self.spec.name, state, cells, dst.len())?;
        self.told(caches.read(&self.queues, (state, cells), dst, waits))
    }

    fn write_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        src: &[u8],
        waits: &[Event],
    ) -> Result<Event, BackendError> {
        self.known(waits)?;
        let caches = self.caches(caches)?;
        let mut caches = locked(&caches);
        caches.limits.admit_rows(&self.spec.name, state, cells, src.len())?;
        self.told(caches.write(&self.queues, (state, cells), src, waits))
    }

    fn wait(&self, event: Event) -> Result<(), BackendError> {
        self.known(&[event])?;
        self.told(self.queues.reach(event))
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
