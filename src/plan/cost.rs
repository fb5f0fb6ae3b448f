//! What a node costs: operations and bytes from its shapes, time from a device's rates.
//! Prices order alternatives; that they are right is for measured tables to say.

use super::Upload;
use super::policy::Policy;
use crate::device::{DeviceId, DeviceSpec, Machine, MemoryId};
use crate::graph::ops::{Mask, Moe, Rows};
use crate::graph::{Graph, NodeId, Op, StateId, Weight, WeightId};
use crate::residency::{Residency, part_bytes};
use crate::tensor::DType;
use crate::units::{Bytes, Nanos, Tokens};

/// The work of a node at the full batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Operations on quantised weights.
    pub int8: f64,
    /// Operations on half-precision weights and caches.
    pub f16: f64,
    /// Operations on single-precision weights.
    pub f32: f64,
    /// Bytes of weights and caches read.
    pub read: f64,
    /// Bytes of values read and written.
    pub values: f64,
}

/// The work of `node`.
pub fn node_work(graph: &Graph, policy: &Policy, node: NodeId) -> Work {
    let op = &graph.node(node).op;
    let rows = f64::from(graph.rows(graph.node(node).out.rows).0);
    let inputs: u64 = op.node_operands().iter().map(|&n| graph.value_bytes(n).0).sum();
    let mut work = Work { values: (inputs + graph.value_bytes(node).0) as f64, ..Work::default() };
    match op {
        Op::MatMul(op) => {
            let weight = &graph.weights()[op.weight];
            work.multiply(weight.dtype, 2.0 * elements(weight) * rows);
            work.read = weight.bytes().0 as f64;
        }
        Op::Moe(Moe::Experts(op)) => {
            let weight = &graph.weights()[op.weight];
            let share = op.matrices(weight.count).len() as f64 / f64::from(weight.count);
            let used = f64::from(graph.node(op.routing).out.cols);
            let matrix = elements(weight) / f64::from(weight.count);
            work.multiply(weight.dtype, 2.0 * matrix * rows * used * share);
            work.read = weight.bytes().0 as f64 * share * chosen(weight.count, used, rows);
        }
        Op::HeadMatMul(op) => {
            let weight = &graph.weights()[op.weight];
            work.multiply(weight.dtype, 2.0 * elements(weight) * rows);
            work.read = weight.bytes().0 as f64;
        }
        Op::Attention(op) => {
            let cells = f64::from(policy.context.0.min(graph.states()[op.keys].cells.0).max(1));
            let row = |s: StateId| graph.states()[s].bytes().0 as f64 / f64::from(graph.states()[s].cells.0);
            let width = f64::from(graph.node(op.q).out.cols) + f64::from(graph.node(node).out.cols);
            // What a row attends to, and what rows that follow each other touch together.
            let (attended, touched) = match op.mask {
                Mask::Causal => (cells, cells),
                Mask::Window(n) => (cells.min(f64::from(n)), cells.min(f64::from(n) + rows - 1.0)),
            };
            work.f16 = 2.0 * width * attended * rows;
            work.read = touched * graph.node(node).op.states().map(row).sum::<f64>();
        }
        Op::Rows(Rows::Embed(op)) => {
            let weight = &graph.weights()[op.weight];
            work.read = weight.bytes().0 as f64 / f64::from(weight.rows) * rows;
        }
        Op::Rows(Rows::Select(_)) | Op::Norm(_) | Op::Rope(_) | Op::Cache(_) | Op::Elementwise(_) => {}
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) => {}
    }
    work
}

fn elements(weight: &Weight) -> f64 {
    f64::from(weight.count) * f64::from(weight.rows) * f64::from(weight.cols)
}

/// The expected share of `experts` that `rows` rows with `used` choices each touch, if all are chosen alike.
fn chosen(experts: u32, used: f64, rows: f64) -> f64 {
    let missed = (1.0 - used / f64::from(experts)).max(0.0);
    1.0 - libm::pow(missed, rows)
}

/// Less than this share of a layer's experts is waited for, and then brought alone. What more would leave out is not worth
/// what could have come while the device computed.
const CHOSEN_SHARE: f64 = 0.75;

/// Whether a step of so many rows, each with `used` of `experts`, brings only those that it chose.
pub fn brings_chosen(experts: u32, used: u32, rows: Tokens) -> bool {
    chosen(experts, f64::from(used), f64::from(rows.0)) < CHOSEN_SHARE
}

