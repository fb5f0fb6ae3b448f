//! One node of a plan → everything on why it runs where it runs, as data: the reason, what else was possible, what it
//! reads over which way, its split and its place in the arena. Texts and JSON are made from this alone.

use serde::Serialize;
use thiserror::Error;

use super::words::in_words;
use super::{Planned, escape, nearest, reason, weight_type};
use crate::device::{DeviceId, MemoryId};
use crate::graph::{InputId, NodeId, Operand, StateId, WeightId};
use crate::index::Id;
use crate::plan::{Candidate, Span, SplitId, TransferId, UploadId, candidates};
use crate::residency::part_bytes;
use crate::units::{Bytes, BytesPerSec, Nanos};

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

/// Everything on one node. Names are harmless, sizes are in bytes, times in nanoseconds, rates in bytes a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// Its name.
    pub node: String,
    /// Its id.
    pub id: NodeId,
    /// Its layer.
    pub layer: Option<u32>,
    /// What kind of op it is.
    pub family: &'static str,
    /// The type of the weight that it multiplies with or reads rows of.
    pub dtype: Option<&'static str>,
    /// Rows and columns of its value.
    pub shape: [u32; 2],
    /// Bytes of its value.
    pub bytes: Bytes,
    /// Where it runs.
    pub device: String,
    /// Why, as tables say it.
    pub reason: String,
    /// Why, in words with their quantities.
    pub words: String,
    /// Every device of the machine as a place for it.
    pub possible: Vec<Possible>,
    /// Its operands, in order.
    pub reads: Vec<Read>,
    /// The nodes that read its value; none for what the step is for.
    pub read_by: Vec<Reader>,
    /// The split that it runs in.
    pub split: Option<Position>,
    /// Where its value lies in its device's arena.
    pub value: Span,
    /// The size of that arena.
    pub arena: Bytes,
}

/// A device that could have had the node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Possible {
    /// Its name.
    pub device: String,
    /// Whether the node runs there.
    pub chosen: bool,
    /// Time of the node's own work there.
    pub compute: Nanos,
    /// Time to bring the weights that do not live there; none where they have no way there.
    pub upload: Option<Nanos>,
    /// Why it cannot run there, if it cannot.
    pub refused: Option<String>,
}

/// What a node reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Read {
    /// The value of another node.
    Value {
        /// Its name.
        node: String,
        /// Its id.
        id: NodeId,
        /// Its bytes.
        bytes: Bytes,
        /// Where it is made.
        made_on: String,
        /// Whether that is where it is read.
        here: bool,
        /// How it gets to the reader; none where it need not, or only orders the two.
        copied: Option<Copied>,
    },
    /// A weight, or a part of one.
    Weight {
        /// Its name.
        name: String,
        /// Its type.
        dtype: &'static str,
        /// Bytes of the part that is read.
        bytes: Bytes,
        /// The matrices that are read, from the first to before the last.
        matrices: [u32; 2],
        /// How many there are.
        of: u32,
        /// The memories that hold that part.
        homes: Vec<String>,
        /// How it gets to the reader; none where it lives there.
        streamed: Option<Streamed>,
    },
    /// A cache.
    State {
        /// Its name.
        name: String,
        /// Its type.
        dtype: &'static str,
        /// Its bytes.
        bytes: Bytes,
        /// The memory that it lives in.
        home: String,
    },
    /// What a step is given.
    Input {
        /// Its name.
        name: &'static str,
        /// Its bytes.
        bytes: Bytes,
    },
}

/// A value that crosses to another device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copied {
    /// As what the plan has it.
    pub transfer: TransferId,
    /// The split that makes it.
    pub after: SplitId,
    /// Over which way.
    pub way: Way,
}

/// A part of a weight that is brought into a ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Streamed {
    /// As what the plan has it.
    pub upload: UploadId,
    /// The memory it comes from.
    pub from: String,
    /// Where it lies in the ring.
    pub span: Span,
    /// Over which way.
    pub way: Way,
    /// The split that must have left the ring's bytes.
    pub after: Option<SplitId>,
}

/// How bytes get from one memory to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// Where from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Over what.
    pub over: Over,
    /// How fast; none where nothing is between the two, or no way.
    pub rate: Option<BytesPerSec>,
    /// How long it takes; none likewise.
    pub time: Option<Nanos>,
}

/// What is between two memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// They are one.
    Same,
    /// A link of their own.
    Link,
    /// A link that shares a bus with others.
    SharedBus,
    /// The host's memory.
    Host,
    /// Nothing: there is no way.
    Nothing,
}

/// A node that reads the value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reader {
    /// Its name.
    pub node: String,
    /// Where it runs.
    pub device: String,
}

/// A place in a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Position {
    /// The split.
    pub id: SplitId,
    /// How many the plan has.
    pub of: usize,
    /// Its nodes.
    pub nodes: usize,
    /// The node's place among them, from 1 on.
    pub position: usize,
    /// The first of them.
    pub first: String,
    /// The last of them.
    pub last: String,
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
    let here = |u: &&crate::plan::Upload| Some(u.split) == split && u.slice.weight == id && u.slice.holds(&range);
    let streamed = plan.uploads.iter_ids().find(|(_, upload)| here(upload)).map(|(upload, at)| Streamed {
        upload,
        from: planned.memory(at.from),
        span: at.span,
        way: way(planned, at.from, to, at.span.len),
        after: at.after,
    });
    let holders = homes.weights[id].iter().filter(|h| h.slice.holds(&range));
    Read::Weight {
        name: escape(&weight.name),
        dtype: weight.dtype.name(),
        bytes: part_bytes(weight, &range),
        matrices: [range.start, range.end],
        of: weight.count,
        homes: holders.map(|h| planned.memory(h.memory)).collect(),
        streamed,
    }
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
