//! A model that is ready to run: weights at home, states, arenas and rings allocated, one prepared plan a batch bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admit::vocab_of;
use super::bucket::Bucket;
use super::cells::Caches;
use super::devices::{Devices, Open};
use super::flight::Prepared;
use super::flights::Flights;
use super::items::Items;
use super::load::Progress;
use super::{ExecError, GraphSource, Traced};
use crate::backend::{self, CellMove, CellTable, CellTurn};
use crate::device::{DeviceId, Machine, MemoryId};
use crate::gguf::Gguf;
use crate::graph::{Batch, CacheClass, Graph, State, StateId};
use crate::index::{CacheClassId, IndexVec};
use crate::plan::{MemoryUse, Plan, PlanError, Policy, partition, plan};
use crate::residency::Residency;
use crate::units::{Bytes, Tokens};

/// The largest step that a session takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Tokens of a step.
    pub tokens: Tokens,
    /// Outputs of a step.
    pub outputs: Tokens,
}

/// One step: rows with their positions and cells, by sequence.
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// Token id of each row.
    pub ids: &'a [u32],
    /// Position of each row in its sequence.
    pub positions: &'a [u32],
    /// Rows for which logits are wanted, ascending.
    pub output_rows: &'a [u32],
    /// The cells of the rows and of their sequences, by [class](Session::classes) of caches. Of sequences with holes the
    /// logits are what they would be without.
    pub tables: &'a [CellTable],
}

/// What a session runs on, and how it plans.
pub struct Setup<'a> {
    /// The machine; no two of its devices compute from one memory.
    pub machine: Machine,
    /// How its buckets are planned.
    pub policy: Policy,
    /// Its largest step.
    pub limits: SessionLimits,
    /// What opens its devices.
    pub open: Open<'a>,
}

impl Setup<'_> {
    /// The usual policy, and the backends of this version.
    pub fn new(machine: Machine, limits: SessionLimits) -> Setup<'static> {
        Setup { machine, policy: Policy::default(), limits, open: &backend::open }
    }
}

/// A model ready to run on the devices of a machine.
pub struct Session {
    source: Box<dyn GraphSource>,
    machine: Machine,
    policy: Policy,
    residency: Residency,
    devices: Arc<Devices>,
    limits: SessionLimits,
    buckets: BTreeMap<Batch, Arc<Prepared>>,
    /// The bucket that serves each batch shape seen so far.
    routes: BTreeMap<Batch, Batch>,
    flights: Flights,
    caches: Caches,
    vocab: u32,
    width: usize,
    /// What was allocated.
    most: Most,
}

/// The largest bucket's needs: what all buckets share.
struct Most {
    arenas: IndexVec<DeviceId, Bytes>,
    rings: IndexVec<DeviceId, Bytes>,
    memories: IndexVec<MemoryId, MemoryUse>,
}

impl Most {
    fn of(plan: &Plan) -> Most {
        let arenas = plan.arenas.iter().map(|arena| arena.bytes).collect();
        Most { arenas, rings: plan.rings.clone(), memories: plan.memories.clone() }
    }

    /// Whether `plan` needs no more.
    fn serves(&self, plan: &Plan) -> bool {
        let arenas = plan.arenas.iter_ids().all(|(device, arena)| arena.bytes <= self.arenas[device]);
        arenas && plan.rings.iter_ids().all(|(device, &ring)| ring <= self.rings[device])
    }
}

impl Session {
    /// Plans the largest bucket, cut along the homes of its experts, loads the weights, and allocates states, arenas
    /// and rings.
    ///
    /// # Errors
    /// The model does not build, does not fit, or the file lacks a tensor; `homes` has none.
    pub fn open(
        source: Box<dyn GraphSource>,
        gguf: &Arc<Gguf>,
        setup: Setup<'_>,
        homes: impl FnOnce(&Graph, &Machine) -> Residency,
        progress: Progress<'_>,
    ) -> Result<Session, ExecError> {
        let Setup { machine, policy, limits, open } = setup;
        let batch = Batch { tokens: limits.tokens, outputs: limits.outputs };
        let graph = graph_of(&*source, batch)?;
        let residency = homes(&graph, &machine);
        let graph = partition(&graph, &residency)?;
        let first = plan(&graph, &residency, &machine, &policy)?;
        let devices = Arc::new(Devices::open(&machine, open, (&graph, &residency, &first), gguf, progress)?);
        let width = graph.node(graph.output()).out.cols as usize;
        let mut session = Session {
            source,
            machine,
            policy,
            residency,
            flights: Flights::new(&devices, batch, graph.classes(), width),
            caches: Caches::prepare(&devices, &graph)?,
            devices,
            limits,
            buckets: BTreeMap::new(),
            routes: BTreeMap::from([(batch, batch)]),
            vocab: vocab_of(&graph),
            width,
            most: Most::of(&first),
        };
        session.prepare(batch, &graph, &first)?;
        Ok(session)
    }

