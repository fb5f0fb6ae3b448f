//! Qwen3 with experts in every layer.

use super::ModelError;
use super::blocks::{AttentionStyle, Blocks};
use crate::graph::NodeId;
use crate::graph::ops::RopeStyle;

/// One layer.
pub(super) fn layer(blocks: &mut Blocks<'_>, x: NodeId) -> Result<NodeId, ModelError> {
    let x = blocks.attention(x, AttentionStyle { rope: RopeStyle::Halves, head_norms: true, post_norm: None })?;
    let experts = blocks.required_experts()?;
    blocks.expert_layer(x, experts)
}
