//! A timeline → what each device does with its time. The parts add up to the whole exactly.

use serde::Serialize;

use crate::device::{DeviceId, Machine};
use crate::index::IndexVec;
use crate::plan::{Activity, Event, Plan, Timeline};
use crate::units::Nanos;

/// The time of one device by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Causes {
    /// It computes.
    pub compute: Nanos,
    /// It sends or takes in values, and does not compute.
    pub transfer: Nanos,
    /// Weights come, and nothing else happens.
    pub upload: Nanos,
    /// Nothing happens.
    pub idle: Nanos,
}

impl Causes {
    /// All of it: the same for every device of a timeline.
    pub fn total(self) -> Nanos {
        self.compute + self.transfer + self.upload + self.idle
    }
}

/// What each device does from the start to the end of `timeline`.
pub fn causes(machine: &Machine, plan: &Plan, timeline: &Timeline) -> IndexVec<DeviceId, Causes> {
    let end = timeline.end();
    let mut edges: IndexVec<DeviceId, Vec<Edge>> = machine.devices.iter().map(|_| Vec::new()).collect();
    for event in &timeline.events {
        let (what, sender) = kind(plan, event);
        for device in std::iter::once(event.lane.device).chain(sender) {
            edges[device].push(Edge { at: event.start, what, change: 1 });
            edges[device].push(Edge { at: event.end, what, change: -1 });
        }
    }
    edges.iter().map(|edges| sweep(edges.clone(), end)).collect()
}

/// What an event counts as, from what hides the others to what they hide, and the other device that it occupies.
fn kind(plan: &Plan, event: &Event) -> (usize, Option<DeviceId>) {
    match event.what {
        Activity::Split(_) => (0, None),
        Activity::Transfer(id) => {
            let from = plan.placements[plan.transfers[id].value].device;
            (1, Some(from).filter(|&from| from != event.lane.device))
        }
        Activity::Upload(_) => (2, None),
    }
}

/// An activity begins or ends.
#[derive(Clone, Copy)]
struct Edge {
    at: Nanos,
    what: usize,
    change: i32,
}

fn sweep(mut edges: Vec<Edge>, end: Nanos) -> Causes {
    edges.sort_by_key(|e| e.at);
    // Last what happens when nothing does.
    let (mut spent, mut running, mut now) = ([Nanos::ZERO; 4], [0, 0, 0], Nanos::ZERO);
    let shown = |running: [i32; 3]| running.iter().position(|&n| n > 0).unwrap_or(3);
    for Edge { at, what, change } in edges {
        spent[shown(running)] += at.saturating_sub(now);
        now = at;
        running[what] += change;
    }
    spent[3] += end.saturating_sub(now);
    let [compute, transfer, upload, idle] = spent;
    Causes { compute, transfer, upload, idle }
}
