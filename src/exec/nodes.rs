//! A graph on one device, a node at a time: each node is a split of its own, which runs and whose value is read before the
//! next one begins. For looking at what a device makes of every node; whole plans run in a [`Session`](super::Session).

use std::sync::Arc;
use std::time::Instant;

use super::admit::vocab_of;
use super::cells::Caches;
use super::devices::{Devices, Open};
use super::load::Progress;
use super::{ExecError, SessionLimits, StepInput, dealt};
use crate::backend::{Queue, SplitWork};
use crate::device::{DeviceId, DeviceSpec, Machine, scratch};
use crate::gguf::Gguf;
use crate::graph::{Element, Graph, InputId, NodeId, Op, StateId};
use crate::index::{CacheClassId, Id, IndexVec};
use crate::plan::{Plan, Policy, Span, Split, View, plan};
use crate::tensor::quant::decode;
use crate::units::{Bytes, Nanos};

/// What a node made of a step's rows, row after row.
#[derive(Clone, Debug, PartialEq)]
pub enum Made {
    /// The elements of its value; of a node that writes into caches the rows of keys, then those of values, as the caches
    /// hold them.
    Floats(Vec<f32>),
    /// Experts with their weights, `used` a row.
    Choices(Vec<(u32, f32)>),
}

/// A graph whose weights, caches and arena are on one device.
pub struct Nodes {
    graph: Graph,
    devices: Devices,
    caches: Caches,
    view: View,
    /// Where each node's scratch may lie; as long as the node alone needs.
    scratch: IndexVec<NodeId, Span>,
    vocab: u32,
}

/// The only device.
const DEVICE: DeviceId = DeviceId(0);

