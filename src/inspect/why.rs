//! One node of a plan → everything on why it runs where it runs: the reason, what else was possible, what it reads over
//! which way, its split and its place in the arena. Gathers only; `words` says it.

use thiserror::Error;

use super::facts::{Awaited, Copied, Over, PartOf, Position, Possible, Read, Reader, Streamed, Way, Why};
use super::words::in_words;
use super::{Planned, escape, nearest, reason, weight_type};
use crate::device::{DeviceId, MemoryId};
use crate::graph::{InputId, NodeId, Operand, Part, StateId, Weight, WeightId};
use crate::index::Id;
use crate::plan::{Candidate, SplitId, Upload, candidates};
use crate::residency::part_bytes;
use crate::units::{Bytes, Nanos};

/// There is no such node.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no node is called {asked:?} of the {nodes} from n0 on; the nearest are {}", near.join(", "))]
pub struct WhyError {
    /// The name that was asked for.
    pub asked: String,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Names of nodes, the most similar first.
    pub near: Vec<String>,
}

/// Everything on the node of this name, or of this id, such as `n12`.
///
/// # Errors
/// There is no such node; the error offers the nearest names.
pub fn why(planned: &Planned<'_>, asked: &str) -> Result<Why, WhyError> {
    let graph = planned.graph;
    let named = || graph.nodes().find(|(_, node)| node.name == asked).map(|(id, _)| id);
    let by_id = || asked.strip_prefix('n')?.parse().ok().map(NodeId).filter(|id| id.index() < graph.len());
    let Some(id) = named().or_else(by_id) else {
        let near = nearest(asked, graph.nodes().map(|(_, node)| node.name.as_str()));
        let near = near.into_iter().map(escape).collect();
        return Err(WhyError { asked: asked.to_owned(), nodes: graph.len(), near });
    };
    Ok(of(planned, id))
}

fn of(planned: &Planned<'_>, id: NodeId) -> Why {
    let Planned { graph, plan, .. } = *planned;
    let (node, placed) = (graph.node(id), plan.placements[id]);
    let split = plan.splits.iter_ids().find(|(_, split)| split.nodes.contains(&id)).map(|(split, _)| split);
    let user = |&n: &NodeId| Reader { node: planned.node(n), device: planned.device(plan.placements[n].device) };
    Why {
        node: planned.node(id),
        id,
        layer: node.layer,
        family: node.op.family().name(),
        dtype: weight_type(graph, &node.op).map(|t| t.name()),
        shape: [graph.rows(node.out.rows).0, node.out.cols],
        bytes: graph.value_bytes(id),
        device: planned.device(placed.device),
        reason: reason(graph, placed.reason),
        words: in_words(planned, id),
        possible: possible(planned, id),
        reads: node.op.operands().into_iter().map(|operand| read(planned, id, split, operand)).collect(),
        read_by: graph.users(id).iter().map(user).collect(),
        split: split.map(|split| position(planned, id, split)),
        value: plan.values[id],
        arena: plan.arenas[placed.device].bytes,
    }
}

/// An upload of more nanoseconds than this has no way.
const NO_WAY: Nanos = Nanos(1_000_000_000_000_000_000);

fn possible(planned: &Planned<'_>, id: NodeId) -> Vec<Possible> {
    let chosen = planned.plan.placements[id].device;
    let Planned { graph, homes, machine, policy, .. } = *planned;
    let shown = |Candidate { device, compute, upload, refused }| Possible {
        device: planned.device(device),
        chosen: device == chosen,
        compute,
        upload: Some(upload).filter(|&upload| upload <= NO_WAY),
        refused: refused.as_deref().map(escape),
    };
    candidates(graph, homes, machine, policy, id).into_iter().map(shown).collect()
}

fn read(planned: &Planned<'_>, id: NodeId, split: Option<SplitId>, operand: Operand) -> Read {
    match operand {
        Operand::Node(n) => value(planned, id, n),
        Operand::Weight(w) => weight(planned, id, split, w),
        Operand::State(s) => state(planned, s),
        Operand::Input(i) => input(planned, i),
    }
}

