//! Weights: each is at home where it is read, or comes through the ring in time, and stays there until it was read.

use std::collections::BTreeMap;

use super::ranges::Ranges;
use super::{Case, Violation};
use crate::device::DeviceId;
use crate::graph::ops::Moe;
use crate::graph::{NodeId, Op, Operand, WeightId};
use crate::index::{Id, IndexVec};
use crate::plan::{Span, SplitId, Upload, UploadId};
use crate::residency::{Axis, slice_bytes};
use crate::units::Bytes;

/// Checks every upload by itself, every ring, and that weights and uploads match.
pub(super) fn uploads(case: Case<'_>) -> Result<(), Violation> {
    let Case { machine, plan, .. } = case;
    let mut rings: IndexVec<DeviceId, Ranges<UploadId>> = machine.devices.iter().map(|_| Ranges::new()).collect();
    let mut last = SplitId(0);
    for (id, upload) in plan.uploads.iter_ids() {
        if upload.split < last {
            return Err(Violation::Order { what: "upload", index: id.index() });
        }
        last = upload.split;
        target(case, id, upload)?;
        source(case, id, upload)?;
        waits(case, id, upload)?;
        chosen(case, id, upload)?;
        slot(case, id, upload, &mut rings[upload.to])?;
    }
    for (device, &bytes) in plan.rings.iter_ids() {
        if bytes > Bytes::ZERO && plan.uploads.iter().all(|u| u.to != device) {
            return Err(Violation::Ring { device, bytes });
        }
    }
    reads(case)
}

/// It comes to the device of its split, inside that device's ring.
fn target(Case { machine, plan, .. }: Case<'_>, id: UploadId, upload: &Upload) -> Result<(), Violation> {
    let device = plan.splits[upload.split].device;
    if device != upload.to {
        return Err(Violation::Target { upload: id, to: upload.to, split: upload.split, device });
    }
    let Upload { to, span, .. } = *upload;
    let end = span.offset.checked_add(span.len);
    let aligned = span.offset.0.is_multiple_of(machine.devices[to].alignment);
    if end.is_none_or(|end| end > plan.rings[to]) || !aligned {
        return Err(Violation::Span { what: id.to_string(), span, buffer: plan.rings[to] });
    }
    Ok(())
}

/// Its memory holds all of it, can be reached, and gives it the length that it has.
fn source(Case { graph, residency, machine, .. }: Case<'_>, id: UploadId, upload: &Upload) -> Result<(), Violation> {
    let Upload { ref slice, from, to, span, .. } = *upload;
    let whole = slice.axis == Axis::Expert && !slice.range.is_empty();
    let homes = residency.weights[slice.weight].iter();
    let mut homes = homes.filter(|h| whole && h.memory == from && h.slice.holds(&slice.range)).peekable();
    let Some(home) = homes.peek() else {
        return Err(Violation::NoHome { upload: id, weight: slice.weight, from });
    };
    let spec = &machine.devices[to];
    let needed = slice_bytes(&graph.weights()[slice.weight], &slice.range, home.layout).align_up(spec.alignment);
    if span.len != needed {
        return Err(Violation::Length { what: id.to_string(), needed: needed.0, found: span.len.0 });
    }
    match machine.way(from, spec.memory) {
        Some(_) => Ok(()),
        None => Err(Violation::NoWay { what: id.to_string(), from, to: spec.memory }),
    }
}

/// It waits for nothing that waits for it: only for what its own device did before.
fn waits(Case { plan, .. }: Case<'_>, id: UploadId, upload: &Upload) -> Result<(), Violation> {
    match upload.after {
        Some(after) if after >= upload.split || plan.splits[after].device != upload.to => {
            Err(Violation::Waits { upload: id, split: upload.split, after })
        }
        Some(_) | None => Ok(()),
    }
}

