//! Where weights live on a machine with accelerators, by whole layers: the last layers go to the last accelerator until
//! its budget is used, those before them to the one before, the rest to the host. Vectors have copies everywhere.

use std::collections::BTreeMap;

use crate::device::{DeviceSpec, Machine, MemoryId, scratch};
use crate::graph::ops::{Moe, Rows};
use crate::graph::{Graph, NodeId, Op, Weight, WeightId};
use crate::index::IndexVec;
use crate::plan::Policy;
use crate::residency::{Home, Residency, WEIGHT_ALIGN};
use crate::units::Bytes;

/// Homes for `graph`, that of a model's largest batch, on `machine`; they are the same for its smaller ones. Some of every
/// accelerator's budget is left for values and streamed weights, as `policy` streams them.
pub fn homes_for(graph: &Graph, machine: &Machine, policy: &Policy) -> Residency {
    let host = machine.memories.ids().find(|&m| machine.is_host(m)).unwrap_or(MemoryId(0));
    let readers = Readers::of(graph);
    let layers = deal(graph, machine, &readers, |device| left_free(graph, policy, device));
    let at = |layer: &Layer| layers.get(layer).copied().unwrap_or(host);
    let home = |weight, spec: &Weight, memory| Home::of_matrices(weight, 0..spec.count, memory);
    let weights = graph.weights().iter_ids().map(|(id, spec)| match readers.layer[id] {
        Some(layer) => vec![home(id, spec, at(&layer))],
        None => computing(machine).map(|memory| home(id, spec, memory)).collect(),
    });
    let states = graph.states().iter().map(|state| at(&Layer::Block(state.layer)));
    Residency { weights: weights.collect(), states: states.collect(), lanes: IndexVec::new() }
}

/// What is moved as a whole, in the order of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// The token table: stays with the host.
    Input,
    /// A layer.
    Block(u32),
    /// What follows the last layer.
    Output,
}

/// The layer of every matrix; none for vectors.
struct Readers {
    layer: IndexVec<WeightId, Option<Layer>>,
}

impl Readers {
    fn of(graph: &Graph) -> Readers {
        let mut layer: IndexVec<WeightId, Option<Layer>> = graph.weights().iter().map(|_| None).collect();
        for (_, node) in graph.nodes() {
            let Some((weight, embeds)) = matrix(&node.op) else { continue };
            let own = match (embeds, node.layer) {
                (true, _) => Layer::Input,
                (false, Some(n)) => Layer::Block(n),
                (false, None) => Layer::Output,
            };
            layer[weight] = layer[weight].map_or(Some(own), |before| Some(before.min(own)));
        }
        Readers { layer }
    }
}

/// The matrix that a node multiplies with or takes rows of, and whether it is the latter.
fn matrix(op: &Op) -> Option<(WeightId, bool)> {
    match op {
        Op::MatMul(op) => Some((op.weight, false)),
        Op::HeadMatMul(op) => Some((op.weight, false)),
        Op::Moe(Moe::Experts(op)) => Some((op.weight, false)),
        Op::Rows(Rows::Embed(op)) => Some((op.weight, true)),
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) | Op::Rows(Rows::Select(_)) => None,
        Op::Norm(_) | Op::Rope(_) | Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => None,
    }
}

/// Memories that a device computes from, once each.
fn computing(machine: &Machine) -> impl Iterator<Item = MemoryId> {
    machine.memories.ids().filter(|&m| machine.device_of(m).is_some())
}

/// Gives layers to accelerators with memories of their own, from the last of both.
fn deal(
    graph: &Graph,
    machine: &Machine,
    readers: &Readers,
    left_free: impl Fn(&DeviceSpec) -> Bytes,
) -> BTreeMap<Layer, MemoryId> {
    let mut needs: BTreeMap<Layer, Bytes> = BTreeMap::new();
    let mut everywhere = Bytes::ZERO;
    for (id, weight) in graph.weights().iter_ids() {
        let bytes = weight.bytes().align_up(WEIGHT_ALIGN);
        match readers.layer[id] {
            Some(layer) => *needs.entry(layer).or_default() += bytes,
            None => everywhere += bytes,
        }
    }
    graph.states().iter().for_each(|s| *needs.entry(Layer::Block(s.layer)).or_default() += s.bytes());
    needs.remove(&Layer::Input);
    let mut left = needs.into_iter().rev().peekable();
    let mut dealt = BTreeMap::new();
    for memory in computing(machine).filter(|&m| !machine.is_host(m)).collect::<Vec<_>>().into_iter().rev() {
        let budget = machine.budget(memory);
        let free: Bytes = machine.devices.iter().filter(|d| d.memory == memory).map(&left_free).sum();
        let mut used = free + everywhere;
        while let Some((layer, bytes)) = left.next_if(|&(_, bytes)| used + bytes <= budget) {
            used += bytes;
            dealt.insert(layer, memory);
        }
    }
    dealt
}

/// About what an accelerator's arena may take, and the ring into which the largest weights would be streamed.
fn left_free(graph: &Graph, policy: &Policy, device: &DeviceSpec) -> Bytes {
    let mut values: BTreeMap<Option<u32>, Bytes> = BTreeMap::new();
    graph.nodes().for_each(|(id, node)| *values.entry(node.layer).or_default() += graph.value_bytes(id));
    let arena = values.into_values().max().unwrap_or_default().times(2);
    let nodes: Vec<NodeId> = graph.node_ids().collect();
    let (mut largest, mut all) = (Bytes::ZERO, Bytes::ZERO);
    for weight in graph.weights().iter() {
        largest = largest.max(weight.bytes());
        all += weight.bytes();
    }
    let ring = largest.max(policy.chunk).times(SPLITS_A_RING).min(all);
    arena + scratch(device, graph, &nodes).total() + ring
}

/// Splits whose weights a ring holds at a time.
const SPLITS_A_RING: u64 = 3;