/// The share of the experts of `weight` that the batch is expected to bring of it, if it waits for `routing`.
fn chosen_share(graph: &Graph, weight: WeightId, routing: NodeId) -> Option<f64> {
    let (experts, out) = (graph.weights()[weight].count, graph.node(routing).out);
    let rows = graph.rows(out.rows);
    brings_chosen(experts, out.cols, rows).then(|| chosen(experts, f64::from(out.cols), f64::from(rows.0)))
}

impl Upload {
    /// What the batch of `graph` waits for before it brings this, and the share that it is then expected to bring.
    pub fn awaited(&self, graph: &Graph) -> Option<(NodeId, f64)> {
        let routing = self.chosen_by?;
        Some((routing, chosen_share(graph, self.slice.weight, routing)?))
    }
}

/// The routing of the experts that `node` multiplies with, if the batch waits for it where they are streamed.
pub(super) fn awaited_routing(graph: &Graph, policy: &Policy, node: NodeId) -> Option<NodeId> {
    match &graph.node(node).op {
        Op::Moe(Moe::Experts(op)) if policy.chosen_experts => {
            chosen_share(graph, op.weight, op.routing).map(|_| op.routing)
        }
        Op::Moe(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rows(_) | Op::Norm(_) | Op::Rope(_) => None,
        Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => None,
    }
}

impl Work {
    fn multiply(&mut self, dtype: DType, ops: f64) {
        match dtype {
            DType::F32 => self.f32 += ops,
            DType::F16 | DType::Bf16 => self.f16 += ops,
            _quantised => self.int8 += ops,
        }
    }

    /// Its time on `device`.
    pub fn time(self, device: &DeviceSpec) -> Nanos {
        let rates = &device.rates;
        let rate = |ops: f64, rate: f64| if ops > 0.0 { ops / rate } else { 0.0 };
        let compute = rate(self.int8, rates.int8.0) + rate(self.f16, rates.f16.0) + rate(self.f32, rates.f32.0);
        let read = rate(self.read + self.values, rates.read.0);
        let shown = compute.max(read) + (1.0 - rates.hides) * compute.min(read);
        Nanos::of_seconds(shown) + rates.node
    }
}

/// The time of `node` on `device`, its weights being there.
pub fn node_time(graph: &Graph, policy: &Policy, node: NodeId, device: &DeviceSpec) -> Nanos {
    node_work(graph, policy, node).time(device)
}

/// Bytes that must be brought to compute `node` from `memory`: of weights that have no home there.
pub fn upload_bytes(graph: &Graph, residency: &Residency, policy: &Policy, node: NodeId, memory: MemoryId) -> Bytes {
    let weights = graph.node(node).op.weight_operands().into_iter();
    let missing = weights.filter(|&w| !at_home(graph, residency, node, w, memory));
    missing.map(|w| Bytes((part(graph, node, w).0 as f64 * share(graph, policy, node, w)) as u64)).sum()
}

/// The time of those bytes over the links of `machine`.
pub(super) fn upload_time(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    policy: &Policy,
    node: NodeId,
    device: DeviceId,
) -> Nanos {
    let to = machine.devices[device].memory;
    let bytes = upload_bytes(graph, residency, policy, node, to);
    let first = graph.node(node).op.weight_operands().first().map(|&w| residency.weights[w].first().map(|h| h.memory));
    match first.flatten() {
        Some(from) if bytes > Bytes::ZERO => machine.way(from, to).map_or(Nanos(u64::MAX >> 1), |way| way.time(bytes)),
        Some(_) | None => Nanos::ZERO,
    }
}

/// Whether the part of `weight` that `node` reads has a home in `memory`.
pub(super) fn at_home(graph: &Graph, residency: &Residency, node: NodeId, weight: WeightId, memory: MemoryId) -> bool {
    let range = graph.node(node).op.matrices(weight, graph.weights()[weight].count);
    residency.weights[weight].iter().any(|h| h.memory == memory && h.slice.holds(&range))
}

/// Bytes of the part of `weight` that `node` reads, in the file's layout.
fn part(graph: &Graph, node: NodeId, weight: WeightId) -> Bytes {
    let info = &graph.weights()[weight];
    part_bytes(info, &graph.node(node).op.matrices(weight, info.count))
}

/// The share of those bytes that is brought: of experts, what the batch is expected to choose if it waits for that.
fn share(graph: &Graph, policy: &Policy, node: NodeId, weight: WeightId) -> f64 {
    let at = graph.node(node);
    match &at.op {
        Op::Moe(Moe::Experts(op)) if policy.chosen_experts && op.weight == weight => {
            chosen_share(graph, weight, op.routing).unwrap_or(1.0)
        }
        Op::Moe(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rows(_) | Op::Norm(_) | Op::Rope(_) => 1.0,
        Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => 1.0,
    }
}
