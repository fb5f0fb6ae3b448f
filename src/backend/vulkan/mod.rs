//! The Vulkan backend: whole splits as compute passes of one queue, through wgpu. Weights stay in the file's blocks and are
//! decoded where they are multiplied; rows of caches lie as files hold them. A machine without a driver has no such
//! device, and says so.

mod adapters;
mod build;
mod cells;
mod faults;
mod flights;
mod gpu;
mod heaps;
mod kernel;
mod memory;
mod operands;
mod product;
mod program;

use std::sync::{Arc, Mutex, MutexGuard};

use self::cells::Caches;
use self::flights::{Flights, PIECE};
use self::gpu::locked;
use self::memory::{Buffers, Memory};
use self::program::{Arguments, Dispatch};
use super::{
    ArgLimits, Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTurn,
    Event, HostBytes, ProgramId, Queue, SplitWork, arguments, kept,
};
use crate::device::DeviceSpec;
use crate::graph::StateId;
use crate::index::IndexVec;
use crate::units::Bytes;

pub use self::adapters::{AdapterFacts, adapters};
pub use self::gpu::{Caps, Gpu};
pub use self::kernel::can_read;

/// One Vulkan device with memory of its own.
pub struct VulkanBackend {
    spec: DeviceSpec,
    gpu: Arc<Gpu>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    buffers: Buffers,
    programs: IndexVec<ProgramId, Option<Program>>,
    caches: IndexVec<CachesId, Caches>,
    flights: Flights,
    /// The words of the step at hand.
    words: Vec<u32>,
}

/// A prepared split.
struct Program {
    limits: ArgLimits,
    dispatches: Vec<Dispatch>,
    arguments: Option<Arguments>,
}

impl VulkanBackend {
    /// Opens the adapter whose number the name of `spec` ends with, or the first.
    ///
    /// # Errors
    /// There is no such adapter, or it gives no device.
    pub fn new(spec: DeviceSpec) -> Result<VulkanBackend, BackendError> {
        let index = spec.name.rsplit_once(':').and_then(|(_, number)| number.parse().ok()).unwrap_or(0);
        match Gpu::open_keeping(index, Caps::DEVICE, kept::folder().as_deref()) {
            Ok(gpu) => Ok(VulkanBackend::over(spec, gpu)),
            Err(why) => Err(BackendError::Worker { device: spec.name, why }),
        }
    }

    /// A backend over a device that is open, perhaps beside others.
    pub fn over(spec: DeviceSpec, gpu: Arc<Gpu>) -> VulkanBackend {
        VulkanBackend { spec, gpu, tables: Mutex::default() }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        locked(&self.tables)
    }

    fn failed(&self, why: String) -> BackendError {
        failed(&self.gpu, &self.spec.name, why)
    }

    /// An error, or that the device is gone where it is.
    fn told(&self, why: BackendError) -> BackendError {
        if !self.gpu.is_lost() {
            return why;
        }
        self.gpu.sound().map_or_else(|lost| self.failed(lost), |()| why)
    }

    fn same_len(&self, needed: Bytes, found: usize) -> Result<(), BackendError> {
        super::same_len(&self.spec.name, needed, found)
    }

    /// Work on the queue comes after all before it, so events are only looked up.
    fn known(&self, tables: &Tables, events: &[Event]) -> Result<(), BackendError> {
        super::known(&self.spec.name, tables.flights.last(), events)
    }
}

/// What a call fails with.
fn failed(gpu: &Gpu, device: &str, why: String) -> BackendError {
    let device = device.to_owned();
    if gpu.is_lost() { BackendError::Lost { device, why } } else { BackendError::Worker { device, why } }
}

