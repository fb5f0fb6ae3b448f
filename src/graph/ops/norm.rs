//! Root-mean-square normalisation with its weight (Zhang & Sennrich 2019, arXiv:1910.07467).

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand, WeightId};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, over each of `heads` equal slices of a row; the last `carried` elements of a
/// slice take no part and are copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Rows to normalise.
    pub x: NodeId,
    /// One factor an element of a slice.
    pub weight: WeightId,
    /// Added to the mean square.
    pub eps: f32,
    /// Slices of a row that are normalised apart: 1, or the heads of a q or k norm.
    pub heads: u32,
    /// Elements at the end of each slice that are copied.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub carried: u32,
}

impl Norm {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        operands([self.x.into(), self.weight.into()], &[])
    }
}
