//! A device that computes nothing and checks everything: spans, buffers, events and arguments.
//! What runs here without an error gives a real backend nothing to refuse.

use std::sync::Mutex;

use super::{
    ArgLimits, Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheLimits, CacheWork, CachesId,
    CellMove, CellTurn, Event, HostBytes, ProgramId, Queue, SplitWork,
};
use crate::device::DeviceSpec;
use crate::graph::{NodeId, Operand, StateId};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::residency::slice_bytes;
use crate::units::Bytes;

struct Buffer {
    bytes: Bytes,
    writable: bool,
}

#[derive(Default)]
struct Tables {
    buffers: IndexVec<BufferId, Option<Buffer>>,
    programs: IndexVec<ProgramId, Option<ArgLimits>>,
    caches: IndexVec<CachesId, CacheLimits>,
    events: u64,
}

/// The checking device.
pub struct NullBackend {
    spec: DeviceSpec,
    tables: Mutex<Tables>,
}

impl NullBackend {
    /// A device of this spec.
    pub fn new(spec: DeviceSpec) -> NullBackend {
        NullBackend { spec, tables: Mutex::new(Tables::default()) }
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn device(&self) -> String {
        self.spec.name.clone()
    }

    fn buffer<'t>(&self, tables: &'t Tables, id: BufferId) -> Result<&'t Buffer, BackendError> {
        let found = tables.buffers.get(id).and_then(Option::as_ref);
        found.ok_or_else(|| BackendError::NoBuffer { device: self.device(), buffer: id })
    }

    fn span(&self, tables: &Tables, at: BufferSpan, write: bool) -> Result<(), BackendError> {
        let buffer = self.buffer(tables, at.buffer)?;
        if at.span.offset.checked_add(at.span.len).is_none_or(|end| end > buffer.bytes) {
            let (device, len) = (self.device(), buffer.bytes);
            return Err(BackendError::OutOfBuffer { device, buffer: at.buffer, span: at.span, len });
        }
        if write && !buffer.writable {
            return Err(BackendError::ReadOnly { device: self.device(), buffer: at.buffer });
        }
        Ok(())
    }

    fn same_len(&self, needed: Bytes, found: usize) -> Result<(), BackendError> {
        super::same_len(&self.spec.name, needed, found)
    }

    fn known(&self, tables: &Tables, events: &[Event]) -> Result<(), BackendError> {
        super::known(&self.spec.name, tables.events, events)
    }
}

fn next(tables: &mut Tables) -> Event {
    tables.events += 1;
    Event(tables.events)
}

impl Backend for NullBackend {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn alloc(&self, _kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError> {
        Ok(self.tables().buffers.push(Some(Buffer { bytes, writable: true })))
    }

    fn adopt(&self, bytes: HostBytes) -> Result<BufferId, BackendError> {
        let bytes = Bytes::of_len((*bytes).as_ref().len());
        Ok(self.tables().buffers.push(Some(Buffer { bytes, writable: false })))
    }

    fn free(&self, buffer: BufferId) -> Result<(), BackendError> {
        let mut tables = self.tables();
        self.buffer(&tables, buffer)?;
        tables.buffers[buffer] = None;
        Ok(())
    }

    fn allocated(&self) -> Bytes {
        self.tables().buffers.iter().flatten().filter(|b| b.writable).map(|b| b.bytes).sum()
    }

    fn write(&self, _queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        self.span(&tables, dst, true)?;
        self.same_len(dst.span.len, src.len())?;
        self.known(&tables, waits)?;
        Ok(next(&mut tables))
    }

    fn read(&self, _queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
        let tables = self.tables();
        self.span(&tables, src, false)?;
        self.same_len(src.span.len, dst.len())?;
        self.known(&tables, waits)?;
        dst.fill(0);
        Ok(())
    }

    fn copy(&self, _queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        self.span(&tables, src, false)?;
        self.span(&tables, dst, true)?;
        self.same_len(dst.span.len, src.span.len.index())?;
        self.known(&tables, waits)?;
        Ok(next(&mut tables))
    }

    fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError> {
        let mut tables = self.tables();
        let in_arena = |span: Span| BufferSpan { buffer: work.bindings.arena, span };
        self.span(&tables, in_arena(work.split.scratch), true)?;
        for &node in &work.split.nodes {
            self.span(&tables, in_arena(work.values[node]), true)?;
            for operand in work.graph.node(node).op.operands() {
                self.bound(&tables, work, node, operand)?;
            }
        }
        Ok(tables.programs.push(Some(ArgLimits::of(work))))
    }

    fn discard(&self, program: ProgramId) -> Result<(), BackendError> {
        let mut tables = self.tables();
        self.limits(&tables, program)?;
        tables.programs[program] = None;
        Ok(())
    }

    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        self.limits(&tables, program)?.admit(&self.spec.name, args)?;
        self.known(&tables, waits)?;
        Ok(next(&mut tables))
    }

