//! Phases, simulated or measured, → the Trace Event Format that Perfetto and Chrome read: a process a device, a thread a
//! queue, a complete event an activity, counters for memories. Times are microseconds; simulated phases follow each other.
//!
//! The format: "Trace Event Format", Google, 2016: `X` is a complete event, `M` metadata, `C` a counter.

use serde_json::{Value, json};

use super::{Phase, Simulation, levels};
use crate::device::{DeviceId, Machine};
use crate::graph::Graph;
use crate::index::Id;
use crate::plan::{Activity, Event, Plan, Queue};
use crate::units::Nanos;

/// The trace of the simulated steps on `machine`, as a JSON document.
pub fn trace(machine: &Machine, simulation: &Simulation) -> String {
    let mut events = names(machine);
    let mut from = Nanos::ZERO;
    for (name, phase) in simulation.phases() {
        let of = Planned { graph: &phase.graph, plan: &phase.plan };
        events.extend(phase.timeline.events.iter().map(|event| activity(of, name, event, from)));
        events.extend(counters(machine, phase, from));
        from += phase.timeline.end();
    }
    trace_document(&events)
}

/// What events of a step are about.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Its plan.
    pub plan: &'a Plan,
}

/// The rows of a [`trace`] with what happened in steps that ran, each with its name and times that count from the first.
pub fn measured<'a>(machine: &Machine, steps: impl Iterator<Item = (&'a str, Planned<'a>, &'a [Event])>) -> Vec<Value> {
    let mut events = names(machine);
    for (name, of, step) in steps {
        events.extend(step.iter().map(|event| activity(of, name, event, Nanos::ZERO)));
    }
    events
}

/// The JSON document of events in this format.
pub fn trace_document(events: &[Value]) -> String {
    json!({ "displayTimeUnit": "ms", "traceEvents": events }).to_string() + "\n"
}

fn micros(time: Nanos) -> f64 {
    time.0 as f64 / 1e3
}

/// Processes are numbered from 1: 0 is the kernel's.
fn process(device: DeviceId) -> usize {
    device.index() + 1
}

const QUEUES: [(Queue, &str); 3] =
    [(Queue::Compute, "compute"), (Queue::Peer, "transfers"), (Queue::Upload, "uploads")];

fn thread(queue: Queue) -> usize {
    match queue {
        Queue::Compute => 1,
        Queue::Peer => 2,
        Queue::Upload => 3,
    }
}

fn names(machine: &Machine) -> Vec<Value> {
    let named = |what: &str, pid: usize, tid: usize, name: &str| json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } });
    let mut events = Vec::new();
    for (id, device) in machine.devices.iter_ids() {
        events.push(named("process_name", process(id), 0, &device.name));
        events.extend(QUEUES.map(|(queue, name)| named("thread_name", process(id), thread(queue), name)));
    }
    events
}

fn activity(of: Planned<'_>, name: &str, event: &Event, from: Nanos) -> Value {
    let bytes = match event.what {
        Activity::Split(_) => None,
        Activity::Transfer(_) | Activity::Upload(_) => Some(event.bytes.0),
    };
    json!({
        "ph": "X",
        "name": title(of, event.what),
        "cat": name,
        "pid": process(event.lane.device),
        "tid": thread(event.lane.queue),
        "ts": micros(from + event.start),
        "dur": micros(event.end.saturating_sub(event.start)),
        "args": { "step": event.step, "bytes": bytes },
    })
}

/// A split by its first and last node, a copy by what is copied.
fn title(of: Planned<'_>, what: Activity) -> String {
    let node = |id| of.graph.node(id).name.as_str();
    match what {
        Activity::Split(id) => match of.plan.splits[id].nodes.as_slice() {
            [] => id.to_string(),
            [only] => format!("{id} {}", node(*only)),
            [first, .., last] => format!("{id} {} .. {}", node(*first), node(*last)),
        },
        Activity::Transfer(id) => format!("{id} {}", node(of.plan.transfers[id].value)),
        Activity::Upload(id) => {
            let slice = &of.plan.uploads[id].slice;
            let weight = &of.graph.weights()[slice.weight];
            match slice.range.len() == weight.count as usize {
                true => format!("{id} {}", weight.name),
                false => format!("{id} {}[{}..{}]", weight.name, slice.range.start, slice.range.end),
            }
        }
    }
}

/// The bytes in use of each memory, shown with the first device that computes from it.
fn counters(machine: &Machine, phase: &Phase, from: Nanos) -> Vec<Value> {
    let mut events = Vec::new();
    for (memory, levels) in levels(machine, phase).iter_ids() {
        let Some(device) = machine.device_of(memory) else { continue };
        events.extend(levels.iter().map(|level| {
            json!({
                "ph": "C",
                "name": machine.memories[memory].name,
                "pid": process(device),
                "ts": micros(from + level.at),
                "args": {
                    "weights": level.weights.0, "states": level.states.0,
                    "arena": level.arena.0, "ring": level.ring.0,
                },
            })
        }));
    }
    events
}
