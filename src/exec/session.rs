//! A model that is ready to run: weights at home, states and arena allocated, one prepared plan a batch bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::load::{Progress, load};
use super::{ExecError, GraphSource};
use crate::backend::{
    self, Args, Backend, Bindings, BufferId, BufferKind, BufferSpan, ProgramId, Queue, SequenceRows, SplitWork,
};
use crate::device::{DeviceId, Machine};
use crate::gguf::Gguf;
use crate::graph::ops::Rows;
use crate::graph::{Batch, Graph, Input, Op};
use crate::index::{Id, IndexVec};
use crate::plan::{MemoryUse, Plan, Policy, Span, plan};
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
    /// The cache cell of each row.
    pub cells: &'a [u32],
    /// The rows by sequence.
    pub sequences: &'a [SequenceRows],
    /// Block tables.
    pub pages: &'a [u32],
}

/// A prepared plan.
struct Bucket {
    programs: Vec<ProgramId>,
    inputs: Vec<(Input, Span)>,
    logits: Span,
}

/// A model ready to run on one device.
pub struct Session {
    source: Box<dyn GraphSource>,
    machine: Machine,
    residency: Residency,
    backend: Box<dyn Backend>,
    bindings: Bindings,
    limits: SessionLimits,
    buckets: BTreeMap<Batch, Bucket>,
    /// The bucket that serves each batch shape seen so far.
    routes: BTreeMap<Batch, Batch>,
    vocab: u32,
    width: usize,
    logits: Vec<f32>,
    memory: MemoryUse,
}

