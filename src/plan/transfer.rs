//! Placements and splits → the values that cross devices: one copy a value and reading device, as late as the reader can
//! take it without waiting: behind all that its device does before. So devices that make values for each other work at
//! the same time.

use std::collections::BTreeMap;

use super::reason::Placement;
use super::split::Cut;
use super::{PlanError, SplitId};
use crate::device::{DeviceId, Machine};
use crate::graph::{Graph, NodeId};
use crate::index::IndexVec;
use crate::units::Bytes;

/// A value that crosses, not yet packed: behind a split of its maker or of its reader, before the first that reads it.
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
    let mut first_reader: BTreeMap<(NodeId, DeviceId), SplitId> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let to = placements[id].device;
        for value in node.op.node_operands() {
            let from = placements[value].device;
            if from != to && graph.value_bytes(value) > Bytes::ZERO {
                linked(machine, &graph.node(value).name, from, to)?;
                let first = first_reader.entry((value, to)).or_insert(cut.split_of[id]);
                *first = cut.split_of[id].min(*first);
            }
        }
    }
    let before = splits_before(cut);
    let crossing = |(&(value, to), &reader): (&(NodeId, DeviceId), &SplitId)| {
        let made = cut.split_of[value];
        Crossing { after: before[reader].map_or(made, |before| before.max(made)), value, to }
    };
    let mut found: Vec<Crossing> = first_reader.iter().map(crossing).collect();
    found.sort_unstable();
    Ok(found)
}

/// Of every split the one that its device runs before it.
fn splits_before(cut: &Cut) -> IndexVec<SplitId, Option<SplitId>> {
    let mut last: BTreeMap<DeviceId, SplitId> = BTreeMap::new();
    cut.splits.iter_ids().map(|(id, split)| last.insert(split.device, id)).collect()
}

fn linked(machine: &Machine, what: &str, from: DeviceId, to: DeviceId) -> Result<(), PlanError> {
    let (from, to) = (machine.devices[from].memory, machine.devices[to].memory);
    if from == to || machine.way(from, to).is_some() {
        return Ok(());
    }
    let name = |m| machine.memories[m].name.clone();
    Err(PlanError::NoLink { what: what.into(), from: name(from), to: name(to) })
}
