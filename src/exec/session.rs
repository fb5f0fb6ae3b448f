//! A model that is ready to run: weights at home, states, arenas and rings allocated, one prepared plan a batch bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admit::vocab_of;
use super::bucket::Bucket;
use super::cells::Caches;
use super::devices::{Devices, Open};
use super::load::Progress;
use super::step::{Flight, run};
use super::{ExecError, GraphSource};
use crate::backend::{self, CellMove, CellTable, CellTurn, Queue};
use crate::device::{DeviceId, Machine, MemoryId};
use crate::gguf::Gguf;
use crate::graph::{Batch, CacheClass, Graph, State, StateId};
use crate::index::{CacheClassId, IndexVec};
use crate::plan::{MemoryUse, Plan, PlanError, Policy, Span, partition, plan};
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
    devices: Devices,
    limits: SessionLimits,
    buckets: BTreeMap<Batch, Bucket>,
    /// The bucket that serves each batch shape seen so far.
    routes: BTreeMap<Batch, Batch>,
    flight: Flight,
    caches: Caches,
    vocab: u32,
    width: usize,
    /// Rows of the last step, and how many floats they are.
    logits: Vec<f32>,
    floats: usize,
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
        let devices = Devices::open(&machine, open, (&graph, &residency, &first), gguf, progress)?;
        let mut session = Session {
            source,
            machine,
            policy,
            residency,
            flight: Flight::new(&devices),
            caches: Caches::prepare(&devices, &graph)?,
            devices,
            limits,
            buckets: BTreeMap::new(),
            routes: BTreeMap::from([(batch, batch)]),
            vocab: vocab_of(&graph),
            width: graph.node(graph.output()).out.cols as usize,
            logits: Vec::new(),
            floats: 0,
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
        self.bucket(tokens, outputs).map(|_| ())
    }

    /// Runs one step and returns the logits, one row an output row. After an error the next step may be tried; the rows
    /// that the failed one was to write into the cache hold anything.
    ///
    /// # Errors
    /// The input does not fit the session, or a device failed.
    pub fn step(&mut self, input: &StepInput<'_>) -> Result<&[f32], ExecError> {
        input.admit(self.limits, self.vocab)?;
        let key = self.bucket(input.ids.len(), input.output_rows.len())?;
        run(&self.devices, &self.buckets[&key], &mut self.flight, input)?;
        self.read_logits(key, input.output_rows.len())
    }

    /// Token ids are below this.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// The logits of the last step that succeeded.
    pub fn logits(&self) -> &[f32] {
        &self.logits[..self.floats]
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
        self.caches.rearrange(&self.devices, class, moves)
    }

    /// Rotates keys on to other positions, in every cache of rotated keys of a class on every device.
    ///
    /// # Errors
    /// As for [`Session::rearrange`].
    pub fn turn(&mut self, class: CacheClassId, turns: &[CellTurn]) -> Result<(), ExecError> {
        self.caches.turn(&self.devices, class, turns)
    }

    /// The rows of `cells` in every cache of a class, state after state in the order of [`Session::states`]:
    /// [`Session::cell_bytes`] a cell, in the states' types as files hold them.
    ///
    /// # Errors
    /// A cell is past the smallest cache of the class, `bytes` is not as long as the rows, or a device failed.
    pub fn read_cells(&mut self, class: CacheClassId, cells: &[u32], bytes: &mut [u8]) -> Result<(), ExecError> {
        self.caches.read(&self.devices, class, cells, bytes)
    }

    /// Writes into `cells` what [`Session::read_cells`] has read from as many, bit for bit.
    ///
    /// # Errors
    /// As for [`Session::read_cells`]; nothing has changed unless a device failed.
    pub fn write_cells(&mut self, class: CacheClassId, cells: &[u32], bytes: &[u8]) -> Result<(), ExecError> {
        self.caches.write(&self.devices, class, cells, bytes)
    }

    fn read_logits(&mut self, key: Batch, outputs: usize) -> Result<&[f32], ExecError> {
        let floats = outputs * self.width;
        if self.logits.len() < floats {
            self.logits.resize(floats, 0.0);
        }
        let (device, span) = self.buckets[&key].logits;
        let at = self.devices.in_arena(device, Span { len: Bytes::of_len(4 * floats), ..span });
        let bytes = bytemuck::cast_slice_mut(&mut self.logits[..floats]);
        self.floats = 0;
        self.devices.all[device].backend.read(Queue::Compute, at, bytes, &[])?;
        self.floats = floats;
        Ok(&self.logits[..floats])
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
        let graph = partition(&graph_of(&*self.source, batch)?, &self.residency)?;
        let planned = plan(&graph, &self.residency, &self.machine, &self.policy);
        // Packing is not monotonic in the batch; the largest bucket's plan fits every step.
        match planned {
            Ok(plan) if self.most.serves(&plan) => self.prepare(batch, &graph, &plan)?,
            Ok(_) | Err(PlanError::OverBudget { .. }) => {
                let largest = Batch { tokens: self.limits.tokens, outputs: self.limits.outputs };
                self.routes.insert(batch, largest);
                return Ok(largest);
            }
            Err(why) => return Err(why.into()),
        }
        self.routes.insert(batch, batch);
        Ok(batch)
    }

    fn prepare(&mut self, batch: Batch, graph: &Graph, plan: &Plan) -> Result<(), ExecError> {
        let bucket = Bucket::prepare(&mut self.devices, graph, plan)?;
        self.flight.reserve(&bucket, batch);
        self.buckets.insert(batch, bucket);
        Ok(())
    }
}

fn graph_of(source: &dyn GraphSource, batch: Batch) -> Result<Graph, ExecError> {
    source.graph(batch).map_err(|why| ExecError::Graph { batch, why })
}
