//! The CPU backend: whole splits on one pool of workers, with the instruction set chosen at run time.
//! Work is finished when `submit` returns, so events only number what was done. Copies and splits may come from any
//! threads: one that would race waits (see `traffic`).

mod cells;
mod kernels;
mod memory;
mod pool;
mod program;
mod run;
pub mod simd;
mod task;
mod traffic;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::cells::Caches;
use self::memory::{Buffer, Buffers, Raw};
use self::pool::Pool;
use self::program::Program;
use self::simd::Isa;
use self::traffic::Traffic;
use super::{
    Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTurn, Event,
    HostBytes, ProgramId, Queue, SplitWork,
};
use crate::device::DeviceSpec;
use crate::graph::StateId;
use crate::index::IndexVec;
use crate::units::Bytes;

/// One CPU device with workers and memory of its own.
pub struct CpuBackend {
    spec: DeviceSpec,
    isa: Isa,
    pool: Pool,
    traffic: Traffic,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    buffers: Buffers,
    programs: IndexVec<ProgramId, Option<Arc<Program>>>,
    caches: IndexVec<CachesId, Arc<Caches>>,
    events: u64,
}

impl CpuBackend {
    /// Starts the workers, on the widest instruction set of this machine.
    ///
    /// # Errors
    /// There are none, or the system refuses a thread.
    pub fn new(spec: DeviceSpec) -> Result<CpuBackend, BackendError> {
        Self::with_isa(spec, Isa::detect())
    }

    /// Starts the workers, on `isa`.
    ///
    /// # Errors
    /// There are none, or the system refuses a thread.
    pub fn with_isa(spec: DeviceSpec, isa: Isa) -> Result<CpuBackend, BackendError> {
        if spec.workers == 0 {
            return Err(super::argument(&spec.name, "workers at least", 1, 0));
        }
        let pool = Pool::new(spec.workers as usize);
        let pool = pool.map_err(|e| BackendError::Worker { device: spec.name.clone(), why: e.to_string() })?;
        Ok(CpuBackend { spec, isa, pool, traffic: Traffic::default(), tables: Mutex::new(Tables::default()) })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raw(&self, at: BufferSpan, write: bool) -> Result<Raw, BackendError> {
        self.tables().buffers.raw(&self.spec.name, at, write)
    }

    fn same_len(&self, needed: Bytes, found: usize) -> Result<(), BackendError> {
        super::same_len(&self.spec.name, needed, found)
    }

    fn known(&self, events: &[Event]) -> Result<(), BackendError> {
        super::known(&self.spec.name, self.tables().events, events)
    }

    fn done(&self) -> Event {
        let mut tables = self.tables();
        tables.events += 1;
        Event(tables.events)
    }

    fn program(&self, id: ProgramId) -> Result<Arc<Program>, BackendError> {
        let found = self.tables().programs.get(id).and_then(Clone::clone);
        found.ok_or_else(|| BackendError::NoProgram { device: self.spec.name.clone(), program: id })
    }

    fn caches(&self, id: CachesId) -> Result<Arc<Caches>, BackendError> {
        let found = self.tables().caches.get(id).cloned();
        found.ok_or_else(|| BackendError::NoCaches { device: self.spec.name.clone(), caches: id })
    }

    /// The end of work that a kernel may have panicked in.
    fn ended(&self, whole: bool, lost: &str) -> Result<Event, BackendError> {
        if !whole {
            let why = format!("a kernel panicked; {lost} are lost");
            return Err(BackendError::Worker { device: self.spec.name.clone(), why });
        }
        Ok(self.done())
    }
}

impl Backend for CpuBackend {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn alloc(&self, _kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError> {
        let refused = |e: std::io::Error| {
            let device = self.spec.name.clone();
            BackendError::OutOfMemory { device, need: bytes, why: e.to_string() }
        };
        let buffer = Buffer::zeroed(bytes).map_err(refused)?;
        Ok(self.tables().buffers.add(buffer))
    }

    fn adopt(&self, bytes: HostBytes) -> Result<BufferId, BackendError> {
        Ok(self.tables().buffers.add(Buffer::adopted(bytes)))
    }

    fn lend(&self, buffer: BufferId) -> Option<HostBytes> {
        self.tables().buffers.lend(buffer)
    }

    fn free(&self, buffer: BufferId) -> Result<(), BackendError> {
        self.tables().buffers.remove(&self.spec.name, buffer)
    }

    fn allocated(&self) -> Bytes {
        self.tables().buffers.allocated()
    }

    fn write(&self, _queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
        self.same_len(dst.span.len, src.len())?;
        self.known(waits)?;
        run::fill(&self.traffic, &self.raw(dst, true)?, src);
        Ok(self.done())
    }

    fn read(&self, _queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
        self.same_len(src.span.len, dst.len())?;
        self.known(waits)?;
        run::fetch(&self.traffic, &self.raw(src, false)?, dst);
        Ok(())
    }

    fn copy(&self, _queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError> {
        self.same_len(dst.span.len, src.span.len.index())?;
        self.known(waits)?;
        run::transfer(&self.traffic, &self.raw(src, false)?, &self.raw(dst, true)?);
        Ok(self.done())
    }

    fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError> {
        let raw = |at, write| self.raw(at, write);
        let program = Program::build(&self.spec, work, &raw)?;
        Ok(self.tables().programs.push(Some(Arc::new(program))))
    }

    fn discard(&self, program: ProgramId) -> Result<(), BackendError> {
        self.program(program)?;
        self.tables().programs[program] = None;
        Ok(())
    }

    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
        let program = self.program(program)?;
        program.limits.admit(&self.spec.name, args)?;
        self.known(waits)?;
        self.ended(run::run(&self.traffic, &program, &self.pool, self.isa, args), "the step's values")
    }

    fn prepare_caches(&self, work: &CacheWork<'_>) -> Result<CachesId, BackendError> {
        let caches = Caches::prepare(&self.spec, work, |at, write| self.raw(at, write))?;
        Ok(self.tables().caches.push(Arc::new(caches)))
    }

    fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError> {
        let caches = self.caches(caches)?;
        caches.limits.admit_moves(&self.spec.name, moves)?;
        self.known(waits)?;
        self.ended(caches.rearrange(&self.traffic, &self.pool, moves), "rows of the caches")
    }

    fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError> {
        let caches = self.caches(caches)?;
        caches.limits.admit_turns(&self.spec.name, turns)?;
        self.known(waits)?;
        self.ended(caches.turn(&self.traffic, (&self.pool, self.isa), turns), "keys of the caches")
    }

    fn read_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), BackendError> {
        let caches = self.caches(caches)?;
        caches.limits.admit_rows(&self.spec.name, state, cells, dst.len())?;
        self.known(waits)?;
        caches.read(&self.traffic, state, cells, dst);
        Ok(())
    }

    fn write_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        src: &[u8],
        waits: &[Event],
    ) -> Result<Event, BackendError> {
        let caches = self.caches(caches)?;
        caches.limits.admit_rows(&self.spec.name, state, cells, src.len())?;
        self.known(waits)?;
        caches.write(&self.traffic, state, cells, src);
        Ok(self.done())
    }

    fn wait(&self, event: Event) -> Result<(), BackendError> {
        self.known(&[event])
    }
}
