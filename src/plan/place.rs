//! Every node gets a device and a reason: weights and states decide first, then neighbours.
//! Never moves a value between devices; that a node's operands meet on its device is checked here.

use super::{Placement, PlanError, Reason};
use crate::device::{DeviceId, Machine, MemoryId, supports};
use crate::graph::ops::{Moe, Rows};
use crate::graph::{Graph, NodeId, Op, Operand};
use crate::index::{Id, IndexVec};
use crate::residency::Residency;

/// Places all nodes of `graph`.
pub(super) fn place(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
) -> Result<IndexVec<NodeId, Placement>, PlanError> {
    complete(graph, residency)?;
    let mut seeds = Vec::with_capacity(graph.len());
    for (id, _) in graph.nodes() {
        seeds.push(seed(graph, residency, machine, id)?);
    }
    follow_inputs(graph, &mut seeds);
    follow_users(graph, &mut seeds);
    let placements: IndexVec<NodeId, Placement> = seeds.into_iter().map(|p| p.unwrap_or(FIRST)).collect();
    for (id, node) in graph.nodes() {
        supports(&machine.devices[placements[id].device], graph, node)?;
        meets(graph, machine, &placements, id)?;
    }
    Ok(placements)
}

/// For a node that neither reads nor feeds anything placed.
const FIRST: Placement = Placement { device: DeviceId(0), reason: Reason::FirstDevice };

fn complete(graph: &Graph, residency: &Residency) -> Result<(), PlanError> {
    let homes =
        |what, needed, found| if needed == found { Ok(()) } else { Err(PlanError::Homes { what, needed, found }) };
    homes("weights", graph.weights().len(), residency.weights.len())?;
    homes("states", graph.states().len(), residency.states.len())
}

/// The placement that a node's own weight or state demands.
fn seed(graph: &Graph, residency: &Residency, machine: &Machine, id: NodeId) -> Result<Option<Placement>, PlanError> {
    let Some(operand) = deciding_operand(&graph.node(id).op) else { return Ok(None) };
    let (memory, what, reason) = match operand {
        Operand::Weight(w) => {
            let weight = &graph.weights()[w];
            let Some(home) = residency.weights[w].first() else {
                return Err(PlanError::Homes { what: "weights", needed: graph.weights().len(), found: w.index() });
            };
            (home.memory, &weight.name, Reason::WeightHome(w))
        }
        Operand::State(s) => (residency.states[s], &graph.states()[s].name, Reason::StateHome(s)),
        Operand::Node(_) | Operand::Input(_) => return Ok(None),
    };
    let device = device_of(machine, memory, what)?;
    Ok(Some(Placement { device, reason }))
}

/// The operand whose home is worth going to: a matrix or a cache. Small vectors follow the node instead.
fn deciding_operand(op: &Op) -> Option<Operand> {
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

fn follow_inputs(graph: &Graph, seeds: &mut [Option<Placement>]) {
    for (id, node) in graph.nodes() {
        let from = node.op.node_operands().into_iter().find_map(|n| Some((n, seeds[n.index()]?.device)));
        if let (None, Some((input, device))) = (seeds[id.index()], from) {
            seeds[id.index()] = Some(Placement { device, reason: Reason::FollowsInput(input) });
        }
    }
}

fn follow_users(graph: &Graph, seeds: &mut [Option<Placement>]) {
    for id in graph.node_ids().rev() {
        let to = graph.users(id).into_iter().find_map(|n| Some((n, seeds[n.index()]?.device)));
        if let (None, Some((user, device))) = (seeds[id.index()], to) {
            seeds[id.index()] = Some(Placement { device, reason: Reason::FollowsUser(user) });
        }
    }
}

fn meets(
    graph: &Graph,
    machine: &Machine,
    placements: &IndexVec<NodeId, Placement>,
    id: NodeId,
) -> Result<(), PlanError> {
    let device = placements[id].device;
    let name = |d: DeviceId| machine.devices[d].name.clone();
    for operand in graph.node(id).op.node_operands() {
        let from = placements[operand].device;
        if from != device {
            let node = graph.node(id).name.clone();
            return Err(PlanError::Crossing { node, first: name(from), second: name(device) });
        }
    }
    Ok(())
}
