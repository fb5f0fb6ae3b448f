//! DeepSeek V2 and V3, and Kimi K2 with their graph: latent attention, leading dense layers, then experts of which some are
//! shared by all tokens (arXiv:2405.04434, arXiv:2412.19437).

use super::blocks::{Blocks, HiddenStyle};
use super::hparams::{Hparams, Keys};
use super::{Experts, ModelError, TensorTable};
use crate::graph::NodeId;
use crate::graph::ops::{ExpertGroups, Gating, Scaling};

/// The dimensions of latent attention; what is cached is a row of `rank + rotary` elements a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Columns that q is compressed to, if it is.
    pub q_rank: Option<u32>,
    /// Elements that K and V of all heads are compressed to.
    pub rank: u32,
    /// Elements of a q head that are rotated.
    pub rotary: u32,
    /// Elements of a q head that are not; they come first.
    pub plain: u32,
    /// Elements of a v head.
    pub value_dim: u32,
}

/// One layer.
pub(super) fn layer(blocks: &mut Blocks<'_>, x: NodeId, layer: u32) -> Result<NodeId, ModelError> {
    let x = blocks.latent_attention(x)?;
    if layer < blocks.hparams().dense_layers {
        return blocks.gated_layer(x, HiddenStyle::USUAL);
    }
    let experts = blocks.required_experts()?;
    blocks.expert_layer(x, experts)
}

/// Hyper-parameters as read for any model → with what this one has more of.
///
/// # Errors
/// A needed key is missing, a value is out of range, or the file is of a form that older converters wrote.
pub(super) fn complete(keys: &Keys<'_>, tensors: &TensorTable, h: Hparams) -> Result<Hparams, ModelError> {
    let latent = latent(keys, tensors, &h)?;
    let key_dim = latent.rank + latent.rotary;
    keys.fits("attention.head_count_kv", h.kv_heads, h.kv_heads == 1, "1 for latent attention")?;
    let needed = format!("kv_lora_rank plus rotated elements: {key_dim}");
    keys.fits("attention.key_length", h.key_dim, h.key_dim == key_dim, &needed)?;
    let needed = format!("kv_lora_rank: {}", latent.rank);
    keys.fits("attention.value_length", h.value_dim, h.value_dim == latent.rank, &needed)?;
    if let Some(found) = keys.float("attention.temperature_scale")?.filter(|&scale| scale != 0.0) {
        return Err(keys.bad("attention.temperature_scale", "0: such scaling is not built", found.to_string()));
    }
    let ahead = keys.optional("nextn_predict_layers")?.unwrap_or(0);
    keys.fits("nextn_predict_layers", ahead, ahead < h.layers, "fewer than the layers")?;
    let dense_layers = keys.optional("leading_dense_block_count")?.unwrap_or(0);
    let (scaling, attention_scale) = scales(keys, h.scaling, latent.plain + latent.rotary)?;
    Ok(Hparams {
        layers: h.layers - ahead,
        dense_layers,
        experts: h.experts.map(|experts| routing(keys, experts)).transpose()?,
        latent: Some(latent),
        scaling,
        attention_scale,
        ..h
    })
}

fn latent(keys: &Keys<'_>, tensors: &TensorTable, h: &Hparams) -> Result<Latent, ModelError> {
    let [name, found] = ["attn_k_b", "attn_kv_b"].map(|part| format!("blk.0.{part}.weight"));
    if keys.optional("attention.key_length_mla")?.is_none() && tensors.get(&found).is_some() {
        let why = "K and V in one tensor, as older converters wrote them, are not read; convert the model again";
        return Err(ModelError::OtherForm { file: tensors.file().into(), name, found, why });
    }
    let rank = keys.count("attention.kv_lora_rank")?;
    let rotary = keys.count("rope.dimension_count")?;
    let head = keys.count("attention.key_length_mla")?;
    let value_dim = keys.count("attention.value_length_mla")?;
    let row = |dim: u32| h.heads.checked_mul(dim).is_some();
    keys.fits("attention.kv_lora_rank", rank, rank.checked_add(rotary).is_some(), "less than 2^31")?;
    let needed = format!("more than the {rotary} rotated elements, and 2^32 elements a row at most");
    keys.fits("attention.key_length_mla", head, head > rotary && row(head), &needed)?;
    keys.fits("attention.value_length_mla", value_dim, row(value_dim), "short enough for 2^32 elements a row")?;
    let q_rank = keys.optional("attention.q_lora_rank")?.filter(|&rank| rank > 0);
    Ok(Latent { q_rank, rank, rotary, plain: head - rotary, value_dim })
}

