//! Products with a weight: `out[t] = weight x[t] + bias + residual[t]`, in that order; or a matrix a head.

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand, WeightId};

/// Product of each row with a weight matrix of `rows x cols`; `x` has `cols` columns, the value has `rows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// Rows to multiply.
    pub x: NodeId,
    /// The matrix.
    pub weight: WeightId,
    /// One number an output column, added after the product.
    pub bias: Option<WeightId>,
    /// A value of the output's shape, added last.
    pub residual: Option<NodeId>,
}

impl MatMul {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        operands([self.x.into(), self.weight.into()], &[self.bias.map(Into::into), self.residual.map(Into::into)])
    }
}

/// Product of each head of a row with the matrix of that head in a stack of `heads x rows x cols`.
///
/// A head of `x` has `cols + carried` elements: the first are multiplied, the others follow the product unchanged, so
/// a head of the value has `rows + carried`. (Latent attention takes the up-projections of K and V into q and out of the
/// mixed values so: arXiv:2405.04434, section 2.1.2.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadMatMul {
    /// Rows of heads.
    pub x: NodeId,
    /// The matrices, one a head.
    pub weight: WeightId,
    /// Elements at the end of each head that are copied.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub carried: u32,
}

impl HeadMatMul {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        operands([self.x.into(), self.weight.into()], &[])
    }
}
