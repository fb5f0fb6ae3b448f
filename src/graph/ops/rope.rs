//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) with linear and YaRN scaling (arXiv:2309.00071).

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{InputId, NodeId, Operand, WeightId};

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// Elements `2i` and `2i + 1`.
    Interleaved,
    /// Elements `i` and `i + rotary / 2`.
    Halves,
}

/// How positions beyond the trained context are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Factor on every angle: 1, or trained over extended context.
    pub freq_scale: f32,
    /// Share of unscaled high frequencies in YaRN; 0 switches YaRN off.
    pub ext_factor: f32,
    /// Factor on the rotated elements.
    pub attn_factor: f32,
    /// Rotations over the trained context above which a frequency is left unscaled.
    pub beta_fast: f32,
    /// Rotations below which it is scaled in full.
    pub beta_slow: f32,
    /// The context that the model was trained on.
    pub trained_context: u32,
}

/// Rotation of `rotary` elements of each head, from `offset` on, by the row's position; the others are copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Rows of `heads x head_dim`.
    pub x: NodeId,
    /// Position of each row.
    pub positions: InputId,
    /// Divisors of the frequencies, one a rotated pair.
    pub factors: Option<WeightId>,
    /// Heads in a row.
    pub heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Elements of a head before the rotated ones.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub offset: u32,
    /// Elements of a head that are rotated; even.
    pub rotary: u32,
    /// Which elements form a pair.
    pub style: RopeStyle,
    /// Base of the frequencies: pair `i` turns by `base^(-2i / rotary)` a position.
    pub base: f32,
    /// Context extension.
    pub scaling: Scaling,
}

impl Rope {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        operands([self.x.into(), self.positions.into()], &[self.factors.map(Into::into)])
    }
}
