//! A graph's caches on all devices → what is done to their cells between steps, on each device that holds some. A device
//! checks everything against the graph's smallest cache before it changes anything, so the first refuses what any would.
//! When a call ends, also with an error, nothing of it is under way. Allocates only where it is made.

use std::collections::BTreeMap;

use super::ExecError;
use super::devices::Devices;
use crate::backend::{
    Backend, BackendError, BufferSpan, CacheWork, CachesId, CellMove, CellTurn, Event, Queue, key_rotation,
};
use crate::device::DeviceId;
use crate::graph::{Graph, State, StateId, WeightId};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::units::Bytes;

/// The caches of a graph.
pub(super) struct Caches {
    /// Those that each device has, if any.
    held: Vec<Held>,
    /// All of them.
    pub states: IndexVec<StateId, State>,
    /// Which of `held` has each.
    homes: IndexVec<StateId, usize>,
}

/// The caches that one device has.
struct Held {
    device: DeviceId,
    caches: CachesId,
    /// What it began last.
    last: Option<Event>,
}

impl Caches {
    /// Prepares the caches of `graph` on every device that has some.
    pub fn prepare(devices: &Devices, graph: &Graph) -> Result<Caches, ExecError> {
        let factors = factors(devices, graph)?;
        let mut held = Vec::new();
        let mut homes: IndexVec<StateId, usize> = graph.states().iter().map(|_| 0).collect();
        for (device, open) in devices.all.iter_ids() {
            let states = &open.bindings.states;
            for (id, _) in states.iter_ids().filter(|(_, at)| at.is_some()) {
                homes[id] = held.len();
            }
            if states.iter().any(Option::is_some) {
                let caches = open.backend.prepare_caches(&CacheWork { graph, states, factors: &factors })?;
                held.push(Held { device, caches, last: None });
            }
        }
        Ok(Caches { held, states: graph.states().clone(), homes })
    }

    /// Bytes of one cell in all states.
    pub fn cell_bytes(&self) -> Bytes {
        self.states.iter().map(State::row_bytes).sum()
    }

    /// Copies cells in every cache.
    pub fn rearrange(&mut self, devices: &Devices, moves: &[CellMove]) -> Result<(), ExecError> {
        self.everywhere(devices, |backend, caches| backend.rearrange(caches, moves, &[]))
    }

    /// Turns keys in every cache.
    pub fn turn(&mut self, devices: &Devices, turns: &[CellTurn]) -> Result<(), ExecError> {
        self.everywhere(devices, |backend, caches| backend.turn(caches, turns, &[]))
    }

    /// Begins something on every device, then waits for all.
    fn everywhere(
        &mut self,
        devices: &Devices,
        begin: impl Fn(&dyn Backend, CachesId) -> Result<Event, BackendError>,
    ) -> Result<(), ExecError> {
        let mut begun = Ok(());
        for held in &mut self.held {
            match begin(&*devices.all[held.device].backend, held.caches) {
                Ok(event) => held.last = Some(event),
                Err(why) => {
                    begun = Err(why);
                    break;
                }
            }
        }
        Ok(begun.and(self.end(devices))?)
    }

    /// Waits for all that was begun.
    fn end(&mut self, devices: &Devices) -> Result<(), BackendError> {
        let mut ended = Ok(());
        for held in &mut self.held {
            if let Some(event) = held.last.take() {
                ended = ended.and(devices.all[held.device].backend.wait(event));
            }
        }
        ended
    }

    /// The rows of `cells`, state after state.
    pub fn read(&self, devices: &Devices, cells: &[u32], bytes: &mut [u8]) -> Result<(), ExecError> {
        self.same_len(cells, bytes.len())?;
        let mut rest = bytes;
        for (id, state) in self.states.iter_ids() {
            let (rows, behind) = rest.split_at_mut(state.row_bytes().times(cells.len() as u64).index());
            rest = behind;
            let held = &self.held[self.homes[id]];
            devices.all[held.device].backend.read_cells(held.caches, id, cells, rows, &[])?;
        }
        Ok(())
    }

    /// What was read back into `cells`.
    pub fn write(&mut self, devices: &Devices, cells: &[u32], bytes: &[u8]) -> Result<(), ExecError> {
        self.same_len(cells, bytes.len())?;
        let written = self.write_all(devices, cells, bytes);
        Ok(written.and(self.end(devices))?)
    }

    fn write_all(&mut self, devices: &Devices, cells: &[u32], bytes: &[u8]) -> Result<(), BackendError> {
        let mut rest = bytes;
        for (id, state) in self.states.iter_ids() {
            let (rows, behind) = rest.split_at(state.row_bytes().times(cells.len() as u64).index());
            rest = behind;
            let held = &mut self.held[self.homes[id]];
            let backend = &devices.all[held.device].backend;
            held.last = Some(backend.write_cells(held.caches, id, cells, rows, &[])?);
        }
        Ok(())
    }

    fn same_len(&self, cells: &[u32], found: usize) -> Result<(), ExecError> {
        let needed = self.cell_bytes().times(cells.len() as u64).index();
        if needed == found { Ok(()) } else { Err(ExecError::Length { what: "bytes of rows", needed, found }) }
    }
}

/// The factors that keys are rotated with, from where they are bound.
fn factors(devices: &Devices, graph: &Graph) -> Result<BTreeMap<WeightId, Vec<f32>>, ExecError> {
    let mut factors = BTreeMap::new();
    for id in graph.states().ids().filter_map(|state| key_rotation(graph, state)?.factors) {
        let bound = devices.all.iter().find_map(|device| Some((device, device.bindings.weights[id].first()?)));
        if let Some((device, bound)) = bound {
            let mut floats = vec![0f32; graph.weights()[id].cols as usize];
            let span = Span { len: Bytes::of_len(4 * floats.len()), ..bound.at.span };
            let bytes = bytemuck::cast_slice_mut(&mut floats);
            device.backend.read(Queue::Upload, BufferSpan { span, ..bound.at }, bytes, &[])?;
            factors.insert(id, floats);
        }
    }
    Ok(factors)
}
