//! A plan in virtual time: what each queue of each device does from when to when.
//!
//! A device computes its splits in plan order, copies values on a queue of their own and weights on another; a split
//! waits for what it reads, an upload for the bytes of the ring that it overwrites. Links that share a bus share its
//! rate evenly among those that the plan uses. A device that cannot copy while it computes does one after the other.

use serde::Serialize;

use super::cost::node_time;
use super::policy::Policy;
use super::{Plan, SplitId, TransferId, Upload, UploadId};
use crate::device::{DeviceId, Machine, MemoryId, Way};
use crate::graph::Graph;
use crate::graph::ops::Moe;
use crate::index::IndexVec;
use crate::units::{Bytes, BytesPerSec, Nanos};

/// A queue of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// Splits.
    Compute,
    /// Values from other devices.
    Peer,
    /// Weights.
    Upload,
}

/// What happens on one queue of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Lane {
    /// The device.
    pub device: DeviceId,
    /// Its queue.
    pub queue: Queue,
}

/// What a queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Runs a split.
    Split(SplitId),
    /// Takes in a value.
    Transfer(TransferId),
    /// Takes in a part of a weight.
    Upload(UploadId),
}

/// One activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Which step, where several follow each other.
    pub step: u32,
    /// Where.
    pub lane: Lane,
    /// What.
    pub what: Activity,
    /// From when.
    pub start: Nanos,
    /// To when.
    pub end: Nanos,
}

/// Whether devices copy while they compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// As their specs say.
    Spec,
    /// None does.
    Off,
}

/// What happens when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// All activities, in the order in which they were scheduled.
    pub events: Vec<Event>,
}

impl Timeline {
    /// When the last activity ends.
    pub fn end(&self) -> Nanos {
        self.events.iter().map(|e| e.end).max().unwrap_or_default()
    }
}

/// The timeline of `steps` executions of `plan` in a row, each as soon as the devices are free: several parts of a
/// prompt in flight, as long as more than one device has work.
pub fn timeline(
    graph: &Graph,
    machine: &Machine,
    policy: &Policy,
    plan: &Plan,
    overlap: Overlap,
    steps: u32,
) -> Timeline {
    let mut clock = Clock::new(graph, machine, policy, plan, overlap);
    for step in 0..steps {
        clock.step(step);
    }
    clock.timeline
}

struct Clock<'a> {
    graph: &'a Graph,
    machine: &'a Machine,
    plan: &'a Plan,
    overlap: Overlap,
    /// Time of each split.
    work: IndexVec<SplitId, Nanos>,
    /// Time of each upload.
    upload: IndexVec<UploadId, Nanos>,
    /// When each device's compute queue, and its upload queue, is free.
    free: IndexVec<DeviceId, Nanos>,
    free_upload: IndexVec<DeviceId, Nanos>,
    /// When each split of the last step and of this one is done.
    done: IndexVec<SplitId, Nanos>,
    timeline: Timeline,
}

