//! Homes hold every weight, and each memory holds what the plan says it does.

use super::{Case, Violation};
use crate::device::MemoryId;
use crate::graph::WeightId;
use crate::plan::MemoryUse;
use crate::residency::{Axis, Home, Storage, WEIGHT_ALIGN, slice_bytes};

/// Every weight lies in runs that cover it once, or whole in each of several memories.
pub(super) fn complete(Case { graph, residency, .. }: Case<'_>) -> Result<(), Violation> {
    for (id, homes) in residency.weights.iter_ids() {
        covers(id, graph.weights()[id].count, homes).map_err(|why| Violation::Homes { weight: id, why })?;
    }
    Ok(())
}

fn covers(id: WeightId, count: u32, homes: &[Home]) -> Result<(), &'static str> {
    if homes.iter().any(|h| h.slice.weight != id) {
        return Err("hold another weight");
    }
    if homes.iter().any(|h| h.slice.axis != Axis::Expert) {
        return Err("are cut within matrices");
    }
    if homes.is_empty() {
        return Err("are none");
    }
    if homes.iter().all(|h| h.slice.range == (0..count)) {
        let mut memories: Vec<MemoryId> = homes.iter().map(|h| h.memory).collect();
        memories.sort_unstable();
        return if memories.windows(2).any(|w| w[0] == w[1]) { Err("are the same twice") } else { Ok(()) };
    }
    let mut runs: Vec<(u32, u32)> = homes.iter().map(|h| (h.slice.range.start, h.slice.range.end)).collect();
    runs.sort_unstable();
    let mut end = 0;
    for (start, next) in runs {
        if start != end || next <= start {
            return Err("leave a gap, overlap, or are empty");
        }
        end = next;
    }
    if end == count { Ok(()) } else { Err("end before or behind the weight") }
}

/// What each memory holds is what the plan states, and within its budget.
pub(super) fn budgets(case: Case<'_>) -> Result<(), Violation> {
    for (memory, spec) in case.machine.memories.iter_ids() {
        let (needed, stated) = (need(case, memory), case.plan.memories[memory]);
        if stated != needed {
            return Err(Violation::Memory { memory: spec.name.clone(), stated, needed });
        }
        let (need, budget) = (needed.total(), case.machine.budget(memory));
        if need > budget {
            return Err(Violation::Budget { memory: spec.name.clone(), need, budget });
        }
    }
    Ok(())
}

fn need(Case { graph, residency, machine, plan }: Case<'_>, memory: MemoryId) -> MemoryUse {
    let mut need = MemoryUse::default();
    for (weight, homes) in residency.weights.iter_ids() {
        for home in homes.iter().filter(|h| h.memory == memory && h.storage == Storage::Allocated) {
            need.weights +=
                slice_bytes(&graph.weights()[weight], &home.slice.range, home.layout).align_up(WEIGHT_ALIGN);
        }
    }
    for (state, _) in residency.states.iter_ids().filter(|&(_, &home)| home == memory) {
        need.states += graph.states()[state].bytes();
    }
    for (device, arena) in plan.arenas.iter_ids() {
        if machine.devices[device].memory == memory {
            need.arenas += arena.bytes;
            need.rings += plan.rings[device];
        }
    }
    need
}