impl Session {
    /// Plans the largest bucket, loads the weights, and allocates states and arena.
    ///
    /// # Errors
    /// The model does not build, does not fit, or the file lacks a tensor.
    pub fn open(
        source: Box<dyn GraphSource>,
        gguf: &Arc<Gguf>,
        machine: Machine,
        homes: impl FnOnce(&Graph) -> Residency,
        limits: SessionLimits,
        progress: Progress<'_>,
    ) -> Result<Session, ExecError> {
        if machine.devices.len() != 1 {
            return Err(ExecError::Devices(machine.devices.len()));
        }
        let device = DeviceId::from_index(0);
        let batch = Batch { tokens: limits.tokens, outputs: limits.outputs };
        let graph = graph_of(&*source, batch)?;
        let residency = homes(&graph);
        let first = plan(&graph, &residency, &machine, &Policy::default())?;
        let backend = backend::open(&machine.devices[device])?;
        let weights = load(&graph, &residency, gguf, &*backend, progress)?;
        let memory = machine.devices[device].memory;
        let bindings = Bindings {
            arena: backend.alloc(BufferKind::Device, first.arenas[device].bytes)?,
            weights,
            states: allocate_states(&graph, &*backend)?,
        };
        let mut session = Session {
            source,
            machine,
            residency,
            backend,
            bindings,
            limits,
            buckets: BTreeMap::new(),
            routes: BTreeMap::from([(batch, batch)]),
            vocab: vocab_of(&graph),
            width: graph.node(graph.output()).out.cols as usize,
            logits: Vec::new(),
            memory: first.memories[memory],
        };
        session.prepare(batch, &graph, first)?;
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

    /// Bytes allocated for weights, states and arena, as the largest plan states them.
    pub fn memory(&self) -> MemoryUse {
        self.memory
    }

    /// Bytes that the device counts as allocated: as many as [`Session::memory`] has in all.
    pub fn allocated(&self) -> Bytes {
        self.backend.allocated()
    }

    /// Plans and prepares the bucket of steps of this size, or of the largest, ahead of time.
    ///
    /// # Errors
    /// The bucket cannot be planned or prepared.
    pub fn warm_up(&mut self, tokens: usize, outputs: usize) -> Result<(), ExecError> {
        self.bucket(tokens, outputs).map(|_| ())
    }

    /// Runs one step and returns the logits, one row an output row.
    ///
    /// # Errors
    /// The input does not fit the session, or the device failed.
    pub fn step(&mut self, input: &StepInput<'_>) -> Result<&[f32], ExecError> {
        self.admit(input)?;
        let key = self.bucket(input.ids.len(), input.output_rows.len())?;
        let bucket = &self.buckets[&key];
        for &(what, span) in &bucket.inputs {
            let data = match what {
                Input::TokenIds => input.ids,
                Input::Positions => input.positions,
                Input::OutputRows => input.output_rows,
            };
            let span = Span { len: Bytes::of_len(4 * data.len()), ..span };
            let at = BufferSpan { buffer: self.bindings.arena, span };
            self.backend.write(Queue::Compute, at, bytemuck::cast_slice(data), &[])?;
        }
        let args = Args {
            tokens: Tokens(input.ids.len() as u32),
            outputs: Tokens(input.output_rows.len() as u32),
            cells: input.cells,
            sequences: input.sequences,
            pages: input.pages,
        };
        for &program in &bucket.programs {
            let done = self.backend.submit(program, &args, &[])?;
            self.backend.wait(done)?;
        }
        self.read_logits(key, input.output_rows.len())
    }

    fn read_logits(&mut self, key: Batch, outputs: usize) -> Result<&[f32], ExecError> {
        let floats = outputs * self.width;
        if self.logits.len() < floats {
            self.logits.resize(floats, 0.0);
        }
        let span = Span { len: Bytes::of_len(4 * floats), ..self.buckets[&key].logits };
        let at = BufferSpan { buffer: self.bindings.arena, span };
        let bytes = bytemuck::cast_slice_mut(&mut self.logits[..floats]);
        self.backend.read(Queue::Compute, at, bytes, &[])?;
        Ok(&self.logits[..floats])
    }

    fn admit(&self, input: &StepInput<'_>) -> Result<(), ExecError> {
        let (tokens, outputs) = (input.ids.len(), input.output_rows.len());
        let SessionLimits { tokens: most_tokens, outputs: most_outputs } = self.limits;
        if tokens == 0 || tokens > most_tokens.index() || outputs > most_outputs.index() {
            let (most_tokens, most_outputs) = (most_tokens.0, most_outputs.0);
            return Err(ExecError::TooLarge { tokens, outputs, most_tokens, most_outputs });
        }
        if outputs > tokens {
            return Err(ExecError::Length { what: "output rows", needed: tokens, found: outputs });
        }
        if input.positions.len() != tokens {
            return Err(ExecError::Length { what: "positions", needed: tokens, found: input.positions.len() });
        }
        if let Some(&id) = input.ids.iter().find(|&&id| id >= self.vocab) {
            return Err(ExecError::TokenId { id, vocab: self.vocab });
        }
        if let Some(&row) = input.output_rows.iter().find(|&&row| row as usize >= tokens) {
            return Err(ExecError::OutputRow { row, tokens });
        }
        Ok(())
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
        let graph = graph_of(&*self.source, batch)?;
        let plan = plan(&graph, &self.residency, &self.machine, &Policy::default())?;
        let arena = plan.arenas.iter().map(|a| a.bytes).max().unwrap_or_default();
        if arena > self.memory.arenas {
            // Packing is not monotonic in the batch; the largest bucket's plan fits every step.
            let largest = Batch { tokens: self.limits.tokens, outputs: self.limits.outputs };
            self.routes.insert(batch, largest);
            return Ok(largest);
        }
        self.prepare(batch, &graph, plan)?;
        self.routes.insert(batch, batch);
        Ok(batch)
    }

    fn prepare(&mut self, batch: Batch, graph: &Graph, plan: Plan) -> Result<(), ExecError> {
        let mut programs = Vec::with_capacity(plan.splits.len());
        let view = plan.view(DeviceId(0), graph.inputs().len());
        for split in plan.splits.iter() {
            let work = SplitWork { graph, split, values: &view.values, inputs: &view.inputs, bindings: &self.bindings };
            programs.push(self.backend.prepare(&work)?);
        }
        let inputs = graph.inputs().iter_ids().map(|(id, &input)| (input, view.inputs[id])).collect();
        self.buckets.insert(batch, Bucket { programs, inputs, logits: plan.values[graph.output()] });
        Ok(())
    }
}

fn graph_of(source: &dyn GraphSource, batch: Batch) -> Result<Graph, ExecError> {
    source.graph(batch).map_err(|why| ExecError::Graph { batch, why })
}

fn allocate_states(
    graph: &Graph,
    backend: &dyn Backend,
) -> Result<IndexVec<crate::graph::StateId, Option<BufferSpan>>, ExecError> {
    let mut states = IndexVec::new();
    for state in graph.states().iter() {
        let buffer: BufferId = backend.alloc(BufferKind::Device, state.bytes())?;
        states.push(Some(BufferSpan { buffer, span: Span { offset: Bytes::ZERO, len: state.bytes() } }));
    }
    Ok(states)
}

/// Rows of the embedding; without one, no id is refused.
fn vocab_of(graph: &Graph) -> u32 {
    let embedded = graph.nodes().find_map(|(_, node)| match &node.op {
        Op::Rows(Rows::Embed(op)) => Some(graph.weights()[op.weight].rows),
        Op::Rows(Rows::Select(_)) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rope(_) | Op::Cache(_) => {
            None
        }
        Op::Attention(_) | Op::Elementwise(_) | Op::Moe(_) => None,
    });
    embedded.unwrap_or(u32::MAX)
}