fn routing(keys: &Keys<'_>, experts: Experts) -> Result<Experts, ModelError> {
    let gating = match keys.optional("expert_gating_func")?.unwrap_or(0) {
        0 | 1 => Gating::Softmax,
        2 => Gating::Sigmoid,
        other => return Err(keys.bad("expert_gating_func", "1 (softmax) or 2 (sigmoid)", other.to_string())),
    };
    let groups = keys.optional("expert_group_count")?.unwrap_or(0);
    let groups = if groups > 1 { Some(expert_groups(keys, experts, groups)?) } else { None };
    let shared = keys.optional("expert_shared_count")?.unwrap_or(0);
    let fits = shared.checked_mul(experts.feed_forward).is_some();
    keys.fits("expert_shared_count", shared, fits, "few enough for 2^32 hidden elements")?;
    let normalize = keys.flag("expert_weights_norm")?.unwrap_or(false);
    Ok(Experts { gating, groups, shared, normalize, ..experts })
}

fn expert_groups(keys: &Keys<'_>, experts: Experts, count: u32) -> Result<ExpertGroups, ModelError> {
    let whole = experts.count.is_multiple_of(count) && experts.count / count >= 2;
    let needed = format!("a divisor of the {} experts that leaves two a group", experts.count);
    keys.fits("expert_group_count", count, whole, &needed)?;
    let used = keys.count("expert_group_used_count")?;
    let enough = used <= count && u64::from(used) * u64::from(experts.count / count) >= u64::from(experts.used);
    let needed = format!("at most {count}, with at least {} experts", experts.used);
    keys.fits("expert_group_used_count", used, enough, &needed)?;
    Ok(ExpertGroups { count, used })
}

/// Factor on rotated elements and on scores.
///
/// YaRN's magnitude `1 + 0.1 ln factor` is not on the rotated elements here but, squared, on the scores, where the file
/// says by how much (`yarn_log_multiplier`); the steps and their order are those of llama.cpp, which also applies the
/// second factor under linear scaling.
fn scales(keys: &Keys<'_>, scaling: Scaling, head: u32) -> Result<(Scaling, f32), ModelError> {
    // Converters write a tenth of the multiplier.
    let multiplier = keys.float("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0) / 0.1;
    let own = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let log = (1.0 / scaling.freq_scale).ln();
    let magnitude = 1.0 + 0.1 * log;
    let yarn = scaling.ext_factor != 0.0;
    let base = match (yarn, multiplier != 0.0) {
        (false, _) => 1.0,
        (true, true) => 1.0 / magnitude,
        (true, false) => magnitude.max(1.0) * (1.0 / magnitude),
    };
    let base = base * own;
    let attn_factor = if yarn { base * magnitude } else { base };
    let score = base * magnitude * (1.0 + 0.1 * multiplier * log);
    let attention_scale = score * score / (head as f32).sqrt();
    if !attention_scale.is_finite() {
        let (name, needed) = ("rope.scaling.yarn_log_multiplier", "small enough, with attn_factor, for finite scores");
        return Err(keys.bad(name, needed, format!("{} beside an attn_factor of {own}", multiplier * 0.1)));
    }
    Ok((Scaling { attn_factor, ..scaling }, attention_scale))
}
