//! A model file, its graph, its plan, a machine → text, JSON or DOT. Pure functions to `String`: nothing is read, measured
//! or printed here, and every name that comes from a file is escaped for where it goes.

mod dot;
mod escape;
mod json;
mod machine;
mod text;

use crate::device::Machine;
use crate::gguf::Gguf;
use crate::graph::Graph;
use crate::plan::{Plan, Price, Reason, Rule};

pub use dot::dot;
pub use escape::{escape, one_line, prose};
pub use json::{json, shape};
pub use machine::machine;
pub use text::{node_table, text};

/// What there is to show. A part that could not be made is there as the reason why.
pub struct Report<'a> {
    /// The file.
    pub gguf: &'a Gguf,
    /// The machine that the plan is for.
    pub machine: &'a Machine,
    /// The graph of one batch bucket.
    pub graph: Result<&'a Graph, String>,
    /// Its plan.
    pub plan: Result<&'a Plan, String>,
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
