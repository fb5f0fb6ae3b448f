//! Working space that a kind of device needs beside a split's operands and values.
//! The planner reserves it, the backend cuts it up: the one formula serves both.

use super::{BackendKind, DeviceSpec};
use crate::graph::ops::{Attention, Mask, Moe, Rope};
use crate::graph::{Element, Graph, NodeId, Op, WeightId};
use crate::tensor::act::{ActFormat, act_format, act_row_bytes};
use crate::units::{Bytes, Tokens};

/// The parts of a split's scratch, in the order in which they lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Quantised activations of the matmul that runs next.
    pub acts: Bytes,
    /// Cosines and sines of every row.
    pub angles: Bytes,
    /// Rows grouped by expert.
    pub groups: Bytes,
    /// What each worker has for itself.
    pub worker: Bytes,
    /// Number of workers.
    pub workers: u32,
    /// Sums of attention over parts of a sequence.
    pub parts: Bytes,
}

/// A part begins at a multiple of this.
const ALIGN: u64 = 64;

/// What the CPU's matmul kernels may use for a worker.
pub(crate) const MATMUL_WORKER: Bytes = Bytes(256 << 10);

/// Query vectors that the CPU's attention takes at a time at most.
pub(crate) const ATTENTION_QUERIES: usize = 32;

/// Floats an expert that the CPU's routing needs: probabilities, scores, worths of groups.
pub(crate) const ROUTE_FLOATS: u64 = 3;

/// Cells that attention takes at a time.
pub(crate) const ATTENTION_TILE: usize = 256;

/// Floats of scratch that it needs for `queries` of heads of these sizes: the queries, scores and rises of a tile,
/// values of a tile and of all, four numbers each, and a page of keys and of values.
pub(crate) fn attention_floats(queries: usize, key_dim: usize, value_dim: usize) -> usize {
    queries * (key_dim + 2 * ATTENTION_TILE + 2 * value_dim + 4) + Tokens::PAGE.index() * (key_dim + value_dim)
}

impl Scratch {
    /// Bytes of all parts.
    pub fn total(&self) -> Bytes {
        self.acts + self.angles + self.groups + self.worker.times(self.workers.into()) + self.parts
    }

    fn widen(&mut self, other: Scratch) {
        self.acts = self.acts.max(other.acts);
        self.angles = self.angles.max(other.angles);
        self.groups = self.groups.max(other.groups);
        self.worker = self.worker.max(other.worker);
        self.parts = self.parts.max(other.parts);
    }
}

/// Scratch of a split of `nodes` at the full batch.
pub fn scratch(device: &DeviceSpec, graph: &Graph, nodes: &[NodeId]) -> Scratch {
    let mut all = Scratch { workers: device.workers, ..Scratch::default() };
    match device.kind {
        BackendKind::Null => {}
        BackendKind::Cpu => nodes.iter().for_each(|&node| all.widen(cpu_node(graph, node))),
        BackendKind::Cuda | BackendKind::Vulkan => {
            all.workers = 0;
            nodes.iter().for_each(|&node| all.widen(card_node(graph, node)));
        }
    }
    all
}

fn cpu_node(graph: &Graph, id: NodeId) -> Scratch {
    let node = graph.node(id);
    let rows = u64::from(graph.rows(node.out.rows).0);
    match &node.op {
        Op::MatMul(op) => acts(graph, op.weight, rows),
        Op::HeadMatMul(op) => head_acts(graph, op.weight, rows),
        Op::Moe(Moe::Experts(op)) => {
            let slots = if op.slotted { graph.node(op.routing).out.cols } else { 1 };
            let groups = groups_of(graph, op.routing, rows);
            Scratch { groups, ..acts(graph, op.weight, rows * u64::from(slots)) }
        }
        Op::Moe(Moe::Route(op)) => Scratch {
            worker: Element::F32.bytes_of(ROUTE_FLOATS * u64::from(graph.node(op.logits).out.cols)).align_up(ALIGN),
            ..Scratch::default()
        },
        Op::Rope(op) => Scratch { angles: angles(rows, op), ..Scratch::default() },
        Op::Attention(op) => {
            let key_dim = graph.states()[op.keys].head_dim as usize;
            let value_dim = op.values.head_dim(|id| &graph.states()[id]) as usize;
            let floats = attention_floats(ATTENTION_QUERIES, key_dim, value_dim) as u64;
            Scratch { worker: Element::F32.bytes_of(floats).align_up(ALIGN), ..Scratch::default() }
        }
        Op::Rows(_) => {
            let worker = Element::F32.bytes_of(node.out.cols.into()).align_up(ALIGN);
            Scratch { worker, ..Scratch::default() }
        }
        Op::Norm(_) | Op::Cache(_) | Op::Elementwise(_) | Op::Moe(Moe::Combine(_)) => Scratch::default(),
    }
}

