//! What a model consists of, as far as homes go: layers with their dense weights, stacks of experts and states, and what
//! stands before and behind them.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::ops::{Moe, Rows};
use crate::graph::{Graph, Op, StateId, WeightId};
use crate::residency::WEIGHT_ALIGN;
use crate::units::Bytes;

/// One layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    /// Weights that every token uses.
    pub dense: Vec<WeightId>,
    /// Stacks of experts, all of one count.
    pub stacks: Vec<WeightId>,
    /// The cache.
    pub states: Vec<StateId>,
    /// Bytes of the dense weights, as allocated.
    pub dense_bytes: Bytes,
    /// Bytes of one expert in all stacks.
    pub expert_bytes: Bytes,
    /// Experts.
    pub experts: u32,
    /// Bytes of the cache.
    pub state_bytes: Bytes,
}

impl Layer {
    /// Bytes of everything.
    pub fn bytes(&self) -> Bytes {
        self.dense_bytes + self.state_bytes + self.experts_bytes(self.experts)
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

/// A whole model.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// Its layers, in order.
    pub layers: Vec<Layer>,
    /// Tables of which a few rows are read a step.
    pub embedding: Vec<WeightId>,
    /// What stands behind the layers.
    pub head: Vec<WeightId>,
    /// Bytes of the head.
    pub head_bytes: Bytes,
}

impl Parts {
    /// The parts of `graph`: a weight belongs to the first layer whose nodes read it.
    pub fn of(graph: &Graph) -> Parts {
        let mut owner: BTreeMap<WeightId, Option<u32>> = BTreeMap::new();
        let (mut stacks, mut tables) = (BTreeSet::new(), Vec::new());
        for (_, node) in graph.nodes() {
            for weight in node.op.weight_operands() {
                owner.entry(weight).or_insert(node.layer);
            }
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
        let mut parts = Parts { layers: vec![Layer::default(); count], ..Parts::default() };
        for (weight, layer) in owner {
            parts.add(graph, weight, layer, stacks.contains(&weight), tables.contains(&weight));
        }
        for (id, state) in graph.states().iter_ids() {
            if let Some(layer) = parts.layers.get_mut(state.layer as usize) {
                layer.states.push(id);
                layer.state_bytes += state.bytes();
            }
        }
        parts
    }

    fn add(&mut self, graph: &Graph, id: WeightId, layer: Option<u32>, stack: bool, table: bool) {
        let weight = &graph.weights()[id];
        let bytes = weight.bytes().align_up(WEIGHT_ALIGN);
        match layer {
            Some(layer) if stack => {
                let layer = &mut self.layers[layer as usize];
                layer.stacks.push(id);
                layer.experts = weight.count;
                layer.expert_bytes += Bytes(weight.bytes().0 / u64::from(weight.count));
            }
            Some(layer) => {
                let layer = &mut self.layers[layer as usize];
                layer.dense.push(id);
                layer.dense_bytes += bytes;
            }
            None if table => self.embedding.push(id),
            None => {
                self.head.push(id);
                self.head_bytes += bytes;
            }
        }
    }
}