    /// The largest step.
    pub fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// Elements of a row of logits.
    pub fn logits_width(&self) -> usize {
        self.width
    }

    /// Bytes allocated in each memory, as the largest plan states them.
    pub fn memories(&self) -> &IndexVec<MemoryId, MemoryUse> {
        &self.most.memories
    }

    /// The machine that it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What it plans by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The bucket that serves steps of this size, which is prepared if it is new: see [`Session::planned`].
    ///
    /// # Errors
    /// The bucket cannot be planned or prepared.
    pub fn serving(&mut self, tokens: usize, outputs: usize) -> Result<Batch, ExecError> {
        self.opened()?;
        self.bucket(tokens, outputs)
    }

    /// Bytes allocated in all memories.
    pub fn memory(&self) -> MemoryUse {
        let sum = |of: fn(&MemoryUse) -> Bytes| self.most.memories.iter().map(of).sum();
        MemoryUse {
            weights: sum(|m| m.weights),
            states: sum(|m| m.states),
            arenas: sum(|m| m.arenas),
            rings: sum(|m| m.rings),
        }
    }

    /// Bytes that each device counts as allocated: as many as [`Session::memories`] has of its memory.
    pub fn allocated(&self) -> IndexVec<DeviceId, Bytes> {
        self.devices.all.iter().map(|device| device.backend.allocated()).collect()
    }

    /// Plans and prepares the bucket of steps of this size, or of the largest, ahead of time.
    ///
    /// # Errors
    /// The bucket cannot be planned or prepared.
    pub fn warm_up(&mut self, tokens: usize, outputs: usize) -> Result<(), ExecError> {
        self.opened()?;
        self.bucket(tokens, outputs).map(|_| ())
    }

    /// Runs one step and returns the logits, one row an output row. After an error the next step may be tried; the rows
    /// that the failed one was to write into the cache hold anything.
    ///
    /// # Errors
    /// The input does not fit the session, or a device failed.
    pub fn step(&mut self, input: &StepInput<'_>) -> Result<&[f32], ExecError> {
        let what = self.prepared(input)?;
        self.flights.run(&what, input)
    }

    /// Begins one step behind those that are under way: while one device has work of this step, another may have work of
    /// the one before. Of steps under way only the last one's logits are kept.
    ///
    /// # Errors
    /// The input does not fit the session, or the system refuses threads: the step has not begun.
    pub fn begin(&mut self, input: &StepInput<'_>) -> Result<(), ExecError> {
        let what = self.prepared(input)?;
        self.flights.begin(&what, input)
    }

    /// Waits for the steps under way; the logits of the last, as [`Session::step`] returns them.
    ///
    /// # Errors
    /// A device failed in one of them: the rows that they were to write into the cache hold anything.
    pub fn finish(&mut self) -> Result<&[f32], ExecError> {
        self.flights.finish()
    }

    /// Whether steps that are begun one behind the other are under way together.
    pub fn overlaps(&self) -> bool {
        self.devices.all.len() > 1
    }

    /// Notes from now on what the devices do in every step. Every piece of work is then waited for before the next of the
    /// same queue begins, which takes time on devices that would have several under way.
    pub fn trace(&mut self) {
        self.flights.trace();
    }

    /// Whether what the devices do is noted.
    pub fn traces(&self) -> bool {
        self.flights.traces()
    }

    /// What was noted since [`Session::trace`], step by step; nothing is from now on.
    pub fn traced(&mut self) -> Vec<Traced> {
        self.flights.traced()
    }

    /// The graph and the plan of a bucket, such as that of a [`Traced`] step.
    ///
    /// # Errors
    /// There is none of this size.
    pub fn planned(&self, batch: Batch) -> Result<(Graph, Plan), ExecError> {
        let graph = partition(&graph_of(&*self.source, batch)?, &self.residency)?;
        let plan = plan(&graph, &self.residency, &self.machine, &self.policy)?;
        Ok((graph, plan))
    }

    /// Gives back everything on all devices; from now on every call that needs some fails.
    pub fn close(&mut self) {
        self.buckets.clear();
        self.routes.clear();
        self.devices = Arc::new(Devices::none());
        let largest = Batch { tokens: self.limits.tokens, outputs: self.limits.outputs };
        self.flights = Flights::new(&self.devices, largest, &self.caches.classes, self.width);
    }

    /// Refuses work once it was closed.
    fn opened(&self) -> Result<(), ExecError> {
        if self.devices.all.is_empty() { Err(ExecError::Closed) } else { Ok(()) }
    }

