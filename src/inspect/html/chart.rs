//! A timeline → inline SVG: what each queue does when, and how many bytes of its arena and ring a device holds when.
//! What is too short to be seen is drawn together with what follows it, so that no plan makes a large page.

use std::fmt::Write;

use super::{COLOURS, markup};
use crate::device::DeviceId;
use crate::graph::{NodeId, Operand};
use crate::index::{Id, IndexVec};
use crate::inspect::Planned;
use crate::plan::{Activity, Event, Lane, Queue, SplitId, Timeline};
use crate::units::{Bytes, Nanos};

/// Units across a chart; an activity is at least one wide.
const WIDTH: f64 = 1000.0;

/// Steps of a curve.
const STEPS: usize = 400;

/// One row a queue.
pub(super) fn lanes(planned: &Planned<'_>, timeline: &Timeline, out: &mut String) {
    let end = timeline.end();
    let queues = [(Queue::Compute, "computes"), (Queue::Peer, "takes values"), (Queue::Upload, "takes weights")];
    out.push_str("<div class=\"lanes\">\n");
    for (device, spec) in planned.machine.devices.iter_ids() {
        for (queue, what) in queues {
            let here = |e: &&Event| e.lane == Lane { device, queue };
            let mut events: Vec<&Event> = timeline.events.iter().filter(here).collect();
            if events.is_empty() {
                continue;
            }
            events.sort_by_key(|e| (e.start, e.end));
            let busy: Nanos = events.iter().map(|e| e.end.saturating_sub(e.start)).sum();
            let share = 100.0 * busy.seconds() / end.seconds().max(1e-12);
            let (name, count) = (markup(&spec.name), events.len());
            let _ = write!(out, "<div><span>{name} {what}<small>{count} times, {busy}, {share:.0} %</small></span>");
            let label = format!("{name} {what} {count} times, {busy}");
            let _ = write!(
                out,
                "<svg viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">"
            );
            bars(&events, end, out);
            out.push_str("</svg></div>\n");
        }
    }
    let _ =
        writeln!(out, "<div><span></span><span class=\"axis\"><span>0</span><span>{end}</span></span></div>\n</div>");
}

/// Runs of activities that touch at this scale, as rectangles.
fn bars(events: &[&Event], end: Nanos, out: &mut String) {
    let x = |t: Nanos| WIDTH * t.seconds() / end.seconds().max(1e-12);
    let mut runs: Vec<(f64, f64, usize, Activity)> = Vec::new();
    for event in events {
        let (from, to) = (x(event.start), x(event.end));
        match runs.last_mut() {
            Some((start, last, count, _)) if from - *last < 0.2 && (to - *start < 2.0 || to - from < 0.5) => {
                *last = last.max(to);
                *count += 1;
            }
            Some(_) | None => runs.push((from, to, 1, event.what)),
        }
    }
    for (from, to, count, what) in runs {
        let colour = events.first().map_or(0, |e| e.lane.device.index() % COLOURS);
        let name = match (count, what) {
            (1, Activity::Split(id)) => id.to_string(),
            (1, Activity::Transfer(id)) => id.to_string(),
            (1, Activity::Upload(id)) => id.to_string(),
            (n, _) => format!("{n} from {:.1} %", from / 10.0),
        };
        let width = (to - from).max(0.6);
        let _ = write!(
            out,
            "<rect class=\"d{colour}\" x=\"{from:.1}\" width=\"{width:.1}\" height=\"20\"><title>{name}</title></rect>"
        );
    }
}

/// One curve a device.
pub(super) fn memory(planned: &Planned<'_>, timeline: &Timeline, out: &mut String) {
    out.push_str("<div class=\"lanes tall\">\n");
    for (device, spec) in planned.machine.devices.iter_ids() {
        let size = planned.plan.arenas[device].bytes + planned.plan.rings[device];
        if size == Bytes::ZERO {
            continue;
        }
        let held = held(planned, device);
        let most = held.iter().copied().max().unwrap_or_default();
        let name = markup(&spec.name);
        let _ = write!(out, "<div><span>{name}<small>{most} at most, of {size}</small></span>");
        let label = format!("{name} holds {most} at most, of {size}");
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 1000 60\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">"
        );
        curve(&held, planned, timeline, (size, device.index() % COLOURS), out);
        out.push_str("</svg></div>\n");
    }
    out.push_str("</div>\n");
}

