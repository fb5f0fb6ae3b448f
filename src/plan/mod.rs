//! Graph, homes, machine and policy → a plan: a device and a reason for every node, splits in order, values that cross
//! devices, weights that are streamed, and arenas and rings exact to the byte.
//! Pure: no handles, clock, environment or logging; equal inputs give equal bytes.

mod check;
mod cost;
mod flow;
mod lifetime;
mod offload;
mod pack;
mod partition;
mod place;
mod policy;
mod queues;
mod reason;
mod ring;
mod shard;
mod split;
mod timeline;
mod transfer;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::define_id;
use crate::device::{DeviceId, Machine, MemoryId, Unsupported};
use crate::graph::{Batch, Graph, InputId, NodeId};
use crate::index::IndexVec;
use crate::residency::{Residency, WeightSlice};
use crate::units::Bytes;

pub use check::{Violation, check};
pub use cost::{Work, brings_chosen, node_time, node_work, upload_bytes};
pub use partition::{partition, streamed_runs};
pub use policy::{Offload, Policy};
pub use reason::{Candidate, Placement, Price, Reason, Rule, candidates};
pub use shard::{Member, Sharded, Whole, shard};
pub use timeline::{Activity, Event, Lane, Queue, STEPS, Timeline, followed, timeline};

define_id! {
    /// A split of a plan; ids ascend in order of execution.
    pub SplitId("x"),
    /// A value that crosses to another device.
    pub TransferId("t"),
    /// A slice of a weight that is streamed.
    pub UploadId("p"),
}

/// A range of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub offset: Bytes,
    /// Length.
    pub len: Bytes,
}

impl Span {
    /// The byte after the last.
    pub fn end(self) -> Bytes {
        self.offset + self.len
    }

    /// Whether two spans share a byte.
    pub fn overlaps(self, other: Span) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// Consecutive nodes of one device: what a backend prepares and runs as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The device.
    pub device: DeviceId,
    /// Its nodes, in topological order.
    pub nodes: Vec<NodeId>,
    /// Working space of its kernels.
    pub scratch: Span,
}

/// The memory for values and scratch of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// Its size: the end of the last span.
    pub bytes: Bytes,
}

/// What is allocated in one memory, to the byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Weights that are copied or repacked, each with what aligns the next; those used from the file mapping are not
    /// in it.
    pub weights: Bytes,
    /// States.
    pub states: Bytes,
    /// The arenas of the devices that compute from it.
    pub arenas: Bytes,
    /// The rings of those devices, into which weights are streamed.
    pub rings: Bytes,
}

impl MemoryUse {
    /// All of it.
    pub fn total(self) -> Bytes {
        self.weights + self.states + self.arenas + self.rings
    }
}

/// A run-time input in the arena of a device that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCopy {
    /// The input.
    pub input: InputId,
    /// The device.
    pub device: DeviceId,
    /// Where it lies.
    pub span: Span,
}

/// A value that another device reads, copied there before the first split that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The node whose value it is.
    pub value: NodeId,
    /// The split behind which it is copied: the one that makes it, or a later one.
    pub after: SplitId,
    /// The device that reads it.
    pub to: DeviceId,
    /// Where it lies in that device's arena.
    pub span: Span,
}

/// A part of a weight that is brought into a device's ring ahead of the splits that read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// What is brought.
    pub slice: WeightSlice,
    /// From which memory.
    pub from: MemoryId,
    /// To which device.
    pub to: DeviceId,
    /// Where it lies in that device's ring.
    pub span: Span,
    /// The split that reads it.
    pub split: SplitId,
    /// The split that must be done before the ring's bytes may be overwritten, in this step.
    pub after: Option<SplitId>,
    /// The routing of all that reads it, where that is on the device before the split: in steps of few rows only the
    /// experts that it chose are brought, once it is known, each to where it lies in the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by: Option<NodeId>,
}

/// What runs where, in which order, and at which offsets.
///
/// A device does what touches it in plan order: its splits by id, a transfer behind the split that it names.
/// Uploads have a queue of their own and wait only for the split named in `after`, and for the routing where only what it
/// chose is brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The batch shape it is for.
    pub batch: Batch,
    /// Device and reason of every node.
    pub placements: IndexVec<NodeId, Placement>,
    /// Splits in order of execution.
    pub splits: IndexVec<SplitId, Split>,
    /// Span of every node's value in its device's arena.
    pub values: IndexVec<NodeId, Span>,
    /// Every input on every device that reads it.
    pub inputs: Vec<InputCopy>,
    /// Values that cross, in order of their splits.
    pub transfers: IndexVec<TransferId, Transfer>,
    /// Weights that are streamed, in order of their splits.
    pub uploads: IndexVec<UploadId, Upload>,
    /// The arena of every device.
    pub arenas: IndexVec<DeviceId, Arena>,
    /// The ring of every device; without uploads it has no bytes.
    pub rings: IndexVec<DeviceId, Bytes>,
    /// What is allocated in every memory.
    pub memories: IndexVec<MemoryId, MemoryUse>,
}

