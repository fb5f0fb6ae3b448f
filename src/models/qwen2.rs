//! Qwen2 and Qwen2.5: as llama, with biases on q, k and v, and rotation by halves.

use super::ModelError;
use super::blocks::{AttentionStyle, Blocks, HiddenStyle};
use crate::graph::NodeId;
use crate::graph::ops::RopeStyle;

/// One layer.
pub(super) fn layer(blocks: &mut Blocks<'_>, x: NodeId) -> Result<NodeId, ModelError> {
    let x = blocks.attention(x, AttentionStyle { rope: RopeStyle::Halves, head_norms: false, post_norm: None })?;
    blocks.gated_layer(x, HiddenStyle::USUAL)
}
