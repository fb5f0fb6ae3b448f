//! Scaled dot-product attention over the cache, with grouped heads (Ainslie et al. 2023, arXiv:2305.13245), or over a
//! latent cache whose keys begin with the values (DeepSeek-V2 2024, arXiv:2405.04434, section 2.1).

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand, State, StateId};

/// Which cells a row may attend to, counted along its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All up to its own.
    Causal,
    /// Its own and the `n - 1` before it.
    Window(u32),
}

/// Where the V rows of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// In a state of their own.
    State(StateId),
    /// Inside the keys: the first elements of each K head are its V head.
    Prefix {
        /// How many.
        prefix: u32,
    },
}

impl Values {
    /// The state of their own, if they have one.
    pub fn state(self) -> Option<StateId> {
        match self {
            Values::State(id) => Some(id),
            Values::Prefix { prefix: _ } => None,
        }
    }

    /// Elements of a V head, with `state` looking states up.
    pub fn head_dim<'a>(self, state: impl FnOnce(StateId) -> &'a State) -> u32 {
        match self {
            Values::State(id) => state(id).head_dim,
            Values::Prefix { prefix } => prefix,
        }
    }
}

impl From<StateId> for Values {
    fn from(id: StateId) -> Values {
        Values::State(id)
    }
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
    /// The layer's V cache, or which part of the K cache it is.
    pub values: Values,
    /// Query heads; a multiple of the KV heads.
    pub heads: u32,
    /// Factor on the scores.
    pub scale: f32,
    /// Cells in reach.
    pub mask: Mask,
}

impl Attention {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        operands([self.q.into(), self.write.into(), self.keys.into()], &[self.values.state().map(Into::into)])
    }
}
