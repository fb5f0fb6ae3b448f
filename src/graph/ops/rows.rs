//! Rows taken by index.

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{InputId, NodeId, Operand, WeightId};

/// Rows taken by index, from a weight or from a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Token embedding.
    Embed(Embed),
    /// Choice of output rows.
    Select(Select),
}

/// `out[t] = scale * decode(weight[ids[t]])`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embed {
    /// One row a token of the vocabulary.
    pub weight: WeightId,
    /// Token ids.
    pub ids: InputId,
    /// Factor on the rows.
    #[serde(default = "super::one", skip_serializing_if = "super::is_one")]
    pub scale: f32,
}

/// `out[o] = x[rows[o]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Select {
    /// Token rows.
    pub x: NodeId,
    /// The row of each output.
    pub rows: InputId,
}

impl Rows {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        match self {
            Rows::Embed(op) => operands([op.weight.into(), op.ids.into()], &[]),
            Rows::Select(op) => operands([op.x.into(), op.rows.into()], &[]),
        }
    }
}
