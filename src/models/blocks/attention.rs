//! Pre-norm attention with rotation, grouped heads and a cache; returns the residual stream with its output added.

use super::{Blocks, ModelError};
use crate::graph::ops::{Attention, CacheWrite, Mask, Rope, RopeStyle};
use crate::graph::{CacheHalf, NodeId, Op, State, StateId};
use crate::tensor::DType;
use crate::units::Tokens;

/// What differs between architectures.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct AttentionStyle {
    /// Which elements are rotated together.
    pub rope: RopeStyle,
    /// Whether q and k heads are normalised before the rotation.
    pub head_norms: bool,
    /// The norm of what is added to the stream, if it has one.
    pub post_norm: Option<&'static str>,
}

impl Blocks<'_> {
    /// One attention block.
    pub(in crate::models) fn attention(&mut self, x: NodeId, style: AttentionStyle) -> Result<NodeId, ModelError> {
        let h = self.hparams;
        let normed = self.norm(&self.in_layer("attn_norm"), &self.in_layer("attn_norm.weight"), x, h.width, 1)?;
        let q = self.matmul("attn_q", normed, (h.width, h.heads * h.key_dim), None)?;
        let k = self.matmul("attn_k", normed, (h.width, h.kv_heads * h.key_dim), None)?;
        let v = self.matmul("attn_v", normed, (h.width, h.kv_heads * h.value_dim), None)?;
        let q = self.rotated("q", q, h.heads, style)?;
        let k = self.rotated("k", k, h.kv_heads, style)?;
        let (mask, ..) = h.reach(self.layer);
        let keys = self.cache_half(CacheHalf::Keys, h.key_dim, mask)?;
        let values = self.cache_half(CacheHalf::Values, h.value_dim, mask)?;
        let write =
            self.node(self.in_layer("cache"), Op::Cache(CacheWrite { k, v: Some(v), keys, values: Some(values) }))?;
        let (heads, scale) = (h.heads, h.attention_scale);
        let attention = Attention { q, write, keys, values: values.into(), heads, scale, mask };
        let mixed = self.node(self.in_layer("attention"), Op::Attention(attention))?;
        self.added(x, "attn_output", mixed, h.heads * h.value_dim, style.post_norm)
    }

    fn rotated(&mut self, half: &str, x: NodeId, heads: u32, style: AttentionStyle) -> Result<NodeId, ModelError> {
        let h = self.hparams;
        let mut x = x;
        if style.head_norms {
            let name = self.in_layer(&format!("attn_{half}_norm"));
            x = self.norm(&name, &format!("{name}.weight"), x, h.key_dim, heads)?;
        }
        let (_, base, scaling) = h.reach(self.layer);
        let rope = Rope {
            x,
            positions: self.inputs.positions,
            factors: self.optional_vector("rope_freqs.weight", h.rotary / 2)?,
            heads,
            head_dim: h.key_dim,
            offset: 0,
            rotary: h.rotary,
            style: style.rope,
            base,
            scaling,
        };
        self.node(self.in_layer(&format!("rope_{half}")), Op::Rope(rope))
    }

    pub(super) fn cache_half(&mut self, half: CacheHalf, head_dim: u32, mask: Mask) -> Result<StateId, ModelError> {
        let (name, dtype) = match half {
            CacheHalf::Keys => ("cache_k", self.cache.keys),
            CacheHalf::Values => ("cache_v", self.cache.values),
        };
        self.fits_blocks(name, dtype, head_dim)?;
        let (cells, window) = match mask {
            Mask::Causal => (self.cache.cells, None),
            Mask::Window(tokens) => self.cache.of_window(Tokens(tokens)),
        };
        let (layer, heads) = (self.layer, self.hparams.kv_heads);
        let state = State { name: self.in_layer(name), layer, half, dtype, heads, head_dim, cells, window };
        Ok(self.builder.state(state)?)
    }

    fn fits_blocks(&self, what: &'static str, dtype: DType, head_dim: u32) -> Result<(), ModelError> {
        let block = dtype.block().elements;
        if head_dim.is_multiple_of(block) {
            return Ok(());
        }
        let why = format!("{dtype} has blocks of {block}, a head has {head_dim} elements");
        Err(ModelError::Cache { file: self.tensors.file().into(), what, why })
    }
}
