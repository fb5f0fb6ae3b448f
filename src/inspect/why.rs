//! One node of a plan → why it runs where it runs: the reason in words, what else was possible, what it reads over which
//! way, its split and its place in the arena.

use thiserror::Error;

use super::text::{line, table};
use super::{Planned, by, escape, nearest, weight_type};
use crate::device::{DeviceId, MemoryId};
use crate::graph::{NodeId, Operand, StateId, WeightId};
use crate::index::Id;
use crate::plan::{Candidate, Reason, Rule, Span, candidates};
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
pub fn why(planned: &Planned<'_>, asked: &str) -> Result<String, WhyError> {
    let graph = planned.graph;
    let named = || graph.nodes().find(|(_, node)| node.name == asked).map(|(id, _)| id);
    let by_id = || asked.strip_prefix('n')?.parse().ok().map(NodeId).filter(|id| id.index() < graph.len());
    let Some(id) = named().or_else(by_id) else {
        let near = nearest(asked, graph.nodes().map(|(_, node)| node.name.as_str()));
        let near = near.into_iter().map(escape).collect();
        return Err(WhyError { asked: asked.to_owned(), nodes: graph.len(), near });
    };
    let mut out = String::new();
    head(planned, id, &mut out);
    possible(planned, id, &mut out);
    reads(planned, id, &mut out);
    users(planned, id, &mut out);
    place(planned, id, &mut out);
    Ok(out)
}

fn head(planned: &Planned<'_>, id: NodeId, out: &mut String) {
    let node = planned.graph.node(id);
    let placed = planned.plan.placements[id];
    let layer = node.layer.map_or("outside of layers".to_owned(), |n| format!("layer {n}"));
    let dtype = weight_type(planned.graph, &node.op).map_or(String::new(), |t| format!(" {t}"));
    let rows = planned.graph.rows(node.out.rows).0;
    let bytes = planned.graph.value_bytes(id);
    line(out, &format!("{} ({id}, {layer})", planned.node(id)));
    line(out, &format!("  {}{dtype}: makes {rows} x {} = {bytes}", node.op.family().name(), node.out.cols));
    line(out, &format!("  runs on {}: {}", planned.device(placed.device), in_words(planned, id)));
}

/// Why a node is where it is, as a sentence with its quantities.
pub(super) fn in_words(planned: &Planned<'_>, id: NodeId) -> String {
    let here = planned.device(planned.plan.placements[id].device);
    let fewest = "and no other device needs fewer bytes moved";
    match planned.plan.placements[id].reason {
        Reason::WeightHome(w) => format!("its weight {} lives there", weight(planned, id, w)),
        Reason::StateHome(s) => format!("its cache {} lives there", state(planned, s)),
        Reason::Offloaded { weight: w, rule } => {
            let lives = homes(planned, id, w);
            format!("its weight {} lives in {lives}, but {}", weight(planned, id, w), moved(rule, &here))
        }
        Reason::Stays { weight: w, accelerator, rule } => {
            let other = planned.device(accelerator);
            format!("its weight {} lives there, and {}", weight(planned, id, w), kept(rule, &other))
        }
        Reason::Lane(lane) => format!("several devices work on its layer together, and {here} has its lane, {lane}"),
        Reason::FollowsInput(n) => format!("{}, which it reads, is made there, {fewest}", planned.node(n)),
        Reason::FollowsUser(n) => format!("{}, which reads it, runs there, {fewest}", planned.node(n)),
        Reason::FirstDevice => "nothing that it reads or feeds is bound to a device".to_owned(),
    }
}

fn moved(rule: Rule, device: &str) -> String {
    match rule {
        Rule::Never => "the policy moves it".to_owned(),
        Rule::Threshold { .. } => format!("{}: the policy moves it to {device}", by(rule)),
        Rule::Priced(p) => format!("{device} takes {} with the weight's way, the host {}", p.accelerator, p.host),
        Rule::NoKernel => format!("only {device} has a kernel"),
    }
}

