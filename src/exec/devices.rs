//! A machine and its largest plan → open devices: one backend each, weights at home, and states, arena and ring of the
//! bytes that the plan states. What this allocates is all that a session ever does on a device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::ExecError;
use super::flight::locked;
use super::load::{Load, Progress, load};
use crate::backend::{Backend, BackendError, Bindings, BufferId, BufferKind, BufferSpan};
use crate::device::{DeviceId, DeviceSpec, Machine, MemoryId};
use crate::gguf::Gguf;
use crate::graph::{Graph, StateId};
use crate::index::IndexVec;
use crate::plan::{Plan, Span};
use crate::residency::Residency;
use crate::units::Bytes;

/// Opens the backend of a device.
pub type Open<'a> = &'a dyn Fn(&DeviceSpec) -> Result<Box<dyn Backend>, BackendError>;

/// One device with all that lies on it.
pub(super) struct Device {
    pub backend: Box<dyn Backend>,
    /// Its arena, weights and states.
    pub bindings: Bindings,
    /// Where streamed weights lie; of no bytes where none are.
    pub ring: BufferId,
}

/// All devices of a machine.
pub(super) struct Devices {
    pub all: IndexVec<DeviceId, Device>,
    /// The device that keeps what lives in a memory.
    pub keepers: IndexVec<MemoryId, Option<DeviceId>>,
    /// What a device may copy by itself of another's buffers: as a buffer of its own, if it can.
    lent: Mutex<BTreeMap<(DeviceId, DeviceId, BufferId), Option<BufferId>>>,
}

impl Devices {
    /// No devices.
    pub fn none() -> Devices {
        Devices { all: IndexVec::new(), keepers: IndexVec::new(), lent: Mutex::default() }
    }

    /// A buffer of `from`, as one of `to` that it copies from by itself: where that is a card that overlaps copies, and the
    /// other lends host memory that the system pins for it.
    pub fn lent(&self, to: DeviceId, from: DeviceId, buffer: BufferId) -> Option<BufferId> {
        let (reader, keeper) = (&self.all[to].backend, &self.all[from].backend);
        let adopted = || {
            let bytes = if reader.spec().overlaps { keeper.lend(buffer) } else { None };
            bytes.and_then(|bytes| reader.adopt(bytes).ok())
        };
        *locked(&self.lent).entry((to, from, buffer)).or_insert_with(adopted)
    }

    /// Opens every device of `machine` and gives it what `residency` and `plan`, the largest one, say.
    pub fn open(
        machine: &Machine,
        open: Open<'_>,
        (graph, residency, plan): (&Graph, &Residency, &Plan),
        gguf: &Arc<Gguf>,
        progress: Progress<'_>,
    ) -> Result<Devices, ExecError> {
        let keepers = keepers(machine)?;
        let backends: Result<Vec<Box<dyn Backend>>, BackendError> = machine.devices.iter().map(open).collect();
        let backends: IndexVec<DeviceId, Box<dyn Backend>> = backends?.into_iter().collect();
        let what = Load { graph, residency, gguf, backends: &backends, keepers: &keepers };
        let mut weights = load(&what, progress)?;
        let mut states = states(&what)?;
        let mut all = IndexVec::new();
        let ids = backends.ids();
        for (id, backend) in ids.zip(backends.into_items()) {
            let arena = backend.alloc(BufferKind::Device, plan.arenas[id].bytes)?;
            let ring = backend.alloc(BufferKind::Device, plan.rings[id])?;
            let (weights, states) = (std::mem::take(&mut weights[id]), std::mem::take(&mut states[id]));
            all.push(Device { backend, bindings: Bindings { arena, weights, states }, ring });
        }
        Ok(Devices { all, keepers, lent: Mutex::default() })
    }

    /// A range of the arena of `device`.
    pub fn in_arena(&self, device: DeviceId, span: Span) -> BufferSpan {
        BufferSpan { buffer: self.all[device].bindings.arena, span }
    }
}

/// The one device of every memory; several over one memory would each need what lies in it.
fn keepers(machine: &Machine) -> Result<IndexVec<MemoryId, Option<DeviceId>>, ExecError> {
    let mut keepers: IndexVec<MemoryId, Option<DeviceId>> = machine.memories.iter().map(|_| None).collect();
    for (id, spec) in machine.devices.iter_ids() {
        if let Some(other) = keepers[spec.memory].replace(id) {
            let (memory, first) = (&machine.memories[spec.memory].name, &machine.devices[other].name);
            return Err(ExecError::Shared { memory: memory.clone(), first: first.clone(), second: spec.name.clone() });
        }
    }
    Ok(keepers)
}

type States = IndexVec<StateId, Option<BufferSpan>>;

/// Every state in the memory that it lives in.
fn states(what: &Load<'_>) -> Result<IndexVec<DeviceId, States>, ExecError> {
    let none = || what.graph.states().iter().map(|_| None).collect();
    let mut states: IndexVec<DeviceId, States> = what.backends.iter().map(|_| none()).collect();
    for (id, state) in what.graph.states().iter_ids() {
        let memory = what.residency.states[id];
        let keeper = what.keepers.get(memory).copied().flatten();
        let device = keeper.ok_or_else(|| ExecError::NoKeeper { what: state.name.clone(), memory })?;
        let buffer = what.backends[device].alloc(BufferKind::Device, state.bytes())?;
        let span = Span { offset: Bytes::ZERO, len: state.bytes() };
        states[device][id] = Some(BufferSpan { buffer, span });
    }
    Ok(states)
}