/// It overwrites only what its device has read by the time it starts. The ring names the last upload of each byte;
/// those before it were read no later, since uploads stand in order of their splits.
fn slot(
    Case { plan, .. }: Case<'_>,
    id: UploadId,
    upload: &Upload,
    ring: &mut Ranges<UploadId>,
) -> Result<(), Violation> {
    let span = upload.span;
    for (held, earlier) in ring.clear(span) {
        let reader = plan.uploads[earlier].split;
        if upload.after.is_none_or(|after| after < reader) {
            return Err(Violation::Slot { upload: id, earlier, reader, after: upload.after });
        }
        let (head, tail) = (held.offset.0..span.offset.0, span.end().0..held.end().0);
        for part in [head, tail].into_iter().filter(|part| !part.is_empty()) {
            let len = Bytes(part.end - part.start);
            ring.put(Span { offset: Bytes(part.start), len }, earlier);
        }
    }
    ring.put(span, id);
    Ok(())
}

/// The routing that it may wait for is made or brought before its split, for its device, and all that reads the weight there
/// reads of it what that routing chose. Since those readers read the routing, too, it is whole from then on (see `walk`).
fn chosen(Case { graph, plan, .. }: Case<'_>, id: UploadId, upload: &Upload) -> Result<(), Violation> {
    let Some(routing) = upload.chosen_by else { return Ok(()) };
    let before = |split: SplitId| split < upload.split;
    let made = plan.splits.iter_ids().any(|(id, s)| before(id) && s.device == upload.to && s.nodes.contains(&routing));
    let brought = || plan.transfers.iter().any(|t| before(t.after) && t.to == upload.to && t.value == routing);
    let weight = upload.slice.weight;
    let of_routing = |op: &Op| match op {
        Op::Moe(Moe::Experts(op)) => op.routing == routing && op.weight == weight && op.bias != Some(weight),
        Op::Moe(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rows(_) | Op::Norm(_) | Op::Rope(_) => false,
        Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => false,
    };
    let mut ops = plan.splits[upload.split].nodes.iter().map(|&node| &graph.node(node).op);
    let all = ops.all(|op| !op.weight_operands().contains(&weight) || of_routing(op));
    if (made || brought()) && all {
        Ok(())
    } else {
        Err(Violation::Chosen { upload: id, routing, split: upload.split })
    }
}

/// What each split gets of each weight, and whether a node read it.
type Brought = BTreeMap<(SplitId, WeightId), Vec<(UploadId, bool)>>;

fn reads(case: Case<'_>) -> Result<(), Violation> {
    let mut brought = Brought::new();
    for (id, upload) in case.plan.uploads.iter_ids() {
        brought.entry((upload.split, upload.slice.weight)).or_default().push((id, false));
    }
    for (split, nodes) in case.plan.splits.iter_ids().map(|(id, s)| (id, &s.nodes)) {
        nodes.iter().try_for_each(|&node| weights(case, split, node, &mut brought))?;
    }
    match brought.into_values().flatten().find(|&(_, read)| !read) {
        Some((id, _)) => Err(Violation::Useless { what: id.to_string(), device: case.plan.uploads[id].to }),
        None => Ok(()),
    }
}

/// Each weight of a node is at home, or the first upload of its split that holds what it reads is what it reads.
fn weights(case: Case<'_>, split: SplitId, node: NodeId, brought: &mut Brought) -> Result<(), Violation> {
    let Case { graph, residency, machine, plan } = case;
    let memory = machine.devices[plan.splits[split].device].memory;
    for weight in graph.node(node).op.weight_operands() {
        let range = graph.node(node).op.matrices(weight, graph.weights()[weight].count);
        if residency.weights[weight].iter().any(|h| h.memory == memory && h.slice.holds(&range)) {
            continue;
        }
        let found = brought.get_mut(&(split, weight)).into_iter().flatten();
        match found.into_iter().find(|(id, _)| plan.uploads[*id].slice.holds(&range)) {
            Some((_, read)) => *read = true,
            None => return Err(Violation::Elsewhere { node, operand: Operand::Weight(weight) }),
        }
    }
    Ok(())
}
