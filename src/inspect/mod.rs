//! A model file, its graph, its plan, a machine → text, JSON, DOT or HTML. Pure functions to `String`: nothing is read, measured or
//! printed here, and every name that comes from a file is escaped for where it goes.

mod cache;
mod diff;
mod dot;
mod escape;
mod facts;
mod html;
mod json;
mod machine;
mod nearest;
mod placement;
mod saved;
mod summary;
mod text;
mod why;
mod words;

use crate::device::{DeviceId, Machine, MemoryId};
use crate::gguf::Gguf;
use crate::graph::{Graph, NodeId};
use crate::models::ShapeFile;
use crate::plan::{Plan, Policy, Price, Reason, Rule, Timeline, timeline};
use crate::residency::Residency;

pub use diff::{Diff, MemoryChange, Move, Totals, diff};
pub use dot::dot;
pub use escape::{escape, one_line, prose};
pub use facts::{Awaited, Copied, Over, PartOf, Position, Possible, Read, Reader, Streamed, Way, Why};
pub use html::{Page, html, markup, page};
pub use json::{json, shape};
pub use machine::machine;
pub use nearest::nearest;
pub use placement::placement_table;
pub use saved::{Saved, SavedError};
pub use text::{node_table, text};
pub use why::{WhyError, why};

/// What a report is on.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A model file.
    File(&'a Gguf),
    /// A model without weights.
    Shape(&'a ShapeFile),
}

/// A plan, and all that it was made of.
#[derive(Clone, Copy)]
pub struct Planned<'a> {
    /// The graph, cut along its homes.
    pub graph: &'a Graph,
    /// Where weights and states live.
    pub homes: &'a Residency,
    /// The machine.
    pub machine: &'a Machine,
    /// What the plan was made by.
    pub policy: &'a Policy,
    /// The plan.
    pub plan: &'a Plan,
}

impl<'a> Planned<'a> {
    /// One step in virtual time.
    pub fn timeline(&self) -> Timeline {
        timeline(self.graph, self.machine, self.policy, self.plan, 1)
    }

    /// A device's name, harmless.
    fn device(&self, id: DeviceId) -> String {
        device_name(self.machine, id)
    }

    /// A memory's name, harmless.
    fn memory(&self, id: MemoryId) -> String {
        escape(&self.machine.memories[id].name)
    }

    /// A node's name, harmless.
    fn node(&self, id: NodeId) -> String {
        escape(&self.graph.node(id).name)
    }
}

/// A device's name, harmless.
fn device_name(machine: &Machine, id: DeviceId) -> String {
    escape(&machine.devices[id].name)
}

/// What there is to show. A part that could not be made is there as the reason why.
pub struct Report<'a> {
    /// The file.
    pub source: Source<'a>,
    /// The machine that the plan is for.
    pub machine: &'a Machine,
    /// The graph of one batch bucket.
    pub graph: Result<&'a Graph, String>,
    /// Its plan.
    pub plan: Result<Planned<'a>, String>,
    /// Tensors that no node uses.
    pub unused: &'a [String],
    /// What was odd in the file.
    pub notes: &'a [String],
}

/// The reason's name in tables: `weight-home`, `follows-input blk.0.attn_q`.
fn reason(graph: &Graph, reason: Reason) -> String {
    match reason {
        Reason::WeightHome(_) => "weight-home".to_owned(),
        Reason::StateHome(_) => "state-home".to_owned(),
        Reason::Offloaded { weight: _, rule } => format!("offloaded {}", by(rule)),
        Reason::Stays { weight: _, accelerator: _, rule } => format!("stays {}", by(rule)),
        Reason::Lane(lane) => format!("lane {lane}"),
        Reason::FollowsInput(node) => format!("follows-input {}", escape(&graph.node(node).name)),
        Reason::FollowsUser(node) => format!("follows-user {}", escape(&graph.node(node).name)),
        Reason::FirstDevice => "first-device".to_owned(),
    }
}

/// What the choice between a processor and an accelerator went by: `2.1 ms < 8.0 ms`, `512 rows >= 32`.
fn by(rule: Rule) -> String {
    match rule {
        Rule::Never => "by policy".to_owned(),
        Rule::Threshold { rows, least } => {
            let sign = if rows >= least { ">=" } else { "<" };
            format!("{} rows {sign} {}", rows.0, least.0)
        }
        Rule::Priced(Price { host, accelerator }) => {
            let sign = if accelerator < host { "<" } else { ">=" };
            format!("{accelerator} {sign} {host}")
        }
        Rule::NoKernel => "no kernel".to_owned(),
    }
}

/// The type of the weight that a node multiplies with or reads rows of, if it has one.
fn weight_type(graph: &Graph, op: &crate::graph::Op) -> Option<crate::tensor::DType> {
    op.weight_operands().first().map(|&id| graph.weights()[id].dtype)
}
