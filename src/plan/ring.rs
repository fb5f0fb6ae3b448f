//! Splits → uploads: the weights that a split's device lacks, laid one behind the other into a ring of three times the
//! largest split, so that two splits' weights come while a third computes.

use std::collections::BTreeSet;

use super::cost::at_home;
use super::split::Cut;
use super::{PlanError, Policy, Span, SplitId, Upload, UploadId};
use crate::device::{DeviceId, Machine, MemoryId};
use crate::graph::ops::Moe;
use crate::graph::{Graph, NodeId, Op, WeightId};
use crate::index::{Id, IndexVec};
use crate::residency::{Axis, Home, Residency, WeightSlice, slice_bytes};
use crate::units::Bytes;

/// Uploads in order of their splits, and the ring of every device.
pub(super) struct Uploads {
    pub uploads: IndexVec<UploadId, Upload>,
    pub rings: IndexVec<DeviceId, Bytes>,
}

/// Splits whose uploads a ring holds at a time.
const SPLITS_A_RING: u64 = 3;

/// Lays out all uploads.
pub(super) fn uploads(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    policy: &Policy,
    cut: &Cut,
) -> Result<Uploads, PlanError> {
    let mut needs = Vec::new();
    for (id, split) in cut.splits.iter_ids() {
        let found: Result<Vec<Need>, PlanError> = missing(graph, residency, machine, split.device, &split.nodes);
        needs.push((id, split.device, found?));
    }
    let rings: IndexVec<DeviceId, Bytes> = machine.devices.ids().map(|d| ring_bytes(&needs, d)).collect();
    let mut layout: Vec<Ring> =
        rings.iter().map(|&bytes| Ring { bytes, end: Bytes::ZERO, held: Vec::new(), after: None }).collect();
    let mut uploads = IndexVec::new();
    for (split, device, needs) in needs {
        for need in needs {
            let (span, after) = layout[device.index()].take(need.bytes, split);
            let chosen_by = chosen_by(graph, need.slice.weight, &cut.splits[split].nodes);
            let chosen_by = chosen_by.filter(|_| policy.chosen_experts);
            uploads.push(Upload { slice: need.slice, from: need.from, to: device, span, split, after, chosen_by });
        }
    }
    Ok(Uploads { uploads, rings })
}

/// The one routing by which all of `nodes` that read `weight` read it, if none of them makes it.
fn chosen_by(graph: &Graph, weight: WeightId, nodes: &[NodeId]) -> Option<NodeId> {
    let readers = nodes.iter().map(|&node| &graph.node(node).op).filter(|op| op.weight_operands().contains(&weight));
    let mut routings = readers.map(|op| match op {
        Op::Moe(Moe::Experts(op)) if op.weight == weight && op.bias != Some(weight) => Some(op.routing),
        Op::Moe(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rows(_) | Op::Norm(_) | Op::Rope(_) => None,
        Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => None,
    });
    let first = routings.next().flatten()?;
    (routings.all(|other| other == Some(first)) && !nodes.contains(&first)).then_some(first)
}

struct Need {
    slice: WeightSlice,
    from: MemoryId,
    bytes: Bytes,
}

/// What `nodes` read and `device` lacks: every part once.
fn missing(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    device: DeviceId,
    nodes: &[NodeId],
) -> Result<Vec<Need>, PlanError> {
    let spec = &machine.devices[device];
    let (mut seen, mut needs) = (BTreeSet::new(), Vec::new());
    for &node in nodes {
        for weight in graph.node(node).op.weight_operands() {
            let range = graph.node(node).op.matrices(weight, graph.weights()[weight].count);
            let new = seen.insert((weight, range.start, range.end));
            if !new || at_home(graph, residency, node, weight, spec.memory) {
                continue;
            }
            let home = source(graph, residency, machine, node, weight, spec.memory)?;
            let bytes = slice_bytes(&graph.weights()[weight], &range, home.layout).align_up(spec.alignment);
            let slice = WeightSlice { weight, axis: Axis::Expert, range };
            needs.push(Need { slice, from: home.memory, bytes });
        }
    }
    Ok(needs)
}

/// The home that a missing part is brought from: the one with the fastest way.
fn source<'a>(
    graph: &Graph,
    residency: &'a Residency,
    machine: &Machine,
    node: NodeId,
    weight: WeightId,
    to: MemoryId,
) -> Result<&'a Home, PlanError> {
    let info = &graph.weights()[weight];
    let range = graph.node(node).op.matrices(weight, info.count);
    let holders = || residency.weights[weight].iter().filter(|h| h.slice.holds(&range));
    let ways = holders().filter_map(|h| Some((h, machine.way(h.memory, to)?)));
    let fastest = ways.max_by(|a, b| a.1.rate.0.total_cmp(&b.1.rate.0));
    if let Some((home, _)) = fastest {
        return Ok(home);
    }
    let name = |m: MemoryId| machine.memories.get(m).map_or_else(|| m.to_string(), |m| m.name.clone());
    match holders().next() {
        Some(home) => Err(PlanError::NoLink { what: info.name.clone(), from: name(home.memory), to: name(to) }),
        None => Err(PlanError::Torn { node: graph.node(node).name.clone(), weight: info.name.clone(), range }),
    }
}

fn ring_bytes(needs: &[(SplitId, DeviceId, Vec<Need>)], device: DeviceId) -> Bytes {
    let here = needs.iter().filter(|n| n.1 == device).map(|n| n.2.iter().map(|need| need.bytes).sum::<Bytes>());
    let (largest, total) = here.fold((Bytes::ZERO, Bytes::ZERO), |(most, sum), n| (most.max(n), sum + n));
    total.min(Bytes(largest.0.saturating_mul(SPLITS_A_RING)))
}

/// The ring of one device while it is laid out.
struct Ring {
    bytes: Bytes,
    end: Bytes,
    /// What lies in it, oldest first, but what was overwritten in part.
    held: Vec<(Span, SplitId)>,
    /// What the last upload waits for; the next waits for no less, also where it meets the rest of what was overwritten.
    after: Option<SplitId>,
}

impl Ring {
    /// The next `len` bytes, for `split`, and the last split that had any of them before.
    fn take(&mut self, len: Bytes, split: SplitId) -> (Span, Option<SplitId>) {
        let offset = if self.end + len > self.bytes { Bytes::ZERO } else { self.end };
        let span = Span { offset, len };
        let overwritten = self.held.iter().filter(|(held, _)| held.overlaps(span)).map(|&(_, split)| split);
        self.after = overwritten.max().max(self.after);
        self.held.retain(|(held, _)| !held.overlaps(span));
        self.held.push((span, split));
        self.end = span.end();
        (span, self.after)
    }
}
