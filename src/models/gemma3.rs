//! Gemma 3 (arXiv:2503.19786): layers that attend to a window of the context, with a full one now and then; norms on every
//! q and k head, and on what a block adds to the stream; embeddings times the root of the width.

use super::ModelError;
use super::blocks::{AttentionStyle, Blocks, HiddenStyle};
use super::hparams::{Hparams, Keys};
use crate::graph::NodeId;
use crate::graph::ops::{Activation, RopeStyle, Scaling};

/// Layers that attend to a window of the context alone, and how these are rotated.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// Positions that a token attends to, its own included.
    pub length: u32,
    /// Whether a layer has a window, one a layer.
    pub layers: Vec<bool>,
    /// Base of the rotation frequencies in these layers.
    pub rope_base: f32,
    /// Their context extension.
    pub scaling: Scaling,
}

/// A full layer comes after so many less one with windows, where a file does not say.
const USUAL_PERIOD: u32 = 6;

/// Layers of the one size whose scores are scaled by its width a head instead of by the length of a key, as llama.cpp
/// tells it.
const LAYERS_OF_27B: u32 = 62;

/// One layer.
pub(super) fn layer(blocks: &mut Blocks<'_>, x: NodeId) -> Result<NodeId, ModelError> {
    let (rope, post_norm) = (RopeStyle::Halves, Some("post_attention_norm"));
    let x = blocks.attention(x, AttentionStyle { rope, head_norms: true, post_norm })?;
    blocks.gated_layer(x, HiddenStyle { activation: Activation::Gelu, post_norm: Some("post_ffw_norm") })
}

/// Hyper-parameters as read for any model → with what this one has more of.
///
/// # Errors
/// A value is out of range, or the file asks for what is not built: capped logits, heads of another length in some layers.
pub(super) fn complete(keys: &Keys<'_>, h: Hparams) -> Result<Hparams, ModelError> {
    for name in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if let Some(found) = keys.float(name)?.filter(|&cap| cap != 0.0) {
            return Err(keys.bad(name, "0: capped logits are not built", found.to_string()));
        }
    }
    let head = if h.layers == LAYERS_OF_27B { h.width / h.heads } else { h.key_dim };
    keys.fits("attention.head_count", h.heads, head > 0, &format!("at most embedding_length, which is {}", h.width))?;
    Ok(Hparams {
        embedding_scale: (h.width as f32).sqrt(),
        attention_scale: 1.0 / (head as f32).sqrt(),
        windows: windows(keys, &h)?,
        ..h
    })
}

fn windows(keys: &Keys<'_>, h: &Hparams) -> Result<Option<Windows>, ModelError> {
    let Some(length) = keys.optional("attention.sliding_window")?.filter(|&n| n > 0) else { return Ok(None) };
    let own = [
        ("attention.key_length_swa", "attention.key_length", h.key_dim),
        ("attention.value_length_swa", "attention.value_length", h.value_dim),
        ("rope.dimension_count_swa", "rope.dimension_count", h.rotary),
    ];
    for (name, of_all, needed) in own {
        let found = keys.optional(name)?.unwrap_or(needed);
        keys.fits(name, found, found == needed, &format!("that of all layers: {of_all}, which is {needed}"))?;
    }
    let layers = match keys.flag_per_layer("attention.sliding_window_pattern", h.layers)? {
        Some(layers) => layers,
        None => pattern(keys, h.layers)?,
    };
    let rope_base = keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    // No context extension: the usual frequencies, and of the factors on rotated elements only the file's own.
    let attn_factor = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let scaling = Scaling { freq_scale: 1.0, ext_factor: 0.0, attn_factor, ..h.scaling };
    Ok(Some(Windows { length, layers, rope_base, scaling }))
}

/// Every so-many-th layer is full; with a period of 0, none.
fn pattern(keys: &Keys<'_>, layers: u32) -> Result<Vec<bool>, ModelError> {
    let period = keys.optional("attention.sliding_window_pattern")?.unwrap_or(USUAL_PERIOD);
    let has_window = |layer: u32| period == 0 || layer % period < period - 1;
    Ok((0..layers).map(has_window).collect())
}
