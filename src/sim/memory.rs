//! A timeline and the lifetimes of values → the bytes in use in each memory over time, by kind.
//! What is allocated is the plan's to say; this is how much of it holds something that is still needed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Phase;
use crate::device::{DeviceId, Machine, MemoryId};
use crate::graph::{NodeId, Operand};
use crate::index::IndexVec;
use crate::plan::{Activity, SplitId, node_time};
use crate::units::{Bytes, Nanos};

/// The bytes in use of one memory from a time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Level {
    /// From when.
    pub at: Nanos,
    /// Weights that live there.
    pub weights: Bytes,
    /// States.
    pub states: Bytes,
    /// Values, inputs and scratch that are still needed.
    pub arena: Bytes,
    /// Streamed weights that are coming, or that a split has yet to read.
    pub ring: Bytes,
}

impl Level {
    /// All of it.
    pub fn total(self) -> Bytes {
        self.weights + self.states + self.arena + self.ring
    }
}

/// Levels of each memory in the first step of `phase`, in order of time; each holds until the next.
pub fn levels(machine: &Machine, phase: &Phase) -> IndexVec<MemoryId, Vec<Level>> {
    let clock = Clock::of(machine, phase);
    let mut changes: IndexVec<MemoryId, BTreeMap<Nanos, [i128; 2]>> =
        machine.memories.iter().map(|_| BTreeMap::new()).collect();
    let mut add = |device: DeviceId, kind: usize, bytes: Bytes, from: Nanos, to: Nanos| {
        let of_memory = &mut changes[machine.devices[device].memory];
        of_memory.entry(from).or_default()[kind] += i128::from(bytes.0);
        of_memory.entry(to).or_default()[kind] -= i128::from(bytes.0);
    };
    clock.values(&mut |device, bytes, from, to| add(device, 0, bytes, from, to));
    for event in phase.timeline.events.iter().filter(|e| e.step == 0) {
        if let Activity::Upload(id) = event.what {
            let upload = &phase.plan.uploads[id];
            add(upload.to, 1, upload.span.len, event.start, clock.splits[upload.split].1);
        }
    }
    let memories = machine.memories.ids();
    memories.map(|memory| sum(phase, memory, &changes[memory])).collect()
}

fn sum(phase: &Phase, memory: MemoryId, changes: &BTreeMap<Nanos, [i128; 2]>) -> Vec<Level> {
    let used = phase.plan.memories[memory];
    let mut held = [0i128; 2];
    let mut levels = vec![Level {
        at: Nanos::ZERO,
        weights: used.weights,
        states: used.states,
        arena: Bytes::ZERO,
        ring: Bytes::ZERO,
    }];
    for (&at, change) in changes {
        (0..2).for_each(|kind| held[kind] += change[kind]);
        let bytes = held.map(|n| Bytes(u64::try_from(n).unwrap_or(0)));
        let level = Level { at, arena: bytes[0], ring: bytes[1], ..levels[0] };
        match levels.last_mut() {
            Some(last) if last.at == at => *last = level,
            Some(_) | None => levels.push(level),
        }
    }
    levels
}

/// When what happens in the first step.
struct Clock<'a> {
    phase: &'a Phase,
    splits: IndexVec<SplitId, (Nanos, Nanos)>,
    nodes: IndexVec<NodeId, (Nanos, Nanos)>,
    end: Nanos,
}

impl<'a> Clock<'a> {
    fn of(machine: &Machine, phase: &'a Phase) -> Clock<'a> {
        let none = (Nanos::ZERO, Nanos::ZERO);
        let mut splits: IndexVec<SplitId, _> = phase.plan.splits.iter().map(|_| none).collect();
        let mut end = Nanos::ZERO;
        for event in phase.timeline.events.iter().filter(|e| e.step == 0) {
            end = end.max(event.end);
            if let Activity::Split(id) = event.what {
                splits[id] = (event.start, event.end);
            }
        }
        let mut nodes: IndexVec<NodeId, _> = phase.graph.node_ids().map(|_| none).collect();
        for (id, split) in phase.plan.splits.iter_ids() {
            let spec = &machine.devices[split.device];
            let mut now = splits[id].0 + spec.rates.split;
            for &node in &split.nodes {
                let time = node_time(&phase.graph, &phase.policy, node, spec);
                nodes[node] = (now, now + time);
                now += time;
            }
        }
        Clock { phase, splits, nodes, end }
    }

    /// Calls `add` with everything that lies in an arena and the time for which it must keep its content.
    fn values(&self, add: &mut dyn FnMut(DeviceId, Bytes, Nanos, Nanos)) {
        let Phase { graph, plan, .. } = self.phase;
        let mut last: BTreeMap<(NodeId, DeviceId), Nanos> = BTreeMap::new();
        let mut inputs: BTreeMap<_, Nanos> = BTreeMap::new();
        for (id, node) in graph.nodes() {
            let device = plan.placements[id].device;
            for operand in node.op.operands() {
                let read = match operand {
                    Operand::Node(value) => last.entry((value, device)).or_default(),
                    Operand::Input(input) => inputs.entry((input, device)).or_default(),
                    Operand::Weight(_) | Operand::State(_) => continue,
                };
                *read = (*read).max(self.nodes[id].1);
            }
        }
        let transfers = self.phase.timeline.events.iter().filter(|e| e.step == 0);
        for event in transfers {
            if let Activity::Transfer(id) = event.what {
                let transfer = plan.transfers[id];
                let read = last.get(&(transfer.value, transfer.to)).copied().unwrap_or_default();
                add(transfer.to, transfer.span.len, event.start, read.max(event.end));
                let own = (transfer.value, plan.placements[transfer.value].device);
                let sent = last.entry(own).or_default();
                *sent = (*sent).max(event.end);
            }
        }
        last.insert((graph.output(), plan.placements[graph.output()].device), self.end);
        for (id, span) in plan.values.iter_ids() {
            let device = plan.placements[id].device;
            let read = last.get(&(id, device)).copied().unwrap_or_default();
            add(device, span.len, self.nodes[id].0, read.max(self.nodes[id].1));
        }
        for copy in &plan.inputs {
            let read = inputs.get(&(copy.input, copy.device)).copied().unwrap_or_default();
            add(copy.device, copy.span.len, Nanos::ZERO, read);
        }
        for (id, split) in plan.splits.iter_ids() {
            let (start, end) = self.splits[id];
            add(split.device, split.scratch.len, start, end);
        }
    }
}