impl<'a> Clock<'a> {
    fn new(graph: &'a Graph, machine: &'a Machine, policy: &'a Policy, plan: &'a Plan, overlap: Overlap) -> Clock<'a> {
        let work = plan.splits.iter().map(|split| {
            let spec = &machine.devices[split.device];
            spec.rates.split + split.nodes.iter().map(|&n| node_time(graph, policy, n, spec)).sum()
        });
        let upload = plan.uploads.iter().map(|u| upload_time(graph, machine, policy, plan, u));
        let zeros = || machine.devices.ids().map(|_| Nanos::ZERO).collect();
        Clock {
            graph,
            machine,
            plan,
            overlap,
            work: work.collect(),
            upload: upload.collect(),
            free: zeros(),
            free_upload: zeros(),
            done: plan.splits.iter().map(|_| Nanos::ZERO).collect(),
            timeline: Timeline::default(),
        }
    }

    fn step(&mut self, step: u32) {
        let mut arrived: IndexVec<SplitId, Nanos> = self.plan.splits.iter().map(|_| Nanos::ZERO).collect();
        let before = self.done.clone();
        for (id, split) in self.plan.splits.iter_ids() {
            let mut ready = arrived[id].max(self.free[split.device]);
            for (upload, _) in self.plan.uploads.iter_ids().filter(|(_, u)| u.split == id) {
                ready = ready.max(self.bring(step, upload, &before));
            }
            let start = ready.max(self.free[split.device]);
            let end = start + self.work[id];
            self.push(step, split.device, Queue::Compute, Activity::Split(id), (start, end));
            self.free[split.device] = end;
            self.done[id] = end;
            self.send(step, id, &mut arrived);
        }
    }

    /// Schedules an upload and returns when it is there.
    fn bring(&mut self, step: u32, id: UploadId, before: &IndexVec<SplitId, Nanos>) -> Nanos {
        let upload = &self.plan.uploads[id];
        let overlaps = self.overlap == Overlap::Spec && self.machine.devices[upload.to].overlaps;
        // In a later step the ring still holds what the splits of the step before it read.
        let freed = upload.after.map_or(before[upload.split], |split| self.done[split]);
        let queue = if overlaps { self.free_upload[upload.to] } else { self.free[upload.to] };
        let start = freed.max(queue);
        let end = start + self.upload[id];
        self.free_upload[upload.to] = end;
        if !overlaps {
            self.free[upload.to] = end;
        }
        let to = upload.to;
        self.push(step, to, Queue::Upload, Activity::Upload(id), (start, end));
        end
    }

    /// Copies what other devices read of a split that is done.
    fn send(&mut self, step: u32, split: SplitId, arrived: &mut IndexVec<SplitId, Nanos>) {
        let from = self.machine.devices[self.plan.splits[split].device].memory;
        for (id, transfer) in self.plan.transfers.iter_ids().filter(|(_, t)| t.after == split) {
            let to = self.machine.devices[transfer.to].memory;
            let bytes = self.graph.value_bytes(transfer.value);
            let time = self.machine.way(from, to).map_or(Nanos::ZERO, |way| way.time(bytes));
            // The destination's earlier splits may still use the bytes that it lands in.
            let start = self.done[split].max(self.free[transfer.to]);
            let end = start + time;
            self.push(step, transfer.to, Queue::Peer, Activity::Transfer(id), (start, end));
            let readers = self.plan.splits.iter_ids().filter(|(id, s)| *id > split && s.device == transfer.to);
            let reads = |nodes: &[crate::graph::NodeId]| {
                nodes.iter().any(|&n| self.graph.node(n).op.node_operands().contains(&transfer.value))
            };
            let first = readers.filter(|(_, s)| reads(&s.nodes)).map(|(id, _)| id).next();
            first.into_iter().for_each(|reader| arrived[reader] = arrived[reader].max(end));
        }
    }

    fn push(&mut self, step: u32, device: DeviceId, queue: Queue, what: Activity, (start, end): (Nanos, Nanos)) {
        self.timeline.events.push(Event { step, lane: Lane { device, queue }, what, start, end });
    }
}

/// The time of one upload: its expected bytes over its way, which shares a bus with the plan's other uploads.
fn upload_time(graph: &Graph, machine: &Machine, policy: &Policy, plan: &Plan, upload: &Upload) -> Nanos {
    let to = machine.devices[upload.to].memory;
    let Some(way) = machine.way(upload.from, to) else { return Nanos(u64::MAX >> 1) };
    let rate =
        shared_rate(machine, plan, upload.from, to).map_or(way.rate, |shared| BytesPerSec(shared.0.min(way.rate.0)));
    let share = if policy.chosen_experts { chosen_share(graph, plan, upload) } else { 1.0 };
    Way { rate, ..way }.time(Bytes((upload.span.len.0 as f64 * share) as u64))
}

/// The rate that a link has of its bus.
fn shared_rate(machine: &Machine, plan: &Plan, from: MemoryId, to: MemoryId) -> Option<BytesPerSec> {
    let bus = machine.link(from, to)?.bus?;
    let mut users: Vec<DeviceId> = plan.uploads.iter().map(|u| u.to).collect();
    users.sort_unstable();
    users.dedup();
    let on_bus = |d: &&DeviceId| machine.link(from, machine.devices[**d].memory).is_some_and(|l| l.bus == Some(bus));
    let count = users.iter().filter(on_bus).count().max(1);
    Some(BytesPerSec(machine.buses.get(bus)?.rate.0 / count as f64))
}

/// The share of an upload's experts that the batch is expected to choose.
fn chosen_share(graph: &Graph, plan: &Plan, upload: &Upload) -> f64 {
    let nodes = plan.splits[upload.split].nodes.iter();
    let share = nodes.filter_map(|&n| match &graph.node(n).op {
        crate::graph::Op::Moe(Moe::Experts(op)) if op.weight == upload.slice.weight => {
            let rows = graph.rows(graph.node(n).out.rows).0;
            let used = graph.node(op.routing).out.cols;
            Some(super::cost::chosen(graph.weights()[op.weight].count, f64::from(used), f64::from(rows)))
        }
        _ => None,
    });
    share.reduce(f64::max).unwrap_or(1.0)
}
