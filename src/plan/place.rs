//! Every node gets a device and a reason: weights and states decide first, all others go where the fewest bytes cross.
//! Never moves a weight's home; what a device lacks is brought by transfers and uploads.

use super::cost::at_home;
use super::offload::Chooser;
use super::reason::{Placement, Reason};
use super::{PlanError, Policy};
use crate::device::{DeviceId, Machine, MemoryId, supports};
use crate::graph::ops::{Moe, Rows};
use crate::graph::{Graph, NodeId, Op, Operand};
use crate::index::{Id, IndexVec};
use crate::residency::{Residency, part_bytes};

/// Places all nodes of `graph`.
pub(super) fn place(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    policy: &Policy,
) -> Result<IndexVec<NodeId, Placement>, PlanError> {
    complete(graph, residency)?;
    let chooser = Chooser::new(graph, residency, machine, policy);
    let (placed, leaning) = (Vec::with_capacity(graph.len()), Vec::new());
    let mut placer = Placer { graph, residency, machine, placed, leaning };
    for id in graph.node_ids() {
        let seed = seed(&chooser, id)?;
        placer.placed.push(seed);
    }
    placer.lean();
    graph.node_ids().for_each(|id| placer.follow(id));
    graph.node_ids().rev().for_each(|id| placer.follow(id));
    let placements: IndexVec<NodeId, Placement> =
        placer.placed.into_iter().map(|p| p.unwrap_or(first(machine))).collect();
    for (id, node) in graph.nodes() {
        supports(&machine.devices[placements[id].device], graph, node)?;
        let memory = machine.devices[placements[id].device].memory;
        if let Some(apart) = node.op.states().find(|&s| residency.states[s] != memory) {
            let (node, state) = (node.name.clone(), graph.states()[apart].name.clone());
            return Err(PlanError::Apart { node, state, memory: machine.memories[memory].name.clone() });
        }
    }
    Ok(placements)
}

/// For a node that neither reads nor feeds anything placed.
fn first(machine: &Machine) -> Placement {
    let host = machine.devices.iter_ids().find(|(_, d)| !d.is_accelerator()).map(|(id, _)| id);
    Placement { device: host.unwrap_or(DeviceId(0)), reason: Reason::FirstDevice }
}

fn complete(graph: &Graph, residency: &Residency) -> Result<(), PlanError> {
    let homes =
        |what, needed, found| if needed == found { Ok(()) } else { Err(PlanError::Homes { what, needed, found }) };
    homes("weights", graph.weights().len(), residency.weights.len())?;
    homes("states", graph.states().len(), residency.states.len())?;
    let with_homes = residency.weights.iter().filter(|h| !h.is_empty()).count();
    homes("weights", graph.weights().len(), with_homes)
}

/// The placement that a node's own weight or state demands.
fn seed(chooser: &Chooser<'_>, id: NodeId) -> Result<Option<Placement>, PlanError> {
    let Chooser { graph, residency, machine, .. } = *chooser;
    let Some(operand) = deciding_operand(&graph.node(id).op) else { return lane(chooser, id) };
    match operand {
        Operand::Weight(w) => {
            let weight = &graph.weights()[w];
            let range = graph.node(id).op.matrices(w, weight.count);
            let home = residency.weights[w].iter().find(|h| h.slice.holds(&range));
            let Some(home) = home else {
                let (node, weight) = (graph.node(id).name.clone(), weight.name.clone());
                return Err(PlanError::Torn { node, weight, range });
            };
            let device = device_of(machine, home.memory, &weight.name)?;
            match graph.node(id).op {
                // A few rows are read of a table that is worth no journey.
                Op::Rows(_) => Ok(Some(Placement { device, reason: Reason::WeightHome(w) })),
                _ => Ok(Some(chooser.choose(id, w, device))),
            }
        }
        Operand::State(s) => {
            let device = device_of(machine, residency.states[s], &graph.states()[s].name)?;
            Ok(Some(Placement { device, reason: Reason::StateHome(s) }))
        }
        Operand::Node(_) | Operand::Input(_) => Ok(None),
    }
}

/// The placement of a node without such an operand that is for one of several devices.
fn lane(chooser: &Chooser<'_>, id: NodeId) -> Result<Option<Placement>, PlanError> {
    let node = chooser.graph.node(id);
    let Some(lane) = node.lane else { return Ok(None) };
    let lanes = &chooser.residency.lanes;
    let needed = lane.index() + 1;
    let missing = || PlanError::Homes { what: "lanes", needed, found: lanes.len() };
    let memory = *lanes.get(lane).ok_or_else(missing)?;
    let device = device_of(chooser.machine, memory, &node.name)?;
    Ok(Some(Placement { device, reason: Reason::Lane(lane) }))
}