impl Nodes {
    /// Opens the device of `spec`, which may take so many bytes, and brings all weights of `graph` there; `keep_mapping`
    /// is as for [`homes`](super::homes).
    ///
    /// # Errors
    /// The device does not open or cannot run a node, or the weights do not fit.
    pub fn open(
        graph: Graph,
        gguf: &Arc<Gguf>,
        (spec, budget): (DeviceSpec, Bytes),
        open: Open<'_>,
        keep_mapping: bool,
        progress: Progress<'_>,
    ) -> Result<Nodes, ExecError> {
        let machine = Machine::linked([(spec, budget)]);
        let residency = dealt(&graph, gguf, &machine, keep_mapping);
        let plan = plan(&graph, &residency, &machine, &Policy::default())?;
        let devices = Devices::open(&machine, open, (&graph, &residency, &plan), gguf, progress)?;
        Ok(Nodes {
            caches: Caches::prepare(&devices, &graph)?,
            view: plan.view(DEVICE, graph.inputs().len()),
            scratch: scratch_spans(&machine.devices[DEVICE], &graph, &plan),
            vocab: vocab_of(&graph),
            devices,
            graph,
        })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Writes what a step reads; its nodes follow, in the order of their ids.
    ///
    /// # Errors
    /// The step is not one for the graph, or the device failed.
    pub fn begin(&self, step: &StepInput<'_>) -> Result<(), ExecError> {
        let batch = self.graph.batch();
        step.admit(SessionLimits { tokens: batch.tokens, outputs: batch.outputs }, self.vocab)?;
        let backend = &self.devices.all[DEVICE].backend;
        for (id, input) in self.graph.inputs().iter_ids() {
            let data = step.data(*input);
            if let Some(at) = self.input(id, Bytes::of_len(4 * data.len())) {
                let at = self.devices.in_arena(DEVICE, at);
                backend.wait(backend.write(Queue::Compute, at, bytemuck::cast_slice(data), &[])?)?;
            }
        }
        Ok(())
    }

    /// Where an input of so many bytes lies, if any node reads it.
    fn input(&self, id: InputId, len: Bytes) -> Option<Span> {
        let span = self.view.inputs[id];
        (span.len > Bytes::ZERO).then_some(Span { len, ..span })
    }

    /// Runs a node once, and then as often as `again` says: how long each of those took from its submission to its end.
    /// What it made stays until a later node needs the room.
    ///
    /// # Errors
    /// The device cannot run the node, or failed.
    pub fn run(&self, id: NodeId, step: &StepInput<'_>, again: u32) -> Result<Vec<Nanos>, ExecError> {
        let device = &self.devices.all[DEVICE];
        let split = Split { device: DEVICE, nodes: vec![id], scratch: self.scratch[id] };
        let View { values, inputs } = &self.view;
        let (graph, bindings) = (&self.graph, &device.bindings);
        let program = device.backend.prepare(&SplitWork { graph, split: &split, values, inputs, bindings })?;
        let args = step.args();
        let once = |_| {
            let start = Instant::now();
            device.backend.wait(device.backend.submit(program, &args, &[])?)?;
            Ok(Nanos(start.elapsed().as_nanos() as u64))
        };
        let times: Result<Vec<Nanos>, ExecError> = (0..=again).map(once).collect();
        device.backend.discard(program)?;
        times.map(|times| times[1..].to_vec())
    }

    /// What a node that has just run made of the step's rows.
    ///
    /// # Errors
    /// The device failed.
    pub fn made(&self, id: NodeId, step: &StepInput<'_>) -> Result<Made, ExecError> {
        if let Op::Cache(op) = &self.graph.node(id).op {
            let cells =
                step.tables.get(CacheClassId::index(self.graph.class_of(op.keys))).map_or(&[][..], |t| &t.cells);
            let mut rows = Vec::new();
            for state in [Some(op.keys), op.values].into_iter().flatten() {
                rows.extend(self.cached(state, cells)?);
            }
            return Ok(Made::Floats(rows));
        }
        let out = self.graph.node(id).out;
        let elements = step.rows(out.rows).index() * out.cols as usize;
        Ok(match out.element {
            Element::F32 => {
                let mut floats = vec![0f32; elements];
                self.read(id, bytemuck::cast_slice_mut(&mut floats))?;
                Made::Floats(floats)
            }
            Element::Choice => {
                let mut words = vec![[0u32; 2]; elements];
                self.read(id, bytemuck::cast_slice_mut(&mut words))?;
                Made::Choices(words.into_iter().map(|[expert, weight]| (expert, f32::from_bits(weight))).collect())
            }
        })
    }

    /// The first bytes of a value.
    fn read(&self, id: NodeId, bytes: &mut [u8]) -> Result<(), ExecError> {
        let span = Span { len: Bytes::of_len(bytes.len()), ..self.view.values[id] };
        let at = self.devices.in_arena(DEVICE, span);
        Ok(self.devices.all[DEVICE].backend.read(Queue::Compute, at, bytes, &[])?)
    }

    /// Rows of a cache as numbers.
    fn cached(&self, id: StateId, cells: &[u32]) -> Result<Vec<f32>, ExecError> {
        let state = &self.graph.states()[id];
        let mut bytes = vec![0; state.row_bytes().times(cells.len() as u64).index()];
        self.caches.read_state(&self.devices, id, cells, &mut bytes)?;
        let mut floats = vec![0.0; cells.len() * state.heads as usize * state.head_dim as usize];
        decode(state.dtype, &bytes, &mut floats)?;
        Ok(floats)
    }
}

/// A node alone needs no more than the split that the plan has it in.
fn scratch_spans(spec: &DeviceSpec, graph: &Graph, plan: &Plan) -> IndexVec<NodeId, Span> {
    let mut spans: IndexVec<NodeId, Span> =
        graph.node_ids().map(|_| Span { offset: Bytes::ZERO, len: Bytes::ZERO }).collect();
    for split in plan.splits.iter() {
        for &node in &split.nodes {
            spans[node] = Span { len: scratch(spec, graph, &[node]).total(), ..split.scratch };
        }
    }
    spans
}
