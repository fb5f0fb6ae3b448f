//! Product with a weight: `out[t] = weight x[t] + bias + residual[t]`, in that order.

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