/// The operand whose home is worth going to: a matrix or a cache. Small vectors follow the node instead.
pub(super) fn deciding_operand(op: &Op) -> Option<Operand> {
    match op {
        Op::MatMul(op) => Some(op.weight.into()),
        Op::HeadMatMul(op) => Some(op.weight.into()),
        Op::Rows(Rows::Embed(op)) => Some(op.weight.into()),
        Op::Moe(Moe::Experts(op)) => Some(op.weight.into()),
        Op::Cache(op) => Some(op.keys.into()),
        Op::Attention(op) => Some(op.keys.into()),
        Op::Rows(Rows::Select(_)) | Op::Norm(_) | Op::Rope(_) | Op::Elementwise(_) => None,
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) => None,
    }
}

fn device_of(machine: &Machine, memory: MemoryId, what: &str) -> Result<DeviceId, PlanError> {
    machine.device_of(memory).ok_or_else(|| {
        let name = machine.memories.get(memory).map_or_else(|| memory.to_string(), |m| m.name.clone());
        PlanError::NoDevice { what: what.into(), memory: name }
    })
}

struct Placer<'a> {
    graph: &'a Graph,
    residency: &'a Residency,
    machine: &'a Machine,
    placed: Vec<Option<Placement>>,
    /// Where the value of a node goes in the end, if all that is made of it without a device of its own goes there.
    leaning: Vec<Option<DeviceId>>,
}

impl Placer<'_> {
    /// Looks ahead through nodes that have no device yet.
    fn lean(&mut self) {
        self.leaning = vec![None; self.graph.len()];
        for id in self.graph.node_ids().rev() {
            let users = self.graph.users(id);
            let mut wanted = users.iter().map(|&user| self.leaning[user.index()]);
            let first = wanted.next().flatten().filter(|&device| wanted.all(|other| other == Some(device)));
            self.leaning[id.index()] = self.placed[id.index()].map(|placed| placed.device).or(first);
        }
    }

    /// Gives a node without a device that of the placed neighbour which the fewest bytes have to cross for; among
    /// equals the first input's, then the first user's.
    fn follow(&mut self, id: NodeId) {
        if self.placed[id.index()].is_some() {
            return;
        }
        let device = |n: NodeId| self.placed[n.index()].map(|p| p.device);
        let (inputs, users) = (self.graph.node(id).op.node_operands(), self.graph.users(id));
        let from_inputs = inputs.iter().filter_map(|&n| Some((device(n)?, Reason::FollowsInput(n))));
        let from_users = users.iter().filter_map(|&n| Some((device(n)?, Reason::FollowsUser(n))));
        let able = |d: DeviceId| supports(&self.machine.devices[d], self.graph, self.graph.node(id)).is_ok();
        let places = from_inputs.chain(from_users).filter(|&(d, _)| able(d));
        let best = places.min_by_key(|&(d, _)| self.crossing(id, d, &inputs, &users));
        self.placed[id.index()] = best.map(|(device, reason)| Placement { device, reason });
    }

    /// Bytes that cross if `id` runs on `device`; of nodes behind it without a device, by where they lean.
    fn crossing(&self, id: NodeId, device: DeviceId, inputs: &[NodeId], users: &[NodeId]) -> u64 {
        let elsewhere = |n: &&NodeId| self.placed[n.index()].is_some_and(|p| p.device != device);
        let inward: u64 = inputs.iter().filter(elsewhere).map(|&n| self.graph.value_bytes(n).0).sum();
        let goes = |n: &&NodeId| self.placed[n.index()].map(|p| p.device).or(self.leaning[n.index()]);
        let away = users.iter().filter(|n| goes(n).is_some_and(|to| to != device));
        let outward = away.count() as u64 * self.graph.value_bytes(id).0;
        let memory = self.machine.devices[device].memory;
        let weights = self.graph.node(id).op.weight_operands();
        let missing = weights.into_iter().filter(|&w| !at_home(self.graph, self.residency, id, w, memory));
        let range = |w| self.graph.node(id).op.matrices(w, self.graph.weights()[w].count);
        let brought: u64 = missing.map(|w| part_bytes(&self.graph.weights()[w], &range(w)).0).sum();
        inward + outward + brought
    }
}
