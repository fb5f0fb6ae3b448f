//! What a model consists of, as far as homes go: layers with their dense weights, stacks of experts and states, and what
//! stands before and behind them.

use std::collections::{BTreeMap, BTreeSet};

use crate::device::MemoryId;
use crate::graph::ops::{Moe, Rows};
use crate::graph::{Graph, NodeId, Op, StateId, WeightId};
use crate::residency::WEIGHT_ALIGN;
use crate::units::Bytes;

/// Dense weights of a layer that stay together: its attention, or a matrix behind that with the vectors before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Unit {
    /// Them.
    pub weights: Vec<WeightId>,
    /// Their bytes, as allocated.
    pub bytes: Bytes,
}

/// One layer.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Weights that every token uses, in order of use; at least one unit. A layer with experts has one.
    pub units: Vec<Unit>,
    /// Stacks of experts, all of one count.
    pub stacks: Vec<WeightId>,
    /// The cache.
    pub states: Vec<StateId>,
    /// Bytes of one expert in all stacks.
    pub expert_bytes: Bytes,
    /// Experts.
    pub experts: u32,
    /// Bytes of the cache.
    pub state_bytes: Bytes,
    /// Whether the last unit has its matrix.
    closed: bool,
}

impl Layer {
    fn new() -> Layer {
        Layer {
            units: vec![Unit::default()],
            stacks: Vec::new(),
            states: Vec::new(),
            expert_bytes: Bytes::ZERO,
            experts: 0,
            state_bytes: Bytes::ZERO,
            closed: false,
        }
    }

    /// Bytes of everything.
    pub fn bytes(&self) -> Bytes {
        let dense: Bytes = self.units.iter().map(|u| u.bytes).sum();
        dense + self.state_bytes + self.experts_bytes(self.experts)
    }

    /// Bytes of `n` experts, with what aligns each stack's run.
    pub fn experts_bytes(&self, n: u32) -> Bytes {
        match n {
            0 => Bytes::ZERO,
            n => Bytes(self.expert_bytes.0 * u64::from(n) + WEIGHT_ALIGN * self.stacks.len() as u64),
        }
    }

    /// The most experts, of those that are `left`, that fit into `bytes`.
    pub fn experts_in(&self, bytes: Bytes, left: u32) -> u32 {
        let room = bytes.0.saturating_sub(WEIGHT_ALIGN * self.stacks.len() as u64);
        room.checked_div(self.expert_bytes.0).map_or(0, |n| n.min(u64::from(left)) as u32)
    }
}

/// A weight that has a home already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    /// Which.
    pub weight: WeightId,
    /// Where.
    pub memory: MemoryId,
    /// Its bytes, as allocated.
    pub bytes: Bytes,
}

/// A whole model.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// Its layers, in order.
    pub layers: Vec<Layer>,
    /// Tables of which a few rows are read a step.
    pub embedding: Vec<WeightId>,
    /// Bytes of those.
    pub embedding_bytes: Bytes,
    /// What stands behind the layers.
    pub head: Vec<WeightId>,
    /// Bytes of the head.
    pub head_bytes: Bytes,
    /// What is none of these, having a home already.
    pub pinned: Vec<Pin>,
}

/// Where a weight is read first.
struct Use {
    weight: WeightId,
    layer: Option<u32>,
    node: NodeId,
}

