//! Qwen3: as qwen2, with a norm on every q and k head.

use super::ModelError;
use super::blocks::{AttentionStyle, Blocks, HiddenStyle};
use crate::graph::NodeId;
use crate::graph::ops::RopeStyle;

/// One layer.
pub(super) fn layer(blocks: &mut Blocks<'_>, x: NodeId) -> Result<NodeId, ModelError> {
    let x = blocks.attention(x, AttentionStyle { rope: RopeStyle::Halves, head_norms: true, post_norm: None })?;
    blocks.gated_layer(x, HiddenStyle::USUAL)
}