fn curve(held: &[Bytes], planned: &Planned<'_>, timeline: &Timeline, (size, colour): (Bytes, usize), out: &mut String) {
    let end = timeline.end().seconds().max(1e-12);
    let mut steps = vec![0u64; STEPS];
    let at = |seconds: f64| ((seconds / end * STEPS as f64) as usize).min(STEPS - 1);
    let order = Order::of(planned);
    for event in &timeline.events {
        let Activity::Split(split) = event.what else { continue };
        let positions = order.positions(split);
        let each = event.end.saturating_sub(event.start).seconds() / positions.len().max(1) as f64;
        for (i, position) in positions.enumerate() {
            let from = event.start.seconds() + each * i as f64;
            let bytes = held.get(position).map_or(0, |b| b.0);
            steps[at(from)..=at(from + each)].iter_mut().for_each(|step| *step = (*step).max(bytes));
        }
    }
    let mut path = "M0 60".to_owned();
    for (i, bytes) in steps.iter().enumerate() {
        let y = 60.0 - 60.0 * *bytes as f64 / size.0.max(1) as f64;
        let (from, to) = (i as f64 * WIDTH / STEPS as f64, (i + 1) as f64 * WIDTH / STEPS as f64);
        let _ = write!(path, "L{from:.1} {y:.1}L{to:.1} {y:.1}");
    }
    let _ = write!(out, "<path class=\"d{colour}\" d=\"{path}L1000 60Z\"></path>");
}

/// Nodes in the order in which a plan runs them.
struct Order {
    /// The place of each node in it.
    of: IndexVec<NodeId, usize>,
    /// Where each split begins, and the end of the last.
    starts: Vec<usize>,
}

impl Order {
    fn of(planned: &Planned<'_>) -> Order {
        let mut order = Order { of: planned.graph.node_ids().map(|_| 0).collect(), starts: vec![0] };
        let mut next = 0;
        for split in planned.plan.splits.iter() {
            for &node in &split.nodes {
                order.of[node] = next;
                next += 1;
            }
            order.starts.push(next);
        }
        order
    }

    fn positions(&self, split: SplitId) -> std::ops::Range<usize> {
        self.starts[split.index()]..self.starts[split.index() + 1]
    }

    /// The last place of a split.
    fn last(&self, split: SplitId) -> usize {
        self.starts[split.index() + 1].saturating_sub(1)
    }
}

/// Bytes of a device's arena and ring that are in use, at each node in the order of the plan.
fn held(planned: &Planned<'_>, device: DeviceId) -> Vec<Bytes> {
    let (plan, graph, order) = (planned.plan, planned.graph, Order::of(planned));
    let count = graph.len();
    let mut changes = vec![0i128; count + 1];
    let mut hold = |from: usize, to: usize, bytes: Bytes| {
        changes[from.min(count)] += i128::from(bytes.0);
        changes[(to + 1).min(count)] -= i128::from(bytes.0);
    };
    let last = |value: NodeId, made: usize| {
        let users = graph.users(value).into_iter().filter(|&n| plan.placements[n].device == device);
        users.map(|n| order.of[n]).max().unwrap_or(made).max(made)
    };
    for id in graph.node_ids().filter(|&id| plan.placements[id].device == device) {
        let sent = plan.transfers.iter().filter(|t| t.value == id).map(|t| order.last(t.after)).max();
        hold(order.of[id], last(id, order.of[id]).max(sent.unwrap_or(0)), plan.values[id].len);
    }
    for t in plan.transfers.iter().filter(|t| t.to == device) {
        let from = order.last(t.after);
        hold(from, last(t.value, from), t.span.len);
    }
    for (id, split) in plan.splits.iter_ids().filter(|(_, s)| s.device == device) {
        hold(order.positions(id).start, order.last(id), split.scratch.len);
    }
    for copy in plan.inputs.iter().filter(|c| c.device == device) {
        let readers = graph.nodes().filter(|(id, n)| {
            plan.placements[*id].device == device && n.op.operands().contains(&Operand::Input(copy.input))
        });
        hold(0, readers.map(|(id, _)| order.of[id]).max().unwrap_or(0), copy.span.len);
    }
    // Uploads come one after the other: none comes before those ahead of it.
    let mut from = 0;
    for upload in plan.uploads.iter().filter(|u| u.to == device) {
        from = upload.after.map_or(0, |split| order.last(split) + 1).max(from);
        let to = order.last(upload.split);
        hold(from.min(to), to, upload.span.len);
    }
    let mut now = 0i128;
    let sums = changes[..count].iter().map(|change| {
        now += change;
        Bytes(u64::try_from(now).unwrap_or(0))
    });
    sums.collect()
}