fn kept(rule: Rule, other: &str) -> String {
    match rule {
        Rule::Never => format!("the policy moves nothing to {other}"),
        Rule::Threshold { .. } => format!("{}: the policy does not move it to {other}", by(rule)),
        Rule::Priced(p) => {
            format!("{other} would take {} with the weight's way, not less than {} here", p.accelerator, p.host)
        }
        Rule::NoKernel => format!("{other} has no kernel for it"),
    }
}

/// `blk.0.ffn_down.weight (q4_k, 9.4 MiB)`, of a stack also which part.
fn weight(planned: &Planned<'_>, node: NodeId, id: WeightId) -> String {
    let weight = &planned.graph.weights()[id];
    let range = planned.graph.node(node).op.matrices(id, weight.count);
    let part = match range.len() == weight.count as usize {
        true => String::new(),
        false => format!(", {} to {} of {}", range.start, range.end, weight.count),
    };
    format!("{} ({}, {}{part})", escape(&weight.name), weight.dtype, part_bytes(weight, &range))
}

fn state(planned: &Planned<'_>, id: StateId) -> String {
    let state = &planned.graph.states()[id];
    format!("{} ({}, {})", escape(&state.name), state.dtype, state.bytes())
}

/// The memories that hold what a node reads of a weight.
fn homes(planned: &Planned<'_>, node: NodeId, id: WeightId) -> String {
    let range = planned.graph.node(node).op.matrices(id, planned.graph.weights()[id].count);
    let holders = planned.homes.weights[id].iter().filter(|h| h.slice.holds(&range));
    holders.map(|h| planned.memory(h.memory)).collect::<Vec<_>>().join(" and ")
}

fn possible(planned: &Planned<'_>, id: NodeId, out: &mut String) {
    let chosen = planned.plan.placements[id].device;
    let Planned { graph, homes, machine, policy, .. } = *planned;
    line(out, "\npossible:");
    let rows = candidates(graph, homes, machine, policy, id).into_iter().map(|c| {
        let mark = if c.device == chosen { "chosen" } else { "" };
        [planned.device(c.device), price(&c), mark.to_owned()]
    });
    out.push_str(&table(&rows.collect::<Vec<_>>()));
}

fn price(candidate: &Candidate) -> String {
    let Candidate { device: _, compute, upload, refused } = candidate;
    match refused {
        Some(why) => format!("no: {}", escape(why)),
        None if *upload == Nanos::ZERO => format!("computes {compute}, its weights are there"),
        None if upload.seconds() > 1e9 => format!("computes {compute}, but its weights have no way there"),
        None => format!("computes {compute}, its weights take {upload} to get there"),
    }
}

fn reads(planned: &Planned<'_>, id: NodeId, out: &mut String) {
    line(out, "\nreads:");
    let rows = planned.graph.node(id).op.operands().into_iter().map(|operand| match operand {
        Operand::Node(n) => value(planned, id, n),
        Operand::Weight(w) => [weight(planned, id, w), weight_way(planned, id, w)],
        Operand::State(s) => {
            let memory = planned.memory(planned.homes.states[s]);
            [format!("cache {}", state(planned, s)), format!("in {memory}")]
        }
        Operand::Input(i) => {
            let input = planned.graph.inputs()[i];
            let bytes = Bytes(4 * u64::from(planned.graph.rows(input.rows()).0));
            [format!("{} ({bytes})", input.name()), "an input of the step".to_owned()]
        }
    });
    out.push_str(&table(&rows.collect::<Vec<_>>()));
}

