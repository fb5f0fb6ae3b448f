//! Placements and splits → the values that cross devices: one copy a value and reading device, right after its split.

use std::collections::BTreeSet;

use super::reason::Placement;
use super::split::Cut;
use super::{PlanError, SplitId};
use crate::device::{DeviceId, Machine};
use crate::graph::{Graph, NodeId};
use crate::index::IndexVec;
use crate::units::Bytes;

/// A value that crosses, not yet packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Crossing {
    pub after: SplitId,
    pub value: NodeId,
    pub to: DeviceId,
}

/// All crossings, in order of their splits. A value without bytes orders its readers and needs no copy.
pub(super) fn crossings(
    graph: &Graph,
    machine: &Machine,
    placements: &IndexVec<NodeId, Placement>,
    cut: &Cut,
) -> Result<Vec<Crossing>, PlanError> {
    let mut found = BTreeSet::new();
    for (id, node) in graph.nodes() {
        let to = placements[id].device;
        for value in node.op.node_operands() {
            let from = placements[value].device;
            if from != to && graph.value_bytes(value) > Bytes::ZERO {
                linked(machine, &graph.node(value).name, from, to)?;
                found.insert(Crossing { after: cut.split_of[value], value, to });
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn linked(machine: &Machine, what: &str, from: DeviceId, to: DeviceId) -> Result<(), PlanError> {
    let (from, to) = (machine.devices[from].memory, machine.devices[to].memory);
    if from == to || machine.way(from, to).is_some() {
        return Ok(());
    }
    let name = |m| machine.memories[m].name.clone();
    Err(PlanError::NoLink { what: what.into(), from: name(from), to: name(to) })
}
