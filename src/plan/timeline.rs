//! A plan in virtual time: what each queue of each device does from when to when.
//!
//! A device does what touches it in plan order: its splits, and behind each split the values that cross from it or to
//! it. Weights come on a queue of their own, each as soon as the bytes of the ring that it overwrites are free; experts of
//! which only the chosen ones are brought, when the routing is there; a device that cannot copy while it computes brings
//! them in order, before the split that reads them. Copies that run at the
//! same time share links, buses and the reading of a host's memory (see `flow`).

use serde::Serialize;

use super::cost::node_time;
use super::flow::Routes;
use super::policy::Policy;
use super::queues::{self, Task, Wait, Work};
use super::{Plan, SplitId, TransferId, Upload, UploadId};
use crate::device::{DeviceId, Machine};
use crate::graph::{Graph, NodeId};
use crate::index::{Id, IndexVec};
use crate::units::{Bytes, Nanos};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Runs a split.
    Split(SplitId),
    /// Takes in a value.
    Transfer(TransferId),
    /// Takes in a part of a weight.
    Upload(UploadId),
}

/// One activity. That of a transfer is on the device that takes the value in; the one that sends it waits as well.
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
    /// What is carried, of what depends on the routing as much as is expected; nothing in a split.
    pub bytes: Bytes,
}

/// What happens when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// All activities, in the order in which they end.
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
pub fn timeline(graph: &Graph, machine: &Machine, policy: &Policy, plan: &Plan, steps: u32) -> Timeline {
    let mut routes = Routes::new(machine);
    let mut step = Step::new(graph, machine, policy, plan);
    step.all(&mut routes);
    Timeline { events: queues::run(&step.tasks, &routes, 2 * machine.devices.len(), steps) }
}

/// Steps of a prompt that may be under way together and are followed one by one.
pub const STEPS: u32 = 8;

/// The timeline of the first `together` of `steps` executions of `plan` in a row, and how long all of them take: every
/// later one as long as the last of those.
pub fn followed(
    graph: &Graph,
    machine: &Machine,
    policy: &Policy,
    plan: &Plan,
    steps: u32,
    together: u32,
) -> (Timeline, Nanos) {
    let run = |steps| timeline(graph, machine, policy, plan, steps);
    let first = run(steps.min(together));
    let end = first.end();
    let time = match steps.saturating_sub(together) {
        0 => end,
        rest => end + Nanos(end.saturating_sub(run(together - 1).end()).0.saturating_mul(rest.into())),
    };
    (first, time)
}

/// The queue of a device that computes and takes part in transfers.
fn main(device: DeviceId) -> usize {
    2 * device.index()
}

/// The queue on which its weights come while it computes.
fn aside(device: DeviceId) -> usize {
    2 * device.index() + 1
}

/// Everything that one step does, while it is listed: every queue's tasks in its order.
struct Step<'a> {
    graph: &'a Graph,
    machine: &'a Machine,
    policy: &'a Policy,
    plan: &'a Plan,
    tasks: Vec<Task>,
    /// The task of each split.
    of_split: IndexVec<SplitId, usize>,
    /// The task with which each value is made.
    made: IndexVec<NodeId, usize>,
    /// The task of each transfer.
    of_transfer: IndexVec<TransferId, usize>,
}

