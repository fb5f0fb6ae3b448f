//! Latent attention (arXiv:2405.04434, section 2.1) with the up-projections of K and V taken into q and out of the mixed
//! values: all heads share one cached row a token, whose first elements are the values. K and V are never expanded, in
//! prefill neither.

use super::{Blocks, ModelError};
use crate::graph::ops::{Attention, CacheWrite, HeadMatMul, Mask, Norm, Rope, RopeStyle, Values};
use crate::graph::{CacheHalf, NodeId, Op};
use crate::models::Latent;

/// The heads that one rotation is for.
struct Heads {
    count: u32,
    /// Elements before the rotated ones.
    offset: u32,
}

impl Blocks<'_> {
    /// One latent attention block.
    pub(in crate::models) fn latent_attention(&mut self, x: NodeId) -> Result<NodeId, ModelError> {
        let (h, latent) = (self.hparams, self.required_latent()?);
        let Latent { rank, rotary, plain, value_dim, q_rank: _ } = latent;
        let normed = self.norm(&self.in_layer("attn_norm"), &self.in_layer("attn_norm.weight"), x, h.width, 1)?;
        let q = self.first_of_q(normed, latent)?;
        let k = self.matmul("attn_kv_a_mqa", normed, (h.width, rank + rotary), None)?;
        let q = self.second_of_q(q, latent)?;
        let q = self.latent_rope("rope_q", q, latent, Heads { count: h.heads, offset: plain })?;
        let q = self.head_matmul("attn_k_b", q, (plain, rank), rotary)?;
        let k = self.latent_norm(k, latent)?;
        let k = self.latent_rope("rope_k", k, latent, Heads { count: 1, offset: rank })?;
        let keys = self.cache_half(CacheHalf::Keys, rank + rotary, Mask::Causal)?;
        let write = self.node(self.in_layer("cache"), Op::Cache(CacheWrite { k, v: None, keys, values: None }))?;
        let (heads, scale, mask, values) = (h.heads, h.attention_scale, Mask::Causal, Values::Prefix { prefix: rank });
        let attention = Attention { q, write, keys, values, heads, scale, mask };
        let mixed = self.node(self.in_layer("attention"), Op::Attention(attention))?;
        let mixed = self.head_matmul("attn_v_b", mixed, (rank, value_dim), 0)?;
        self.matmul("attn_output", mixed, (h.heads * value_dim, h.width), Some(x))
    }

    fn required_latent(&self) -> Result<Latent, ModelError> {
        let key = || "attention.kv_lora_rank".to_owned();
        let missing = || ModelError::MissingKey { file: self.tensors.file().into(), key: key() };
        self.hparams.latent.ok_or_else(missing)
    }

    /// q, or what it is compressed to.
    fn first_of_q(&mut self, normed: NodeId, latent: Latent) -> Result<NodeId, ModelError> {
        let h = self.hparams;
        match latent.q_rank {
            Some(rank) => self.matmul("attn_q_a", normed, (h.width, rank), None),
            None => self.matmul("attn_q", normed, (h.width, h.heads * (latent.plain + latent.rotary)), None),
        }
    }

    /// q from what it is compressed to.
    fn second_of_q(&mut self, q: NodeId, latent: Latent) -> Result<NodeId, ModelError> {
        let Some(rank) = latent.q_rank else { return Ok(q) };
        let name = self.in_layer("attn_q_a_norm");
        let q = self.norm(&name, &format!("{name}.weight"), q, rank, 1)?;
        self.matmul("attn_q_b", q, (rank, self.hparams.heads * (latent.plain + latent.rotary)), None)
    }

    /// The norm of what is not rotated.
    fn latent_norm(&mut self, x: NodeId, latent: Latent) -> Result<NodeId, ModelError> {
        let name = self.in_layer("attn_kv_a_norm");
        let weight = self.vector(&format!("{name}.weight"), latent.rank)?;
        let norm = Norm { x, weight, eps: self.hparams.norm_eps, heads: 1, carried: latent.rotary };
        self.node(name, Op::Norm(norm))
    }

    fn latent_rope(&mut self, name: &str, x: NodeId, latent: Latent, heads: Heads) -> Result<NodeId, ModelError> {
        let h = self.hparams;
        let rope = Rope {
            x,
            positions: self.inputs.positions,
            factors: None,
            heads: heads.count,
            head_dim: heads.offset + latent.rotary,
            offset: heads.offset,
            rotary: latent.rotary,
            style: RopeStyle::Interleaved,
            base: h.rope_base,
            scaling: h.scaling,
        };
        self.node(self.in_layer(name), Op::Rope(rope))
    }

    fn head_matmul(
        &mut self,
        name: &str,
        x: NodeId,
        (cols, rows): (u32, u32),
        carried: u32,
    ) -> Result<NodeId, ModelError> {
        let name = self.in_layer(name);
        let weight = self.stack(&format!("{name}.weight"), cols, rows, self.hparams.heads)?;
        self.node(name, Op::HeadMatMul(HeadMatMul { x, weight, carried }))
    }
}