impl Parts {
    /// The parts of `graph`: a weight belongs to the first layer whose nodes read it, but those with `pins`.
    pub fn of(graph: &Graph, pins: &BTreeMap<WeightId, MemoryId>) -> Parts {
        let (mut known, mut uses) = (BTreeSet::new(), Vec::new());
        let (mut stacks, mut tables) = (BTreeSet::new(), Vec::new());
        for (id, node) in graph.nodes() {
            let fresh = node.op.weight_operands().into_iter().filter(|&weight| known.insert(weight));
            uses.extend(fresh.map(|weight| Use { weight, layer: node.layer, node: id }));
            match &node.op {
                Op::Moe(Moe::Experts(op)) => {
                    stacks.insert(op.weight);
                }
                Op::Rows(Rows::Embed(op)) => tables.push(op.weight),
                _ => {}
            }
        }
        let shared = |w: &WeightId| graph.nodes().any(|(_, n)| matches!(&n.op, Op::MatMul(op) if op.weight == *w));
        tables.retain(|w| !shared(w));
        let count = graph.nodes().filter_map(|(_, n)| n.layer).max().map_or(0, |l| l as usize + 1);
        let pinned = pins.iter().map(|(&weight, &memory)| Pin { weight, memory, bytes: bytes(graph, weight) });
        let mut parts = Parts {
            layers: vec![Layer::new(); count],
            embedding: Vec::new(),
            embedding_bytes: Bytes::ZERO,
            head: Vec::new(),
            head_bytes: Bytes::ZERO,
            pinned: pinned.collect(),
        };
        let behind = behind_attention(graph, count);
        for used in uses.into_iter().filter(|used| !pins.contains_key(&used.weight)) {
            parts.add(graph, &used, stacks.contains(&used.weight), tables.contains(&used.weight), &behind);
        }
        parts.layers.iter_mut().filter(|layer| !layer.stacks.is_empty()).for_each(Layer::join);
        for (id, state) in graph.states().iter_ids() {
            if let Some(layer) = parts.layers.get_mut(state.layer as usize) {
                layer.states.push(id);
                layer.state_bytes += state.bytes();
            }
        }
        parts
    }

    /// Bytes pinned to `memory`.
    pub fn pinned_bytes(&self, memory: MemoryId) -> Bytes {
        self.pinned.iter().filter(|pin| pin.memory == memory).map(|pin| pin.bytes).sum()
    }

    fn add(&mut self, graph: &Graph, used: &Use, stack: bool, table: bool, behind: &[Option<NodeId>]) {
        let weight = &graph.weights()[used.weight];
        let bytes = bytes(graph, used.weight);
        match used.layer {
            Some(layer) if stack => {
                let layer = &mut self.layers[layer as usize];
                layer.stacks.push(used.weight);
                layer.experts = weight.count;
                layer.expert_bytes += Bytes(weight.bytes().0 / u64::from(weight.count));
            }
            Some(layer) => {
                let behind = behind[layer as usize].is_some_and(|first| used.node >= first);
                self.layers[layer as usize].push(used.weight, bytes, behind, weight.rows > 1);
            }
            None if table => {
                self.embedding.push(used.weight);
                self.embedding_bytes += bytes;
            }
            None => {
                self.head.push(used.weight);
                self.head_bytes += bytes;
            }
        }
    }
}

impl Layer {
    /// Adds a dense weight: to the attention, or to the vectors that stand before the next matrix, or to that.
    fn push(&mut self, weight: WeightId, bytes: Bytes, behind: bool, matrix: bool) {
        let full = self.units.len() == 1 || self.closed;
        if behind && full {
            self.units.push(Unit::default());
        }
        self.closed = behind && matrix;
        if let Some(unit) = self.units.last_mut() {
            unit.weights.push(weight);
            unit.bytes += bytes;
        }
    }

    /// Makes one unit of all.
    fn join(&mut self) {
        let bytes = self.units.iter().map(|u| u.bytes).sum();
        let weights = self.units.drain(..).flat_map(|u| u.weights).collect();
        self.units.push(Unit { weights, bytes });
    }
}

fn bytes(graph: &Graph, id: WeightId) -> Bytes {
    graph.weights()[id].bytes().align_up(WEIGHT_ALIGN)
}

/// The first node of each layer that is not its attention: the norm behind the last one that reads the cache.
fn behind_attention(graph: &Graph, layers: usize) -> Vec<Option<NodeId>> {
    let (mut cached, mut behind) = (vec![false; layers], vec![None; layers]);
    for (id, node) in graph.nodes() {
        let Some(layer) = node.layer.map(|layer| layer as usize) else { continue };
        if node.op.states().next().is_some() {
            (cached[layer], behind[layer]) = (true, None);
        }
        if matches!(node.op, Op::Norm(_)) && cached[layer] && behind[layer].is_none() {
            behind[layer] = Some(id);
        }
    }
    behind
}