impl Tables {
    /// Bytes into a range; what is less than a word at its ends is merged with what lies beside it.
    fn put(&mut self, gpu: &Gpu, device: &str, dst: BufferSpan, src: &[u8]) -> Result<Event, BackendError> {
        let failed = |why| failed(gpu, device, why);
        let (memory, range) = self.buffers.range(device, dst)?;
        for place in memory.places(range) {
            let (bytes, at) = (&src[place.part], place.offset);
            let head = ((4 - at % 4) % 4).min(bytes.len() as u64) as usize;
            let (head, rest) = bytes.split_at(head);
            let (whole, tail) = rest.split_at(rest.len() / 4 * 4);
            if !whole.is_empty() {
                gpu.queue.write_buffer(place.buffer, at + head.len() as u64, whole);
            }
            for (bytes, at) in [(head, at), (tail, at + (head.len() + whole.len()) as u64)] {
                if !bytes.is_empty() {
                    let (word, skip) = (at / 4 * 4, (at % 4) as usize);
                    let mut four = [0; 4];
                    self.flights.fetch(gpu, (place.buffer, word), &mut four).map_err(failed)?;
                    four[skip..skip + bytes.len()].copy_from_slice(bytes);
                    gpu.queue.write_buffer(place.buffer, word, &four);
                }
            }
        }
        self.flights.wrote(gpu, src.len() as u64).map_err(failed)
    }

    /// A range into bytes.
    fn get(&mut self, gpu: &Gpu, device: &str, src: BufferSpan, dst: &mut [u8]) -> Result<(), BackendError> {
        let failed = |why| failed(gpu, device, why);
        let (memory, range) = self.buffers.range(device, src)?;
        let mut done = 0;
        while done < dst.len() {
            let place = memory.place(range.start + done as u64);
            let (buffer, at, left) = place.ok_or_else(|| failed("a buffer has lost its bytes".into()))?;
            let end = dst.len().min(done + left.min(PIECE) as usize);
            self.flights.fetch(gpu, (buffer, at), &mut dst[done..end]).map_err(failed)?;
            done = end;
        }
        Ok(())
    }
}

impl Backend for VulkanBackend {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn alloc(&self, _kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError> {
        let refused = |why| match self.gpu.is_lost() {
            true => self.failed(why),
            false => BackendError::OutOfMemory { device: self.spec.name.clone(), need: bytes, why },
        };
        let memory = Memory::new(&self.gpu, bytes).map_err(refused)?;
        Ok(self.tables().buffers.add(memory))
    }

    fn adopt(&self, _bytes: HostBytes) -> Result<BufferId, BackendError> {
        Err(self.failed("host memory cannot be used in place; it must be copied".into()))
    }

    fn free(&self, buffer: BufferId) -> Result<(), BackendError> {
        self.tables().buffers.remove(&self.spec.name, buffer)
    }

    fn allocated(&self) -> Bytes {
        self.tables().buffers.allocated()
    }

    fn write(&self, _queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
        self.same_len(dst.span.len, src.len())?;
        let mut tables = self.tables();
        self.known(&tables, waits)?;
        tables.put(&self.gpu, &self.spec.name, dst, src)
    }

    fn read(&self, _queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
        self.same_len(src.span.len, dst.len())?;
        let mut tables = self.tables();
        self.known(&tables, waits)?;
        tables.get(&self.gpu, &self.spec.name, src, dst)
    }

    fn copy(&self, _queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError> {
        self.same_len(dst.span.len, src.span.len.index())?;
        let mut tables = self.tables();
        self.known(&tables, waits)?;
        let mut bytes = vec![0; src.span.len.index()];
        tables.buffers.range(&self.spec.name, dst)?;
        tables.get(&self.gpu, &self.spec.name, src, &mut bytes)?;
        tables.put(&self.gpu, &self.spec.name, dst, &bytes)
    }

    fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError> {
        let limits = ArgLimits::of(work);
        let drafts = build::drafts(&self.gpu, &self.spec, &self.tables().buffers, work);
        let drafts = drafts.map_err(|why| self.told(why))?;
        // Compiling takes long, and others write weights at the same time.
        let dispatches = drafts.finish(&self.gpu).map_err(|why| {
            let (device, node) = (self.spec.name.clone(), "the split".into());
            self.told(BackendError::Prepare { device, node, why })
        })?;
        let words = arguments::usual_words(&limits);
        let arguments = dispatches.first().map(|first| Arguments::new(&self.gpu, first.arguments(), words));
        let arguments = arguments.transpose().map_err(|why| self.failed(why))?;
        Ok(self.tables().programs.push(Some(Program { limits, dispatches, arguments })))
    }

    fn discard(&self, program: ProgramId) -> Result<(), BackendError> {
        let mut tables = self.tables();
        match tables.programs.get(program) {
            Some(Some(_)) => {
                tables.programs[program] = None;
                Ok(())
            }
            Some(None) | None => Err(BackendError::NoProgram { device: self.spec.name.clone(), program }),
        }
    }

    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        self.known(&tables, waits)?;
        let Tables { programs, flights, words, .. } = &mut *tables;
        let found = programs.get(program).and_then(Option::as_ref);
        let found = found.ok_or_else(|| BackendError::NoProgram { device: self.spec.name.clone(), program })?;
        found.limits.admit(&self.spec.name, args)?;
        let mut wider = None;
        let mut bound = None;
        if let (Some(arguments), Some(first)) = (&found.arguments, found.dispatches.first()) {
            arguments::write(args, words);
            // Sequences that share pages have a table each.
            let group = if arguments.write(&self.gpu, words) {
                arguments.group()
            } else {
                let room = words.len().next_power_of_two();
                let made = Arguments::new(&self.gpu, first.arguments(), room).map_err(|why| self.failed(why))?;
                made.write(&self.gpu, words);
                wider.insert(made).group()
            };
            bound = Some(group);
        }
        let rows = (args.tokens, args.outputs);
        let done = flights.hand_over(&self.gpu, &found.dispatches, bound, rows).map_err(|why| self.failed(why))?;
        if wider.is_some()
            && let Some(program) = &mut programs[program]
        {
            program.arguments = wider;
        }
        Ok(done)
    }

    fn prepare_caches(&self, work: &CacheWork<'_>) -> Result<CachesId, BackendError> {
        let mut tables = self.tables();
        let caches =
            Caches::prepare(&self.gpu, &self.spec.name, &tables.buffers, work).map_err(|why| self.told(why))?;
        Ok(tables.caches.push(caches))
    }

    fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        let (caches, flights) = self.caches(&mut tables, caches, waits)?;
        caches.limits.admit_moves(&self.spec.name, moves)?;
        caches.rearrange(&self.gpu, flights, moves).map_err(|why| self.failed(why))
    }

    fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        let (caches, flights) = self.caches(&mut tables, caches, waits)?;
        caches.limits.admit_turns(&self.spec.name, turns)?;
        caches.turn(&self.gpu, flights, turns).map_err(|why| self.failed(why))
    }

    fn read_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), BackendError> {
        let mut tables = self.tables();
        let (caches, flights) = self.caches(&mut tables, caches, waits)?;
        caches.limits.admit_rows(&self.spec.name, state, cells, dst.len())?;
        caches.read(&self.gpu, flights, (state, cells), dst).map_err(|why| self.failed(why))
    }

    fn write_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        src: &[u8],
        waits: &[Event],
    ) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        let (caches, flights) = self.caches(&mut tables, caches, waits)?;
        caches.limits.admit_rows(&self.spec.name, state, cells, src.len())?;
        caches.write(&self.gpu, flights, (state, cells), src).map_err(|why| self.failed(why))
    }

    fn wait(&self, event: Event) -> Result<(), BackendError> {
        let submission = {
            let mut tables = self.tables();
            self.known(&tables, &[event])?;
            tables.flights.until(&self.gpu, event).map_err(|why| self.failed(why))?
        };
        submission.map_or(Ok(()), |submission| self.gpu.wait(submission)).map_err(|why| self.failed(why))
    }
}

impl VulkanBackend {
    /// Prepared caches, and the queue.
    fn caches<'t>(
        &self,
        tables: &'t mut Tables,
        caches: CachesId,
        waits: &[Event],
    ) -> Result<(&'t Caches, &'t mut Flights), BackendError> {
        let lost = || BackendError::NoCaches { device: self.spec.name.clone(), caches };
        self.known(tables, waits)?;
        let Tables { caches: all, flights, .. } = tables;
        Ok((all.get(caches).ok_or_else(lost)?, flights))
    }
}
