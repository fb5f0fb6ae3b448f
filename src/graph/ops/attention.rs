//! Scaled dot-product attention over the cache, with grouped heads (Ainslie et al. 2023, arXiv:2305.13245).

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand, StateId};

/// Which cells a row may attend to, counted along its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All up to its own.
    Causal,
    /// Its own and the `n - 1` before it.
    Window(u32),
}

/// `out[h] = softmax(scale * q[h] K[g]^T) V[g]` with `g = h / (heads / kv heads)`, over the cells that `mask` lets in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Rotated q rows of `heads x head_dim`.
    pub q: NodeId,
    /// The write that puts this step's rows into the cache first.
    pub write: NodeId,
    /// The layer's K cache.
    pub keys: StateId,
    /// The layer's V cache.
    pub values: StateId,
    /// Query heads; a multiple of the KV heads.
    pub heads: u32,
    /// Factor on the scores.
    pub scale: f32,
    /// Cells in reach.
    pub mask: Mask,
}

impl Attention {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        operands([self.q.into(), self.write.into(), self.keys.into(), self.values.into()], &[])
    }
}