    fn prepared(&mut self, input: &StepInput<'_>) -> Result<Arc<Prepared>, ExecError> {
        self.opened()?;
        input.admit(self.limits, self.vocab)?;
        let key = self.bucket(input.ids.len(), input.output_rows.len())?;
        Ok(Arc::clone(&self.buckets[&key]))
    }

    /// Token ids are below this.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// The logits of the last step that succeeded.
    pub fn logits(&self) -> &[f32] {
        self.flights.logits()
    }

    /// The caches, of keys and values of all layers.
    pub fn states(&self) -> &IndexVec<StateId, State> {
        &self.caches.states
    }

    /// The classes of the caches.
    pub fn classes(&self) -> &IndexVec<CacheClassId, CacheClass> {
        &self.caches.classes
    }

    /// Bytes of one cell of a class, keys and values of all layers that are of it.
    pub fn cell_bytes(&self, class: CacheClassId) -> Bytes {
        self.caches.cell_bytes(class)
    }

    /// Copies rows from cells to cells, in every cache of a class on every device, one move after the other.
    ///
    /// # Errors
    /// A cell is past the smallest cache of the class, and nothing has changed; or a device failed, and the cells that were to change
    /// hold anything.
    pub fn rearrange(&mut self, class: CacheClassId, moves: &[CellMove]) -> Result<(), ExecError> {
        self.opened()?;
        self.flights.settle();
        self.caches.rearrange(&self.devices, class, moves)
    }

    /// Rotates keys on to other positions, in every cache of rotated keys of a class on every device.
    ///
    /// # Errors
    /// As for [`Session::rearrange`].
    pub fn turn(&mut self, class: CacheClassId, turns: &[CellTurn]) -> Result<(), ExecError> {
        self.opened()?;
        self.flights.settle();
        self.caches.turn(&self.devices, class, turns)
    }

    /// The rows of `cells` in every cache of a class, state after state in the order of [`Session::states`]:
    /// [`Session::cell_bytes`] a cell, in the states' types as files hold them.
    ///
    /// # Errors
    /// A cell is past the smallest cache of the class, `bytes` is not as long as the rows, or a device failed.
    pub fn read_cells(&mut self, class: CacheClassId, cells: &[u32], bytes: &mut [u8]) -> Result<(), ExecError> {
        self.opened()?;
        self.flights.settle();
        self.caches.read(&self.devices, class, cells, bytes)
    }

    /// Writes into `cells` what [`Session::read_cells`] has read from as many, bit for bit.
    ///
    /// # Errors
    /// As for [`Session::read_cells`]; nothing has changed unless a device failed.
    pub fn write_cells(&mut self, class: CacheClassId, cells: &[u32], bytes: &[u8]) -> Result<(), ExecError> {
        self.opened()?;
        self.flights.settle();
        self.caches.write(&self.devices, class, cells, bytes)
    }

    /// The bucket that a step of this size runs in, prepared if it is new.
    fn bucket(&mut self, tokens: usize, outputs: usize) -> Result<Batch, ExecError> {
        let round = |n: usize, most: Tokens| {
            let up = n.clamp(1, most.index().max(1)).next_power_of_two();
            Tokens(u32::try_from(up).map_or(most.0, |up| up.min(most.0)))
        };
        let tokens = round(tokens, self.limits.tokens);
        let batch = Batch { tokens, outputs: round(outputs, Tokens(self.limits.outputs.0.min(tokens.0))) };
        if let Some(&served_by) = self.routes.get(&batch) {
            return Ok(served_by);
        }
        // Packing is not monotonic in the batch; the largest bucket's plan fits every step.
        match self.planned(batch) {
            Ok((graph, plan)) if self.most.serves(&plan) => self.prepare(batch, &graph, &plan)?,
            Ok(_) | Err(ExecError::Plan(PlanError::OverBudget { .. })) => {
                let largest = Batch { tokens: self.limits.tokens, outputs: self.limits.outputs };
                self.routes.insert(batch, largest);
                return Ok(largest);
            }
            Err(why) => return Err(why),
        }
        self.routes.insert(batch, batch);
        Ok(batch)
    }

    fn prepare(&mut self, batch: Batch, graph: &Graph, plan: &Plan) -> Result<(), ExecError> {
        let bucket = Bucket::prepare(&self.devices, graph, plan)?;
        let items = Items::of(&bucket, self.devices.all.len());
        let what = Arc::new(Prepared { batch, bucket, items });
        self.flights.reserve(&what, batch);
        self.buckets.insert(batch, what);
        Ok(())
    }
}

fn graph_of(source: &dyn GraphSource, batch: Batch) -> Result<Graph, ExecError> {
    source.graph(batch).map_err(|why| ExecError::Graph { batch, why })
}
