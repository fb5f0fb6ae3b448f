//! Mixture of experts (Shazeer et al. 2017, arXiv:1701.06538): routing, expert products, weighted sum.

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand, WeightId};

/// An op of an expert layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moe {
    /// Choice of experts.
    Route(Route),
    /// Products with the chosen experts.
    Experts(Experts),
    /// Weighted sum over the chosen experts.
    Combine(Combine),
}

/// How router logits become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
}

/// Per row the `used` experts of highest probability (ties: lowest id), in descending order, with their weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Router logits, one column an expert.
    pub logits: NodeId,
    /// Experts chosen a row.
    pub used: u32,
    /// Logits to probabilities.
    pub gating: Gating,
    /// Whether the chosen weights are divided by their sum.
    pub normalize: bool,
    /// Factor on the weights, applied last.
    pub scale: f32,
}

/// Per row and chosen expert `e` in slot `j`: `out[t][j] = weight[e] x[t] + bias[e]`, or of `x[t][j]` where x has slots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experts {
    /// Rows, or rows of `used` slots.
    pub x: NodeId,
    /// The choice of experts.
    pub routing: NodeId,
    /// One matrix an expert.
    pub weight: WeightId,
    /// One row an expert.
    pub bias: Option<WeightId>,
    /// Whether `x` has one slice a slot (the down product) or one a row (gate and up).
    pub slotted: bool,
}

/// `out[t] = sum over slots j, in rank order, of weight[t][j] * x[t][j]`, then plus `residual[t]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Combine {
    /// Rows of `used` slots.
    pub x: NodeId,
    /// The choice of experts, with the weights.
    pub routing: NodeId,
    /// A value of the output's shape, added last.
    pub residual: Option<NodeId>,
}

impl Moe {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        match self {
            Moe::Route(op) => operands([op.logits.into()], &[]),
            Moe::Experts(op) => {
                operands([op.x.into(), op.routing.into(), op.weight.into()], &[op.bias.map(Into::into)])
            }
            Moe::Combine(op) => operands([op.x.into(), op.routing.into()], &[op.residual.map(Into::into)]),
        }
    }
}
