//! Placements → an order of execution and its splits: runs of one device, as long as what is ready allows, cut where
//! enough weights have been streamed, and before experts of which only those are streamed that the split has chosen.
//! Never inserts copies.

use super::cost::{awaited_routing, upload_bytes};
use super::reason::Placement;
use super::{PlanError, Policy, Span, Split, SplitId};
use crate::device::{DeviceId, Machine};
use crate::graph::{Graph, NodeId};
use crate::index::{Id, IndexVec};
use crate::residency::Residency;
use crate::units::Bytes;

/// Splits in order, and where each node is.
pub(super) struct Cut {
    /// The splits; scratch is not yet packed.
    pub splits: IndexVec<SplitId, Split>,
    /// The split of each node.
    pub split_of: IndexVec<NodeId, SplitId>,
}

/// Orders and cuts the graph.
pub(super) fn split(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    policy: &Policy,
    placements: &IndexVec<NodeId, Placement>,
) -> Result<Cut, PlanError> {
    let whole = Policy { chosen_experts: false, ..policy.clone() };
    let mut splits: IndexVec<SplitId, Split> = IndexVec::new();
    let mut split_of: IndexVec<NodeId, SplitId> = graph.node_ids().map(|_| SplitId(0)).collect();
    let mut streamed = Bytes::ZERO;
    for id in order(graph, placements) {
        let device = placements[id].device;
        let bytes = upload_bytes(graph, residency, &whole, id, machine.devices[device].memory);
        let last = splits.ids().next_back().filter(|&s| splits[s].device == device);
        let full = streamed > Bytes::ZERO && bytes > Bytes::ZERO && streamed + bytes > policy.chunk;
        let awaited = awaited_routing(graph, policy, id).filter(|_| bytes > Bytes::ZERO);
        let chosen_here = awaited.is_some_and(|routing| Some(split_of[routing]) == last);
        let at = match last {
            Some(split) if !full && !chosen_here => {
                splits[split].nodes.push(id);
                streamed += bytes;
                split
            }
            Some(_) | None => {
                streamed = bytes;
                let scratch = Span { offset: Bytes::ZERO, len: Bytes::ZERO };
                splits.push(Split { device, nodes: vec![id], scratch })
            }
        };
        split_of[id] = at;
    }
    Ok(Cut { splits, split_of })
}

/// A topological order that stays on a device while it has nodes that are ready, in order of ids; then, and where other
/// lanes wait for what was made, it goes to the device of the lowest ready id.
fn order(graph: &Graph, placements: &IndexVec<NodeId, Placement>) -> Vec<NodeId> {
    let mut waits: Vec<usize> = graph.nodes().map(|(_, n)| distinct(n.op.node_operands())).collect();
    let devices = placements.iter().map(|p| p.device.index() + 1).max().unwrap_or(0);
    let mut ready: Vec<std::collections::BTreeSet<NodeId>> = vec![Default::default(); devices];
    for id in graph.node_ids().filter(|id| waits[id.index()] == 0) {
        ready[placements[id].device.index()].insert(id);
    }
    let mut order = Vec::with_capacity(graph.len());
    let mut device: Option<DeviceId> = None;
    loop {
        let here = device.and_then(|d| ready[d.index()].pop_first());
        let next = here.or_else(|| {
            let at = ready.iter().enumerate().filter_map(|(d, r)| r.first().map(|&id| (id, d))).min()?.1;
            ready[at].pop_first()
        });
        let Some(id) = next else { return order };
        device = Some(placements[id].device).filter(|_| !feeds_other_lanes(graph, placements, id));
        order.push(id);
        for user in graph.users(id) {
            waits[user.index()] -= 1;
            if waits[user.index()] == 0 {
                ready[placements[user].device.index()].insert(user);
            }
        }
    }
}

/// Whether a lane of another device reads the value: lanes work at the same time if each gives its term away at once.
fn feeds_other_lanes(graph: &Graph, placements: &IndexVec<NodeId, Placement>, id: NodeId) -> bool {
    let other = |user: &NodeId| graph.node(*user).lane.is_some() && placements[*user].device != placements[id].device;
    graph.node(id).lane.is_some() && graph.users(id).iter().any(other)
}

fn distinct(mut nodes: Vec<NodeId>) -> usize {
    nodes.sort_unstable();
    nodes.dedup();
    nodes.len()
}
