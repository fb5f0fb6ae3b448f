//! Llama 1-3, Mistral, and Mixtral's expert layers: pre-norm attention, then a gated unit or experts.

use super::ModelError;
use super::blocks::{AttentionStyle, Blocks, HiddenStyle};
use crate::graph::NodeId;
use crate::graph::ops::RopeStyle;

/// One layer.
pub(super) fn layer(blocks: &mut Blocks<'_>, x: NodeId) -> Result<NodeId, ModelError> {
    let x = blocks.attention(x, AttentionStyle { rope: RopeStyle::Interleaved, head_norms: false, post_norm: None })?;
    match blocks.hparams().experts {
        Some(experts) => blocks.expert_layer(x, experts),
        None => blocks.gated_layer(x, HiddenStyle::USUAL),
    }
}