impl<'a> Step<'a> {
    fn new(graph: &'a Graph, machine: &'a Machine, policy: &'a Policy, plan: &'a Plan) -> Step<'a> {
        let (mut uploads, mut transfers) = (plan.uploads.iter().peekable(), plan.transfers.iter().peekable());
        let mut next = 0;
        let (mut of_split, mut of_transfer) = (IndexVec::new(), IndexVec::new());
        let mut made: IndexVec<NodeId, usize> = graph.node_ids().map(|_| 0).collect();
        for (id, split) in plan.splits.iter_ids() {
            while uploads.next_if(|u| u.split == id).is_some() {
                next += 1;
            }
            of_split.push(next);
            split.nodes.iter().for_each(|&node| made[node] = next);
            next += 1;
            while transfers.next_if(|t| t.after == id).is_some() {
                of_transfer.push(next);
                next += 1;
            }
        }
        Step { graph, machine, policy, plan, tasks: Vec::with_capacity(next), of_split, made, of_transfer }
    }

    fn all(&mut self, routes: &mut Routes<'_>) {
        let plan = self.plan;
        let before = last_users(self.machine, plan);
        let (mut uploads, mut transfers) = (plan.uploads.iter_ids().peekable(), plan.transfers.iter_ids().peekable());
        for id in plan.splits.ids() {
            while let Some((upload, _)) = uploads.next_if(|(_, u)| u.split == id) {
                self.upload(upload, before[upload], routes);
            }
            self.split(id);
            while let Some((transfer, _)) = transfers.next_if(|(_, t)| t.after == id) {
                self.transfer(transfer, routes);
            }
        }
    }

    fn upload(&mut self, id: UploadId, before: Option<SplitId>, routes: &mut Routes<'_>) {
        let upload = &self.plan.uploads[id];
        let (known, share) = self.chosen(upload).map_or((None, 1.0), |(known, share)| (Some(known), share));
        // One queue does both: the later is done last.
        let this_step = upload.after.map(|split| self.of_split[split]).max(known).map(Wait::InStep);
        let wait = this_step.or_else(|| before.map(|split| Wait::InStepBefore(self.of_split[split])));
        let route = routes.between(upload.from, self.machine.devices[upload.to].memory);
        let work = Work::Copy { bytes: upload.span.len.0 as f64 * share, route };
        let queue = if self.machine.devices[upload.to].overlaps { aside(upload.to) } else { main(upload.to) };
        let lane = Lane { device: upload.to, queue: Queue::Upload };
        self.tasks.push(Task { what: Activity::Upload(id), lane, queues: [queue; 2], wait, work });
    }

    /// Where the batch waits for the routing of an upload: the task with which it is there, and the share that is brought.
    fn chosen(&self, upload: &Upload) -> Option<(usize, f64)> {
        let (routing, share) = upload.awaited(self.graph)?;
        Some((self.there(routing, upload.to)?, share))
    }

    /// The task with which a value is on a device.
    fn there(&self, value: NodeId, device: DeviceId) -> Option<usize> {
        let Plan { placements, transfers, .. } = self.plan;
        if placements[value].device == device {
            return Some(self.made[value]);
        }
        let taken = transfers.iter_ids().find(|(_, transfer)| transfer.value == value && transfer.to == device);
        taken.map(|(id, _)| self.of_transfer[id])
    }

    /// Waits for the last of its uploads, which is listed right before it.
    fn split(&mut self, id: SplitId) {
        let split = &self.plan.splits[id];
        let spec = &self.machine.devices[split.device];
        let nodes = split.nodes.iter().map(|&n| node_time(self.graph, self.policy, n, spec));
        let work = Work::Compute(spec.rates.split + nodes.sum());
        let brought = self.tasks.last().is_some_and(|task| matches!(task.what, Activity::Upload(_)));
        let wait = brought.then(|| Wait::InStep(self.tasks.len() - 1));
        let lane = Lane { device: split.device, queue: Queue::Compute };
        self.tasks.push(Task { what: Activity::Split(id), lane, queues: [main(split.device); 2], wait, work });
    }

    fn transfer(&mut self, id: TransferId, routes: &mut Routes<'_>) {
        let transfer = &self.plan.transfers[id];
        let from = self.plan.placements[transfer.value].device;
        let route = routes.between(self.machine.devices[from].memory, self.machine.devices[transfer.to].memory);
        let work = Work::Copy { bytes: self.graph.value_bytes(transfer.value).0 as f64, route };
        let (lane, queues) = (Lane { device: transfer.to, queue: Queue::Peer }, [main(from), main(transfer.to)]);
        self.tasks.push(Task { what: Activity::Transfer(id), lane, queues, wait: None, work });
    }
}

/// For every upload, the last split that uses the bytes it overwrites: in a later step the ring still holds what the
/// step before it brought.
fn last_users(machine: &Machine, plan: &Plan) -> IndexVec<UploadId, Option<SplitId>> {
    let mut of_device: IndexVec<DeviceId, Vec<&Upload>> = machine.devices.iter().map(|_| Vec::new()).collect();
    plan.uploads.iter().for_each(|u| of_device[u.to].push(u));
    let last = |upload: &Upload| {
        let users = of_device[upload.to].iter().rev();
        users.copied().find(|u| u.span.overlaps(upload.span)).map(|u| u.split)
    };
    plan.uploads.iter().map(|u| if u.after.is_none() { last(u) } else { None }).collect()
}
