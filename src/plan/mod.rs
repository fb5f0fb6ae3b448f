//! Graph, homes and machine → a plan: a device and a reason for every node, splits, and an arena exact to the byte.
//! Pure: no handles, clock, environment or logging; equal inputs give equal bytes.

mod check;
mod lifetime;
mod pack;
mod place;
mod split;

use serde::Serialize;
use thiserror::Error;

use crate::define_id;
use crate::device::{DeviceId, Machine, MemoryId, Unsupported};
use crate::graph::{Batch, Graph, InputId, NodeId, StateId, WeightId};
use crate::index::IndexVec;
use crate::residency::Residency;
use crate::units::Bytes;

pub use check::{Violation, check};

define_id! {
    /// A split of a plan; ids ascend in order of execution.
    pub SplitId("x"),
}

/// A range of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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

/// Why a node runs where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its weight lives there.
    WeightHome(WeightId),
    /// Its state lives there.
    StateHome(StateId),
    /// The value it reads is made there.
    FollowsInput(NodeId),
    /// Its value is read there.
    FollowsUser(NodeId),
    /// Nothing that it reads or feeds is bound to a device.
    FirstDevice,
}

/// Where a node runs, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The device.
    pub device: DeviceId,
    /// The reason.
    pub reason: Reason,
}

/// Consecutive nodes of one device: what a backend prepares and runs as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Split {
    /// The device.
    pub device: DeviceId,
    /// Its nodes, in topological order.
    pub nodes: Vec<NodeId>,
    /// Working space of its kernels.
    pub scratch: Span,
}

/// The memory for values and scratch of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Arena {
    /// Its size: the end of the last span.
    pub bytes: Bytes,
}

/// What is allocated in one memory, to the byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// Weights that are copied or repacked, each with what aligns the next; those used from the file mapping are not
    /// in it.
    pub weights: Bytes,
    /// States.
    pub states: Bytes,
    /// The arenas of the devices that compute from it.
    pub arenas: Bytes,
}

impl MemoryUse {
    /// All of it.
    pub fn total(self) -> Bytes {
        self.weights + self.states + self.arenas
    }
}

/// What runs where, in which order, and at which offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The batch shape it is for.
    pub batch: Batch,
    /// Device and reason of every node.
    pub placements: IndexVec<NodeId, Placement>,
    /// Splits in order of execution.
    pub splits: IndexVec<SplitId, Split>,
    /// Span of every node's value in its device's arena.
    pub values: IndexVec<NodeId, Span>,
    /// Span of every input in the arena of the device that reads it.
    pub inputs: IndexVec<InputId, Span>,
    /// The arena of every device.
    pub arenas: IndexVec<DeviceId, Arena>,
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
    /// The operands of a node live with different devices.
    #[error("{node} reads from {first} and {second}: plans over several devices are not available yet")]
    Crossing {
        /// The node's name.
        node: String,
        /// The device of one operand.
        first: String,
        /// The device of another.
        second: String,
    },
    /// The device has no kernel.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
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
    #[error("{memory} needs {need} for weights, states and arenas, its budget is {budget}")]
    OverBudget {
        /// The memory's name.
        memory: String,
        /// What the plan needs.
        need: Bytes,
        /// What there is.
        budget: Bytes,
    },
}

/// Plans one batch bucket.
///
/// # Errors
/// A node cannot run where its operands live, or a memory's budget is too small: the error names both.
pub fn plan(graph: &Graph, residency: &Residency, machine: &Machine) -> Result<Plan, PlanError> {
    let placements = place::place(graph, residency, machine)?;
    let splits = split::split(graph, &placements);
    let lifetimes = lifetime::lifetimes(graph, &splits);
    let packed = pack::pack(graph, machine, &placements, splits, &lifetimes);
    let memories = pack::within_budget(graph, residency, machine, &packed.arenas)?;
    Ok(Plan {
        batch: graph.batch(),
        placements,
        splits: packed.splits,
        values: packed.values,
        inputs: packed.inputs,
        arenas: packed.arenas,
        memories,
    })
}