    fn prepare_caches(&self, work: &CacheWork<'_>) -> Result<CachesId, BackendError> {
        let mut tables = self.tables();
        let limits = CacheLimits::of(&self.spec.name, work)?;
        work.states.iter().flatten().try_for_each(|&at| self.span(&tables, at, true))?;
        Ok(tables.caches.push(limits))
    }

    fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        self.caches(&tables, caches)?.admit_moves(&self.spec.name, moves)?;
        self.known(&tables, waits)?;
        Ok(next(&mut tables))
    }

    fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError> {
        let mut tables = self.tables();
        self.caches(&tables, caches)?.admit_turns(&self.spec.name, turns)?;
        self.known(&tables, waits)?;
        Ok(next(&mut tables))
    }

    fn read_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), BackendError> {
        let tables = self.tables();
        self.caches(&tables, caches)?.admit_rows(&self.spec.name, state, cells, dst.len())?;
        self.known(&tables, waits)?;
        dst.fill(0);
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
        let mut tables = self.tables();
        self.caches(&tables, caches)?.admit_rows(&self.spec.name, state, cells, src.len())?;
        self.known(&tables, waits)?;
        Ok(next(&mut tables))
    }

    fn wait(&self, event: Event) -> Result<(), BackendError> {
        self.known(&self.tables(), &[event])
    }
}

impl NullBackend {
    fn limits<'t>(&self, tables: &'t Tables, program: ProgramId) -> Result<&'t ArgLimits, BackendError> {
        let found = tables.programs.get(program).and_then(Option::as_ref);
        found.ok_or_else(|| BackendError::NoProgram { device: self.device(), program })
    }

    fn caches<'t>(&self, tables: &'t Tables, caches: CachesId) -> Result<&'t CacheLimits, BackendError> {
        tables.caches.get(caches).ok_or_else(|| BackendError::NoCaches { device: self.device(), caches })
    }

    /// Every operand must be bound, inside its buffer, and states must be writable.
    fn bound(&self, tables: &Tables, work: &SplitWork<'_>, node: NodeId, operand: Operand) -> Result<(), BackendError> {
        let unbound = |name: &str| {
            let (device, node, why) = (self.device(), format!("state {name}"), "is not bound".to_owned());
            BackendError::Prepare { device, node, why }
        };
        let in_arena = |span: Span| BufferSpan { buffer: work.bindings.arena, span };
        match operand {
            Operand::Node(n) => self.span(tables, in_arena(work.values[n]), false),
            Operand::Input(i) => self.span(tables, in_arena(work.inputs[i]), false),
            Operand::Weight(w) => {
                let weight = &work.graph.weights()[w];
                let range = work.graph.node(node).op.matrices(w, weight.count);
                let bound = super::bound_slice(&self.spec.name, work, w, &range)?;
                self.span(tables, bound.at, false)?;
                self.same_len(slice_bytes(weight, &bound.slice.range, bound.layout), bound.at.span.len.index())
            }
            Operand::State(s) => {
                let at = work.bindings.states.get(s).copied().flatten();
                let at = at.ok_or_else(|| unbound(&work.graph.states()[s].name))?;
                self.span(tables, at, true)?;
                self.same_len(work.graph.states()[s].bytes(), at.span.len.index())
            }
        }
    }
}
