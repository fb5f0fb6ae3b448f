//! Mixture of experts (Shazeer et al. 2017, arXiv:1701.06538): routing, expert products, weighted sum.

use std::ops::Range;

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
    /// `1 / (1 + exp(-x))` of each.
    Sigmoid,
}

/// Choice among groups of experts first (DeepSeek-V3 2024, arXiv:2412.19437, section 2.1.2): equal runs of experts, of
/// which those with the greatest sum of their two best scores are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertGroups {
    /// Groups; a divisor of the experts that leaves at least two a group.
    pub count: u32,
    /// Groups kept a row.
    pub used: u32,
}

/// Per row the `used` experts of highest score (ties: lowest id), in descending order, with their weights. The score is the
/// probability plus the bias; weights are probabilities without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Router logits, one column an expert.
    pub logits: NodeId,
    /// Experts chosen a row.
    pub used: u32,
    /// Logits to probabilities.
    pub gating: Gating,
    /// What is added to the probabilities for the choice, one number an expert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<WeightId>,
    /// Groups that the experts are chosen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<ExpertGroups>,
    /// Whether the chosen weights are divided by their sum.
    pub normalize: bool,
    /// Factor on the weights, applied last.
    pub scale: f32,
}

/// Some of the experts of a layer: a run of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertPart {
    /// First expert.
    pub first: u32,
    /// Number of experts.
    pub count: u32,
}

impl ExpertPart {
    /// The experts' ids.
    pub fn range(self) -> Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
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
    /// The experts whose products are made; slots of others hold anything. All, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<ExpertPart>,
}

impl Experts {
    /// The matrices of a stack of `count` that are read.
    pub fn matrices(&self, count: u32) -> Range<u32> {
        self.part.map_or(0..count, ExpertPart::range)
    }
}

/// `out[t] = sum over slots j, in rank order, of weight[t][j] * x[t][j]`, then plus `shared[t]`, then plus `residual[t]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Combine {
    /// Rows of `used` slots.
    pub x: NodeId,
    /// The choice of experts, with the weights.
    pub routing: NodeId,
    /// What the experts give that every row uses; of the output's shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<NodeId>,
    /// A value of the output's shape, added last.
    pub residual: Option<NodeId>,
    /// The experts whose slots are summed; all, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<ExpertPart>,
}

impl Moe {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        match self {
            Moe::Route(op) => operands([op.logits.into()], &[op.bias.map(Into::into)]),
            Moe::Experts(op) => {
                operands([op.x.into(), op.routing.into(), op.weight.into()], &[op.bias.map(Into::into)])
            }
            Moe::Combine(op) => {
                operands([op.x.into(), op.routing.into()], &[op.shared.map(Into::into), op.residual.map(Into::into)])
            }
        }
    }
}