/// What kernels of cards may need between two launches; all else they keep in registers.
fn card_node(graph: &Graph, id: NodeId) -> Scratch {
    let node = graph.node(id);
    let rows = u64::from(graph.rows(node.out.rows).0);
    match &node.op {
        Op::MatMul(op) => card_acts(graph, op.weight, rows),
        Op::HeadMatMul(op) => card_acts(graph, op.weight, rows * u64::from(graph.weights()[op.weight].count)),
        Op::Moe(Moe::Experts(op)) => {
            let used = graph.node(op.routing).out.cols;
            let slots = if op.slotted { used } else { 1 };
            let groups = card_groups(graph.weights()[op.weight].count, rows * u64::from(used));
            Scratch { groups, ..card_acts(graph, op.weight, rows * u64::from(slots)) }
        }
        Op::Attention(op) => {
            let few = AttentionParts::of(graph, op);
            let rows = rows.min(few.rows.into());
            Scratch { parts: few.bytes.times(rows).align_up(ALIGN), ..Scratch::default() }
        }
        Op::Rows(_)
        | Op::Norm(_)
        | Op::Rope(_)
        | Op::Cache(_)
        | Op::Elementwise(_)
        | Op::Moe(Moe::Route(_) | Moe::Combine(_)) => Scratch::default(),
    }
}

/// How attention on cards cuts the cells of a sequence: the same for every batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionParts {
    /// Cells of a part, from the start of the sequence on.
    pub span: u32,
    /// Parts that a row may reach.
    pub count: u32,
    /// Rows up to which each part has a team of its own.
    pub rows: u32,
    /// Bytes that the parts of a row take: for each head and part two numbers and a row of values.
    pub bytes: Bytes,
}

/// The most parts that a whole cache has, more or less.
const PARTS: u32 = 64;

/// The most bytes of parts, and rows that they are for.
const PARTS_BYTES: u64 = 32 << 20;
const PARTS_ROWS: u64 = 8;

impl AttentionParts {
    pub(crate) fn of(graph: &Graph, op: &Attention) -> AttentionParts {
        let cells = graph.states()[op.keys].cells.0;
        let tile = ATTENTION_TILE as u32;
        let span = tile * cells.div_ceil(tile * PARTS).max(1);
        let (reach, more) = match op.mask {
            Mask::Causal => (cells, 0),
            Mask::Window(n) => (n.min(cells), 1),
        };
        let count = reach.div_ceil(span) + more;
        let value_dim = op.values.head_dim(|id| &graph.states()[id]);
        let bytes = 4 * u64::from(op.heads) * u64::from(count) * (u64::from(value_dim) + 2);
        // Where there is one part, it is all.
        let rows = if count < 2 { 0 } else { (PARTS_BYTES / bytes.max(1)).min(PARTS_ROWS) };
        AttentionParts { span, count, rows: rows as u32, bytes: Bytes(bytes) }
    }
}

/// Rows of activations for a weight whose blocks may be multiplied as bytes.
fn card_acts(graph: &Graph, weight: WeightId, rows: u64) -> Scratch {
    let weight = &graph.weights()[weight];
    match act_format(weight.dtype) {
        Some(ActFormat::Q8x32 | ActFormat::Q8x256) => {
            Scratch { acts: acts_bytes(rows * u64::from(weight.cols)).align_up(ALIGN), ..Scratch::default() }
        }
        Some(ActFormat::F32 | ActFormat::F16) | None => Scratch::default(),
    }
}

/// The start and the number of each expert's slots, then all slots.
fn card_groups(experts: u32, slots: u64) -> Bytes {
    Bytes(4 * (2 * u64::from(experts) + slots)).align_up(ALIGN)
}

/// Bytes of so many activations as kernels of cards hold them, in runs of 32: a byte each, and for each run a scale and
/// two sums.
pub(crate) fn acts_bytes(numbers: u64) -> Bytes {
    Bytes(numbers + numbers / 32 * 8)
}

fn acts(graph: &Graph, weight: WeightId, rows: u64) -> Scratch {
    let weight = &graph.weights()[weight];
    // Float kernels read the values where they are.
    let format = act_format(weight.dtype).filter(|&format| format != ActFormat::F32);
    let row = format.map_or(0, |format| act_row_bytes(format, weight.cols as usize) as u64);
    Scratch { acts: Bytes(rows * row).align_up(ALIGN), worker: MATMUL_WORKER, ..Scratch::default() }
}

/// A product of heads reads each head's elements from scratch, also those that its kernels take as they are.
fn head_acts(graph: &Graph, weight: WeightId, rows: u64) -> Scratch {
    let weight = &graph.weights()[weight];
    let row = act_format(weight.dtype).map_or(0, |format| act_row_bytes(format, weight.cols as usize) as u64);
    let acts = Bytes(rows * u64::from(weight.count) * row).align_up(ALIGN);
    Scratch { acts, worker: MATMUL_WORKER, ..Scratch::default() }
}

fn angles(rows: u64, op: &Rope) -> Bytes {
    Element::F32.bytes_of(rows * u64::from(op.rotary)).align_up(ALIGN)
}

/// Starts of the groups, experts that are used and their number, then slot and row of every choice.
fn groups_of(graph: &Graph, routing: NodeId, rows: u64) -> Bytes {
    let experts = u64::from(graph.experts(routing));
    let used = u64::from(graph.node(routing).out.cols);
    Bytes(4 * ((experts + 1) + (experts + 1) + 2 * rows * used)).align_up(ALIGN)
}