fn value(planned: &Planned<'_>, reader: NodeId, id: NodeId) -> [String; 2] {
    let (from, to) = (planned.plan.placements[id].device, planned.plan.placements[reader].device);
    let bytes = planned.graph.value_bytes(id);
    let what = format!("{} ({id}, {bytes})", planned.node(id));
    let copied = planned.plan.transfers.iter_ids().find(|(_, t)| t.value == id && t.to == to);
    let how = match copied {
        None if from == to => format!("made on {}", planned.device(from)),
        None => format!("made on {}, and only orders the two", planned.device(from)),
        Some((transfer, at)) => {
            let memory = |d: DeviceId| planned.machine.devices[d].memory;
            let way = way(planned, memory(from), memory(to), bytes);
            format!("made on {}, copied as {transfer} after {} {way}", planned.device(from), at.after)
        }
    };
    [what, how]
}

/// How what a node reads of a weight gets to it.
fn weight_way(planned: &Planned<'_>, node: NodeId, id: WeightId) -> String {
    let device = planned.plan.placements[node].device;
    let range = planned.graph.node(node).op.matrices(id, planned.graph.weights()[id].count);
    let split = split_of(planned, node);
    let streamed = planned
        .plan
        .uploads
        .iter_ids()
        .find(|(_, upload)| Some(upload.split) == split && upload.slice.weight == id && upload.slice.holds(&range));
    let Some((upload, at)) = streamed else { return format!("in {}", homes(planned, node, id)) };
    let way = way(planned, at.from, planned.machine.devices[device].memory, at.span.len);
    let from = planned.memory(at.from);
    let waits = at.after.map_or(String::new(), |split| format!(", once {split} has left the ring's bytes"));
    format!("in {from}, streamed as {upload} into the ring's {} {way}{waits}", span(at.span))
}

/// `over host - cuda:0 at 25.0 GB/s in 3.2 ms`.
fn way(planned: &Planned<'_>, from: MemoryId, to: MemoryId, bytes: Bytes) -> String {
    let (a, b) = (planned.memory(from), planned.memory(to));
    if from == to {
        return format!("within {a}");
    }
    let Some(way) = planned.machine.way(from, to) else { return format!("with no way from {a} to {b}") };
    let through = match planned.machine.link(from, to).map(|link| link.bus) {
        None => " through the host",
        Some(None) => "",
        Some(Some(_)) => " on a shared bus",
    };
    format!("over {a} - {b}{through} at {:.1} GB/s in {}", way.rate.0 / 1e9, way.time(bytes))
}

fn users(planned: &Planned<'_>, id: NodeId, out: &mut String) {
    let users = planned.graph.users(id);
    let rows = users.iter().map(|&n| [planned.node(n), planned.device(planned.plan.placements[n].device)]);
    line(out, if users.is_empty() { "\nread by: nothing, it is what the step is for" } else { "\nread by:" });
    out.push_str(&table(&rows.collect::<Vec<_>>()));
}

fn place(planned: &Planned<'_>, id: NodeId, out: &mut String) {
    let Some(split) = split_of(planned, id) else { return };
    let at = &planned.plan.splits[split];
    let position = at.nodes.iter().position(|&n| n == id).map_or(0, |i| i + 1);
    let (count, splits) = (at.nodes.len(), planned.plan.splits.len());
    let (first, last) = (at.nodes.first().copied().unwrap_or(id), at.nodes.last().copied().unwrap_or(id));
    let device = planned.device(at.device);
    line(out, &format!("\nsplit: {split} of {splits}, on {device}, its node {position} of {count}"));
    line(out, &format!("  from {} to {}", planned.node(first), planned.node(last)));
    let arena = planned.plan.arenas[at.device].bytes;
    line(out, &format!("arena: {} of the {arena} on {device}", span(planned.plan.values[id])));
}

fn split_of(planned: &Planned<'_>, id: NodeId) -> Option<crate::plan::SplitId> {
    planned.plan.splits.iter_ids().find(|(_, split)| split.nodes.contains(&id)).map(|(split, _)| split)
}

fn span(span: Span) -> String {
    if span.len == Bytes::ZERO {
        return "no bytes".to_owned();
    }
    format!("bytes {} to {} ({})", span.offset.0, span.end().0, span.len)
}
