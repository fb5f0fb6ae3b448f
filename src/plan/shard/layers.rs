//! Which group works on which layer, and which lane each member of it is.

use std::collections::BTreeMap;

use super::{Member, Whole};
use crate::device::MemoryId;
use crate::graph::{Graph, LaneId, Node, NodeId, Op};
use crate::index::IndexVec;
use crate::plan::PlanError;
use crate::residency::Residency;

/// The lanes of a group.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    pub lanes: Vec<LaneId>,
    pub memories: Vec<MemoryId>,
    pub shares: Vec<f64>,
}

impl Lanes {
    /// Members.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Which member computes from `memory`.
    pub fn member(&self, memory: MemoryId) -> Option<usize> {
        self.memories.iter().position(|&m| m == memory)
    }
}

/// Groups of at least two, and the layers that they work on.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    pub groups: Vec<Lanes>,
    /// The memory of every lane.
    pub memories: IndexVec<LaneId, MemoryId>,
    /// By layer, its group.
    of: BTreeMap<u32, usize>,
    /// What of a layer lives outside of the group that has the rest, so that it belongs to none.
    pub apart: Vec<Whole>,
}

impl Layers {
    pub fn of(graph: &Graph, residency: &Residency, groups: &[Vec<Member>]) -> Result<Layers, PlanError> {
        let (needed, found) = (graph.weights().len(), residency.weights.len());
        if needed != found || graph.states().len() != residency.states.len() {
            return Err(PlanError::Homes { what: "weights and states", needed, found });
        }
        let mut layers = Layers { groups: Vec::new(), memories: IndexVec::new(), of: BTreeMap::new(), apart: vec![] };
        for group in groups.iter().filter(|group| group.len() > 1) {
            layers.add(group)?;
        }
        layers.assign(graph, residency);
        Ok(layers)
    }

    fn add(&mut self, group: &[Member]) -> Result<(), PlanError> {
        let mut lanes = Lanes { lanes: Vec::new(), memories: Vec::new(), shares: Vec::new() };
        for &Member { memory, share } in group {
            if self.memories.iter().any(|&m| m == memory) {
                return Err(PlanError::Shard(format!("{memory} works on layers in two places")));
            }
            if !(share.is_finite() && share > 0.0) {
                return Err(PlanError::Shard(format!("{memory} has a share of {share}, needed one above 0")));
            }
            lanes.lanes.push(self.memories.push(memory));
            lanes.memories.push(memory);
            lanes.shares.push(share);
        }
        self.groups.push(lanes);
        Ok(())
    }

    /// A layer belongs to the group that all its matrices and states live with, experts aside.
    fn assign(&mut self, graph: &Graph, residency: &Residency) {
        let (mut found, mut apart): (BTreeMap<u32, Option<usize>>, _) = (BTreeMap::new(), BTreeMap::new());
        for (_, node) in graph.nodes() {
            let Some(layer) = node.layer else { continue };
            for memory in bound(node, residency) {
                let group = self.groups.iter().position(|g| g.member(memory).is_some());
                let held = found.entry(layer).or_insert(group);
                if *held != group {
                    *held = None;
                    let why = format!("{memory} is not of the group that has the rest of layer {layer}");
                    apart.entry(layer).or_insert_with(|| Whole { node: node.name.clone(), why });
                }
            }
        }
        self.apart = apart.into_values().collect();
        self.of = found.into_iter().filter_map(|(layer, group)| Some((layer, group?))).collect();
    }

    /// The group that works on the layer of `id`.
    pub fn group_of(&self, graph: &Graph, id: NodeId) -> Option<usize> {
        graph.node(id).layer.and_then(|layer| self.of.get(&layer).copied())
    }
}

/// Memories of what a node is bound to: matrices that every token is multiplied with, and states.
fn bound(node: &Node, residency: &Residency) -> Vec<MemoryId> {
    let weight = match &node.op {
        Op::MatMul(op) => Some(op.weight),
        Op::HeadMatMul(op) => Some(op.weight),
        Op::Rows(_) | Op::Norm(_) | Op::Rope(_) | Op::Cache(_) | Op::Attention(_) => None,
        Op::Elementwise(_) | Op::Moe(_) => None,
    };
    let weights = weight.into_iter().flat_map(|w| residency.weights[w].iter().map(|home| home.memory));
    weights.chain(node.op.states().map(|s| residency.states[s])).collect()
}
