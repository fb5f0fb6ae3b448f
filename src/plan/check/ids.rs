//! Every table of a plan has its length and every id in it names something; what follows may index by them.

use super::{Case, Violation};
use crate::index::{Id, IndexVec};
use crate::plan::{Reason, Rule};

/// Checks all lengths and ids of a case.
pub(super) fn known(case: Case<'_>) -> Result<(), Violation> {
    let Case { graph, plan, .. } = case;
    if plan.batch != graph.batch() {
        return Err(Violation::Batch { planned: plan.batch, graph: graph.batch() });
    }
    lengths(case)?;
    homes(case)?;
    placements(case)?;
    splits(case)?;
    copies(case)?;
    uploads(case)
}

fn lengths(Case { graph, residency, machine, plan }: Case<'_>) -> Result<(), Violation> {
    let count =
        |what, needed, found| if needed == found { Ok(()) } else { Err(Violation::Count { what, needed, found }) };
    count("homes of weights", graph.weights().len(), residency.weights.len())?;
    count("homes of states", graph.states().len(), residency.states.len())?;
    count("placements", graph.len(), plan.placements.len())?;
    count("values", graph.len(), plan.values.len())?;
    count("rings", machine.devices.len(), plan.rings.len())?;
    count("arenas", machine.devices.len(), plan.arenas.len())?;
    count("memories", machine.memories.len(), plan.memories.len())
}

/// Whether `id` is one of `count`.
fn one_of<I: Id>(what: &'static str, id: I, count: usize) -> Result<(), Violation> {
    let index = id.index();
    if index < count { Ok(()) } else { Err(Violation::Unknown { what, index, count }) }
}

/// Whether `id` is one of `all`.
fn among<I: Id, T>(what: &'static str, id: I, all: &IndexVec<I, T>) -> Result<(), Violation> {
    one_of(what, id, all.len())
}

fn homes(Case { residency, machine, .. }: Case<'_>) -> Result<(), Violation> {
    for device in machine.devices.iter() {
        among("the memory of a device", device.memory, &machine.memories)?;
    }
    for home in residency.weights.iter().flatten() {
        among("the home of a weight", home.memory, &machine.memories)?;
    }
    for &memory in residency.states.iter() {
        among("the home of a state", memory, &machine.memories)?;
    }
    for &memory in residency.lanes.iter() {
        among("the memory of a lane", memory, &machine.memories)?;
    }
    Ok(())
}

fn placements(Case { graph, residency, machine, plan }: Case<'_>) -> Result<(), Violation> {
    for placement in plan.placements.iter() {
        among("the device of a node", placement.device, &machine.devices)?;
        match placement.reason {
            Reason::WeightHome(w) | Reason::Offloaded { weight: w, rule: _ } => {
                among("the weight of a reason", w, graph.weights())?;
            }
            Reason::Stays { weight, accelerator, rule } => {
                among("the weight of a reason", weight, graph.weights())?;
                among("the accelerator of a reason", accelerator, &machine.devices)?;
                match rule {
                    Rule::Never | Rule::Threshold { .. } | Rule::Priced(_) | Rule::NoKernel => {}
                }
            }
            Reason::StateHome(s) => among("the state of a reason", s, graph.states())?,
            Reason::Lane(lane) => among("the lane of a reason", lane, &residency.lanes)?,
            Reason::FollowsInput(n) | Reason::FollowsUser(n) => one_of("the node of a reason", n, graph.len())?,
            Reason::FirstDevice => {}
        }
    }
    Ok(())
}

fn splits(Case { graph, machine, plan, .. }: Case<'_>) -> Result<(), Violation> {
    for split in plan.splits.iter() {
        among("the device of a split", split.device, &machine.devices)?;
        split.nodes.iter().try_for_each(|&n| one_of("a node of a split", n, graph.len()))?;
    }
    Ok(())
}

fn copies(Case { graph, machine, plan, .. }: Case<'_>) -> Result<(), Violation> {
    for copy in &plan.inputs {
        among("an input", copy.input, graph.inputs())?;
        among("the device of an input", copy.device, &machine.devices)?;
    }
    for transfer in plan.transfers.iter() {
        one_of("the value of a transfer", transfer.value, graph.len())?;
        among("the split of a transfer", transfer.after, &plan.splits)?;
        among("the device of a transfer", transfer.to, &machine.devices)?;
    }
    Ok(())
}

fn uploads(Case { graph, machine, plan, .. }: Case<'_>) -> Result<(), Violation> {
    for upload in plan.uploads.iter() {
        among("the weight of an upload", upload.slice.weight, graph.weights())?;
        among("the memory of an upload", upload.from, &machine.memories)?;
        among("the device of an upload", upload.to, &machine.devices)?;
        among("the split of an upload", upload.split, &plan.splits)?;
        upload.after.map_or(Ok(()), |after| among("what an upload waits for", after, &plan.splits))?;
        upload.chosen_by.map_or(Ok(()), |routing| one_of("the routing of an upload", routing, graph.len()))?;
    }
    Ok(())
}
