//! A plan → its totals as short tables: splits, values that cross, streamed weights, bytes a memory.

use std::collections::BTreeMap;

use super::device_name;
use super::escape;
use super::text::{line, table};
use crate::device::{DeviceId, Machine, MemoryId};
use crate::graph::Graph;
use crate::plan::{MemoryUse, Plan};
use crate::units::Bytes;

/// Splits by device; transfers by way; streamed weights by way; memories.
pub(super) fn summary(graph: &Graph, plan: &Plan, machine: &Machine, out: &mut String) {
    splits(plan, machine, out);
    crossing(graph, plan, machine, out);
    streamed(plan, machine, out);
    line(out, "memory:");
    let rows = plan.memories.iter_ids().map(|(id, used)| {
        let MemoryUse { weights, states, arenas, rings } = *used;
        let parts = format!("= weights {weights} + cache {states} + arenas {arenas} + rings {rings}");
        [escape(&machine.memories[id].name), used.total().to_string(), parts]
    });
    out.push_str(&table(&rows.collect::<Vec<_>>()));
}

fn splits(plan: &Plan, machine: &Machine, out: &mut String) {
    let mut count: BTreeMap<DeviceId, usize> = BTreeMap::new();
    plan.splits.iter().for_each(|split| *count.entry(split.device).or_default() += 1);
    let parts: Vec<String> = count.iter().map(|(&d, n)| format!("{} {n}", device_name(machine, d))).collect();
    line(out, &format!("splits: {}: {}", plan.splits.len(), parts.join(", ")));
}

/// How often and how much.
type Sum = (usize, Bytes);

fn add(sums: &mut BTreeMap<(u32, u32), Sum>, way: (u32, u32), bytes: Bytes) {
    let sum = sums.entry(way).or_default();
    *sum = (sum.0 + 1, sum.1 + bytes);
}

fn crossing(graph: &Graph, plan: &Plan, machine: &Machine, out: &mut String) {
    let mut sums = BTreeMap::new();
    for t in plan.transfers.iter() {
        add(&mut sums, (plan.placements[t.value].device.0, t.to.0), graph.value_bytes(t.value));
    }
    line(out, &format!("transfers: {}", total(&sums)));
    let rows = sums.iter().map(|(&(from, to), sum)| {
        let name = |d| device_name(machine, DeviceId(d));
        [format!("{} -> {}", name(from), name(to)), shown(sum)]
    });
    out.push_str(&table(&rows.collect::<Vec<_>>()));
}

fn streamed(plan: &Plan, machine: &Machine, out: &mut String) {
    let mut sums = BTreeMap::new();
    plan.uploads.iter().for_each(|u| add(&mut sums, (u.from.0, u.to.0), u.span.len));
    line(out, &format!("streamed: {}", total(&sums)));
    let rows = sums.iter().map(|(&(from, to), sum)| {
        let from = escape(&machine.memories[MemoryId(from)].name);
        let ring = format!("through a ring of {}", plan.rings[DeviceId(to)]);
        [format!("{from} -> {}", device_name(machine, DeviceId(to))), shown(sum), ring]
    });
    out.push_str(&table(&rows.collect::<Vec<_>>()));
}

fn shown((count, bytes): &Sum) -> String {
    format!("{count} of {bytes}")
}

fn total(sums: &BTreeMap<(u32, u32), Sum>) -> String {
    let (count, bytes) = sums.values().fold((0, Bytes::ZERO), |(n, all), &(m, bytes)| (n + m, all + bytes));
    if count == 0 { "none".to_owned() } else { shown(&(count, bytes)) }
}