fn value(planned: &Planned<'_>, reader: NodeId, id: NodeId) -> Read {
    let (from, to) = (planned.plan.placements[id].device, planned.plan.placements[reader].device);
    let bytes = planned.graph.value_bytes(id);
    let memory = |d: DeviceId| planned.machine.devices[d].memory;
    let transfer = planned.plan.transfers.iter_ids().find(|(_, t)| t.value == id && t.to == to);
    let copied = transfer.map(|(transfer, at)| Copied {
        transfer,
        after: at.after,
        way: way(planned, memory(from), memory(to), bytes),
    });
    Read::Value { node: planned.node(id), id, bytes, made_on: planned.device(from), here: from == to, copied }
}

fn weight(planned: &Planned<'_>, node: NodeId, split: Option<SplitId>, id: WeightId) -> Read {
    let Planned { graph, plan, homes, machine, .. } = *planned;
    let weight = &graph.weights()[id];
    let range = graph.node(node).op.matrices(id, weight.count);
    let to = machine.devices[plan.placements[node].device].memory;
    let here = |u: &&Upload| Some(u.split) == split && u.slice.weight == id && u.slice.holds(&range);
    let streamed = plan.uploads.iter_ids().find(|(_, upload)| here(upload)).map(|(upload, at)| {
        let chosen = at.awaited(graph).map(|(routing, share)| Awaited { by: planned.node(routing), share });
        let share = chosen.as_ref().map_or(1.0, |chosen| chosen.share);
        let expected = Bytes((at.span.len.0 as f64 * share) as u64);
        let way = way(planned, at.from, to, expected);
        Streamed { upload, from: planned.memory(at.from), span: at.span, way, after: at.after, chosen }
    });
    let holders = homes.weights[id].iter().filter(|h| h.slice.holds(&range));
    Read::Weight {
        name: escape(&weight.name),
        dtype: weight.dtype.name(),
        bytes: part_bytes(weight, &range),
        part: weight.part.as_ref().map(|part| part_of(weight, part)),
        matrices: [range.start, range.end],
        of: weight.count,
        homes: holders.map(|h| planned.memory(h.memory)).collect(),
        streamed,
    }
}

fn part_of(weight: &Weight, part: &Part) -> PartOf {
    let Part { tensor, whole, first } = part;
    let run = |axis: usize, len: u32| [first[axis], first[axis] + len];
    let (matrices, rows, cols) = (run(0, weight.count), run(1, weight.rows), run(2, weight.cols));
    PartOf { tensor: escape(tensor), matrices, rows, cols, whole: *whole }
}

fn state(planned: &Planned<'_>, id: StateId) -> Read {
    let state = &planned.graph.states()[id];
    let home = planned.memory(planned.homes.states[id]);
    Read::State { name: escape(&state.name), dtype: state.dtype.name(), bytes: state.bytes(), home }
}

fn input(planned: &Planned<'_>, id: InputId) -> Read {
    let input = planned.graph.inputs()[id];
    Read::Input { name: input.name(), bytes: Bytes(4 * u64::from(planned.graph.rows(input.rows()).0)) }
}

fn way(planned: &Planned<'_>, from: MemoryId, to: MemoryId, bytes: Bytes) -> Way {
    let found = planned.machine.way(from, to);
    let over = match (&found, planned.machine.link(from, to).map(|link| link.bus)) {
        (Some(_) | None, _) if from == to => Over::Same,
        (None, _) => Over::Nothing,
        (Some(_), None) => Over::Host,
        (Some(_), Some(None)) => Over::Link,
        (Some(_), Some(Some(_))) => Over::SharedBus,
    };
    let found = found.filter(|_| from != to);
    let (rate, time) = (found.as_ref().map(|way| way.rate), found.as_ref().map(|way| way.time(bytes)));
    Way { from: planned.memory(from), to: planned.memory(to), over, rate, time }
}

fn position(planned: &Planned<'_>, id: NodeId, split: SplitId) -> Position {
    let nodes = &planned.plan.splits[split].nodes;
    let named = |n: Option<&NodeId>| planned.node(n.copied().unwrap_or(id));
    Position {
        id: split,
        of: planned.plan.splits.len(),
        nodes: nodes.len(),
        position: nodes.iter().position(|&n| n == id).map_or(0, |i| i + 1),
        first: named(nodes.first()),
        last: named(nodes.last()),
    }
}