/// Why there is no plan.
#[derive(Debug, Error, PartialEq)]
pub enum PlanError {
    /// A home names a memory that no device computes from.
    #[error("{what} lives in {memory}, from which no device of this machine computes")]
    NoDevice {
        /// The weight or state.
        what: String,
        /// The memory's id or name.
        memory: String,
    },
    /// Two memories between which bytes must move have no way between them.
    #[error("{what} must get from {from} to {to}: the machine has no link between them, nor through a host")]
    NoLink {
        /// The value or weight.
        what: String,
        /// The memory it is in.
        from: String,
        /// The memory it must get to.
        to: String,
    },
    /// A node reads a part of a weight that no single home holds.
    #[error("{node} reads {range:?} of {weight}, which has no home as a whole: cut the node along the homes first")]
    Torn {
        /// The node's name.
        node: String,
        /// The weight's name.
        weight: String,
        /// The matrices that it reads.
        range: Range<u32>,
    },
    /// A node reads a state from another memory than its device computes from.
    #[error("{node} is bound to {memory}, where its state {state} does not live")]
    Apart {
        /// The node's name.
        node: String,
        /// The state's name.
        state: String,
        /// The memory of the node's device, by name.
        memory: String,
    },
    /// The device has no kernel.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A graph that is cut along its homes is none.
    #[error("the graph cannot be cut along the homes of its experts: {0}")]
    Partition(String),
    /// A layer cannot be cut over the devices that are to work on it together.
    #[error("the layers cannot be cut over groups of devices: {0}")]
    Shard(String),
    /// The residency is of another graph.
    #[error("the residency has homes for {found} {what}, the graph has {needed}")]
    Homes {
        /// Weights or states.
        what: &'static str,
        /// How many the graph has.
        needed: usize,
        /// How many have homes.
        found: usize,
    },
    /// A memory is too small.
    #[error("{memory} needs {need} for weights, states, arenas and rings, its budget is {budget}")]
    OverBudget {
        /// The memory's name.
        memory: String,
        /// What the plan needs.
        need: Bytes,
        /// What there is.
        budget: Bytes,
    },
}

/// Plans one batch bucket. `Auto` prices every op, and takes the whole that its own timeline says is fastest among that,
/// nothing moved, and everything moved.
///
/// # Errors
/// A node cannot run where its operands live, or a memory's budget is too small: the error names both.
pub fn plan(graph: &Graph, residency: &Residency, machine: &Machine, policy: &Policy) -> Result<Plan, PlanError> {
    let placed = |offload| place::place(graph, residency, machine, &Policy { offload, ..policy.clone() });
    let whole = |placements| plan_placed(graph, residency, machine, policy, placements);
    if policy.offload != Offload::Auto || !machine.devices.iter().any(|d| d.is_accelerator()) {
        return whole(placed(policy.offload)?);
    }
    let mut seen = vec![placed(Offload::Auto)?];
    let mut fastest = whole(seen[0].clone());
    for offload in Offload::WHOLES {
        let other = placed(offload)?;
        let is_same =
            |known: &IndexVec<_, Placement>| known.iter().map(|p| p.device).eq(other.iter().map(|p| p.device));
        if !seen.iter().any(is_same) {
            fastest = faster(graph, machine, policy, fastest, whole(other.clone()));
            seen.push(other);
        }
    }
    fastest
}

/// The plan that is done first; among equals, and among refusals, the first.
fn faster(
    graph: &Graph,
    machine: &Machine,
    policy: &Policy,
    first: Result<Plan, PlanError>,
    second: Result<Plan, PlanError>,
) -> Result<Plan, PlanError> {
    let time = |plan| timeline(graph, machine, policy, plan, 1).end();
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if time(&second) < time(&first) { second } else { first }),
        (Err(_), Ok(plan)) | (Ok(plan), Err(_)) => Ok(plan),
        (Err(why), Err(_)) => Err(why),
    }
}

/// As [`plan`], by the policy's rule alone: `Auto` prices every op and compares no wholes.
///
/// # Errors
/// As for [`plan`].
pub fn plan_by_rule(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    policy: &Policy,
) -> Result<Plan, PlanError> {
    plan_placed(graph, residency, machine, policy, place::place(graph, residency, machine, policy)?)
}

fn plan_placed(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    policy: &Policy,
    placements: IndexVec<NodeId, Placement>,
) -> Result<Plan, PlanError> {
    let cut = split::split(graph, residency, machine, policy, &placements)?;
    let crossings = transfer::crossings(graph, machine, &placements, &cut)?;
    let uploads = ring::uploads(graph, residency, machine, policy, &cut)?;
    let lifetimes = lifetime::lifetimes(graph, &placements, &cut, &crossings);
    let packed = pack::pack(graph, machine, &placements, cut, &lifetimes, crossings);
    let memories = pack::within_budget(graph, residency, machine, &packed.arenas, &uploads.rings)?;
    Ok(Plan {
        batch: graph.batch(),
        placements,
        splits: packed.splits,
        values: packed.values,
        inputs: packed.inputs,
        transfers: packed.transfers,
        uploads: uploads.uploads,
        arenas: packed.arenas,
        rings: uploads.rings,
        memories,
    })
}

/// Where a device finds values and inputs in its arena: its own, and copies of others'. What it never reads is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Values.
    pub values: IndexVec<NodeId, Span>,
    /// Inputs.
    pub inputs: IndexVec<InputId, Span>,
}

impl Plan {
    /// The arena of `device` as its splits see it, for a graph with `inputs` inputs.
    pub fn view(&self, device: DeviceId, inputs: usize) -> View {
        let nowhere = Span { offset: Bytes::ZERO, len: Bytes::ZERO };
        let own = |(id, &span)| if self.placements[id].device == device { span } else { nowhere };
        let mut view = View {
            values: self.values.iter_ids().map(own).collect(),
            inputs: std::iter::repeat_n(nowhere, inputs).collect(),
        };
        self.transfers.iter().filter(|t| t.to == device).for_each(|t| view.values[t.value] = t.span);
        self.inputs.iter().filter(|i| i.device == device).for_each(|i| view.inputs[i.input] = i.span);
        view
    }
}
