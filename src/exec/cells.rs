//! A graph's caches on all devices → what is done to their cells between steps, class by class, on each device that holds
//! some. A device checks everything against the smallest cache of the class before it changes anything, so the first
//! refuses what any would. When a call ends, also with an error, nothing of it is under way. Allocates only where it is made.

use std::collections::BTreeMap;

use super::ExecError;
use super::devices::Devices;
use crate::backend::{
    Backend, BackendError, BufferSpan, CacheWork, CachesId, CellMove, CellTurn, Event, Queue, key_rotation,
};
use crate::device::DeviceId;
use crate::graph::{CacheClass, Graph, State, StateId, WeightId};
use crate::index::{CacheClassId, IndexVec};
use crate::plan::Span;
use crate::units::Bytes;

/// The caches of a graph.
pub(super) struct Caches {
    /// Those that each device has of each class, if any.
    held: Vec<Held>,
    /// All of them.
    pub states: IndexVec<StateId, State>,
    /// Their classes.
    pub classes: IndexVec<CacheClassId, CacheClass>,
    /// Which of `held` has each.
    homes: IndexVec<StateId, usize>,
}

/// The caches of one class that one device has.
struct Held {
    device: DeviceId,
    class: CacheClassId,
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
            for class in graph.classes().ids() {
                let states = of_class(graph, class, &open.bindings.states);
                for (id, _) in states.iter_ids().filter(|(_, at)| at.is_some()) {
                    homes[id] = held.len();
                }
                if states.iter().any(Option::is_some) {
                    let work = CacheWork { graph, states: &states, factors: &factors };
                    let caches = open.backend.prepare_caches(&work)?;
                    held.push(Held { device, class, caches, last: None });
                }
            }
        }
        Ok(Caches { held, states: graph.states().clone(), classes: graph.classes().clone(), homes })
    }

    /// The states of a class.
    fn of(&self, class: CacheClassId) -> impl Iterator<Item = (StateId, &State)> {
        self.states.iter_ids().filter(move |&(id, _)| self.held[self.homes[id]].class == class)
    }

    /// Bytes of one cell in all states of a class.
    pub fn cell_bytes(&self, class: CacheClassId) -> Bytes {
        self.of(class).map(|(_, state)| state.row_bytes()).sum()
    }

    /// Copies cells in every cache of a class.
    pub fn rearrange(&mut self, devices: &Devices, class: CacheClassId, moves: &[CellMove]) -> Result<(), ExecError> {
        self.everywhere(devices, class, |backend, caches| backend.rearrange(caches, moves, &[]))
    }

    /// Turns keys in every cache of a class.
    pub fn turn(&mut self, devices: &Devices, class: CacheClassId, turns: &[CellTurn]) -> Result<(), ExecError> {
        self.everywhere(devices, class, |backend, caches| backend.turn(caches, turns, &[]))
    }

    /// Begins something on every device that has caches of a class, then waits for all.
    fn everywhere(
        &mut self,
        devices: &Devices,
        class: CacheClassId,
        begin: impl Fn(&dyn Backend, CachesId) -> Result<Event, BackendError>,
    ) -> Result<(), ExecError> {
        let mut begun = Ok(());
        for held in self.held.iter_mut().filter(|held| held.class == class) {
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

    /// The rows of `cells`, state of the class after state.
    pub fn read(
        &self,
        devices: &Devices,
        class: CacheClassId,
        cells: &[u32],
        bytes: &mut [u8],
    ) -> Result<(), ExecError> {
        self.same_len(class, cells, bytes.len())?;
        let mut rest = bytes;
        for (id, state) in self.of(class) {
            let (rows, behind) = rest.split_at_mut(state.row_bytes().times(cells.len() as u64).index());
            rest = behind;
            self.read_state(devices, id, cells, rows)?;
        }
        Ok(())
    }

    /// The rows of `cells` in one state.
    pub fn read_state(
        &self,
        devices: &Devices,
        state: StateId,
        cells: &[u32],
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        let held = &self.held[self.homes[state]];
        devices.all[held.device].backend.read_cells(held.caches, state, cells, bytes, &[])
    }

    /// What was read back into `cells`.
    pub fn write(
        &mut self,
        devices: &Devices,
        class: CacheClassId,
        cells: &[u32],
        bytes: &[u8],
    ) -> Result<(), ExecError> {
        self.same_len(class, cells, bytes.len())?;
        let written = self.write_all(devices, class, cells, bytes);
        Ok(written.and(self.end(devices))?)
    }

    fn write_all(
        &mut self,
        devices: &Devices,
        class: CacheClassId,
        cells: &[u32],
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let mut rest = bytes;
        for (id, state) in self.states.iter_ids() {
            let held = &mut self.held[self.homes[id]];
            if held.class == class {
                let (rows, behind) = rest.split_at(state.row_bytes().times(cells.len() as u64).index());
                rest = behind;
                let backend = &devices.all[held.device].backend;
                held.last = Some(backend.write_cells(held.caches, id, cells, rows, &[])?);
            }
        }
        Ok(())
    }

    fn same_len(&self, class: CacheClassId, cells: &[u32], found: usize) -> Result<(), ExecError> {
        let needed = self.cell_bytes(class).times(cells.len() as u64).index();
        if needed == found { Ok(()) } else { Err(ExecError::Length { what: "bytes of rows", needed, found }) }
    }
}

/// Where the states of one class are on a device.
fn of_class(
    graph: &Graph,
    class: CacheClassId,
    states: &IndexVec<StateId, Option<BufferSpan>>,
) -> IndexVec<StateId, Option<BufferSpan>> {
    states.iter_ids().map(|(id, at)| at.filter(|_| graph.class_of(id) == class)).collect()
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
