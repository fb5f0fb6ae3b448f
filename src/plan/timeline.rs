//! A plan in virtual time: what each queue of each device does from when to when.
//!
//! A device does what touches it in plan order: its splits, and behind each split the values that cross from it or to
//! it. Weights come on a queue of their own, each as soon as the bytes of the ring that it overwrites are free; a device
//! that cannot copy while it computes brings them in order, before the split that reads them. Copies that run at the
//! same time share links, buses and the reading of a host's memory (see `flow`).

use serde::Serialize;

use super::cost::{chosen, node_time};
use super::flow::Routes;
use super::policy::Policy;
use super::queues::{self, Task, Wait, Work};
use super::{Plan, SplitId, TransferId, Upload, UploadId};
use crate::device::{DeviceId, Machine};
use crate::graph::ops::Moe;
use crate::graph::{Graph, Op, WeightId};
use crate::index::{Id, IndexVec};
use crate::units::Nanos;

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
    /// The share of each weight that an upload is expected to bring.
    shares: IndexVec<WeightId, f64>,
}

impl<'a> Step<'a> {
    fn new(graph: &'a Graph, machine: &'a Machine, policy: &'a Policy, plan: &'a Plan) -> Step<'a> {
        let (mut uploads, mut transfers) = (plan.uploads.iter().peekable(), plan.transfers.iter().peekable());
        let mut next = 0;
        let mut of_split = IndexVec::new();
        for id in plan.splits.ids() {
            while uploads.next_if(|u| u.split == id).is_some() {
                next += 1;
            }
            of_split.push(next);
            next += 1;
            while transfers.next_if(|t| t.after == id).is_some() {
                next += 1;
            }
        }
        let shares = expected_shares(graph, policy);
        Step { graph, machine, policy, plan, tasks: Vec::with_capacity(next), of_split, shares }
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
        let this_step = upload.after.map(|split| Wait::InStep(self.of_split[split]));
        let wait = this_step.or_else(|| before.map(|split| Wait::InStepBefore(self.of_split[split])));
        let route = routes.between(upload.from, self.machine.devices[upload.to].memory);
        let work = Work::Copy { bytes: upload.span.len.0 as f64 * self.shares[upload.slice.weight], route };
        let queue = if self.machine.devices[upload.to].overlaps { aside(upload.to) } else { main(upload.to) };
        let lane = Lane { device: upload.to, queue: Queue::Upload };
        self.tasks.push(Task { what: Activity::Upload(id), lane, queues: [queue; 2], wait, work });
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

/// The share of each weight's bytes that a batch is expected to need.
fn expected_shares(graph: &Graph, policy: &Policy) -> IndexVec<WeightId, f64> {
    let mut shares: IndexVec<WeightId, f64> = graph.weights().iter().map(|_| 1.0).collect();
    for (_, node) in graph.nodes().filter(|_| policy.chosen_experts) {
        if let Op::Moe(Moe::Experts(op)) = &node.op {
            let (rows, used) = (graph.rows(node.out.rows).0, graph.node(op.routing).out.cols);
            shares[op.weight] = chosen(graph.weights()[op.weight].count, f64::from(used), f64::from(rows));
        }
    }
    shares
}
