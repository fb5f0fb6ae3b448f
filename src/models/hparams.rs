//! Metadata → hyper-parameters: keys as the GGUF specification and llama.cpp's converter name them.
//! Everything later code divides by or multiplies is checked here once.

use super::{Architecture, ModelError, TensorTable};
use crate::gguf::{Metadata, Value};
use crate::graph::ops::Scaling;

/// The expert layers of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// Experts a layer.
    pub count: u32,
    /// Experts used a token.
    pub used: u32,
    /// Width of an expert's hidden layer.
    pub feed_forward: u32,
    /// Factor on the routing weights.
    pub scale: f32,
}

/// What a model's graph depends on beside its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Rows of the token embedding.
    pub vocab: u32,
    /// Context the model was trained on.
    pub context: u32,
    /// Query heads.
    pub heads: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// Elements of a q or k head.
    pub key_dim: u32,
    /// Elements of a v head.
    pub value_dim: u32,
    /// Width of the dense hidden layer; 0 where every layer has experts.
    pub feed_forward: u32,
    /// Expert layers, if the model has any.
    pub experts: Option<Experts>,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Rotated elements of a head.
    pub rotary: u32,
    /// Base of the rotation frequencies.
    pub rope_base: f32,
    /// Context extension.
    pub scaling: Scaling,
}

impl Hparams {
    /// Reads the keys of `architecture`.
    ///
    /// # Errors
    /// A needed key is missing, or a value is out of range.
    pub(super) fn read(
        metadata: &Metadata,
        architecture: Architecture,
        tensors: &TensorTable,
    ) -> Result<Hparams, ModelError> {
        let keys = Keys { metadata, architecture, file: tensors.file() };
        let width = keys.count("embedding_length")?;
        let layers = keys.count("block_count")?;
        let context = keys.optional("context_length")?.unwrap_or(2048);
        let heads = keys.per_layer("attention.head_count", layers)?;
        let kv_heads = keys.optional_per_layer("attention.head_count_kv", layers)?.unwrap_or(heads);
        let key_dim = keys.optional("attention.key_length")?.unwrap_or(width / heads);
        let value_dim = keys.optional("attention.value_length")?.unwrap_or(width / heads);
        keys.fits("attention.head_count_kv", kv_heads, heads.is_multiple_of(kv_heads), "a divisor of the heads")?;
        keys.fits("attention.key_length", key_dim, key_dim > 0, "at least 1")?;
        keys.fits("attention.value_length", value_dim, value_dim > 0, "at least 1")?;
        let row = |heads: u32, dim: u32| heads.checked_mul(dim).is_some();
        keys.fits("attention.key_length", key_dim, row(heads, key_dim), "short enough for 2^32 elements a row")?;
        keys.fits("attention.value_length", value_dim, row(heads, value_dim), "short enough for 2^32 elements a row")?;
        let scale = keys.float("attention.scale")?.filter(|&s| s != 0.0);
        let experts = keys.experts(layers)?;
        let feed_forward = keys.optional_per_layer("feed_forward_length", layers)?.unwrap_or(0);
        keys.fits("feed_forward_length", feed_forward, feed_forward > 0 || experts.is_some(), "at least 1")?;
        let rotary = keys.optional("rope.dimension_count")?.unwrap_or(key_dim);
        keys.fits(
            "rope.dimension_count",
            rotary,
            rotary <= key_dim && rotary.is_multiple_of(2),
            "even and at most a head",
        )?;
        Ok(Hparams {
            layers,
            width,
            vocab: vocab(tensors)?,
            context,
            heads,
            kv_heads,
            key_dim,
            value_dim,
            feed_forward,
            experts,
            norm_eps: keys.needed_float("attention.layer_norm_rms_epsilon")?,
            attention_scale: scale.unwrap_or(1.0 / (key_dim as f32).sqrt()),
            rotary,
            rope_base: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: keys.scaling(context)?,
        })
    }
}

/// The vocabulary's size is what the embedding has rows for.
fn vocab(tensors: &TensorTable) -> Result<u32, ModelError> {
    let name = "token_embd.weight";
    let missing = || ModelError::MissingTensor { file: tensors.file().into(), name: name.into(), needed: vec![] };
    let (_, dims) = tensors.get(name).ok_or_else(missing)?;
    let rows = dims.get(1).copied().and_then(|n| u32::try_from(n).ok());
    rows.ok_or_else(|| ModelError::TensorShape {
        file: tensors.file().into(),
        name: name.into(),
        needed: vec![0, 0],
        found: dims.to_vec(),
    })
}

struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: Architecture,
    file: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn optional(&self, name: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.metadata.u32(&self.key(name))?)
    }

    fn count(&self, name: &str) -> Result<u32, ModelError> {
        let value = self.optional(name)?.ok_or_else(|| self.missing(name))?;
        self.fits(name, value, value > 0, "at least 1")?;
        Ok(value)
    }

    fn float(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let value = self.metadata.f32(&self.key(name))?;
        match value {
            Some(x) if !x.is_finite() => Err(self.bad(name, "a finite number", x.to_string())),
            other => Ok(other),
        }
    }

    fn needed_float(&self, name: &str) -> Result<f32, ModelError> {
        self.float(name)?.ok_or_else(|| self.missing(name))
    }

    /// A number, or an array with one equal number a layer.
    fn optional_per_layer(&self, name: &str, layers: u32) -> Result<Option<u32>, ModelError> {
        if !matches!(self.metadata.get(&self.key(name)), Some(Value::Array(_))) {
            return self.optional(name);
        }
        let values = self.metadata.u32s(&self.key(name))?.unwrap_or_default();
        let first = values.first().copied();
        if values.len() != layers as usize || values.iter().any(|&v| Some(v) != first) {
            return Err(self.bad(name, "one equal number for every layer", format!("{values:?}")));
        }
        Ok(first)
    }

    fn per_layer(&self, name: &str, layers: u32) -> Result<u32, ModelError> {
        let value = self.optional_per_layer(name, layers)?.ok_or_else(|| self.missing(name))?;
        self.fits(name, value, value > 0, "at least 1")?;
        Ok(value)
    }

    fn experts(&self, layers: u32) -> Result<Option<Experts>, ModelError> {
        let count = self.optional("expert_count")?.unwrap_or(0);
        if count == 0 {
            return Ok(None);
        }
        let used = self.count("expert_used_count")?;
        self.fits("expert_used_count", used, used <= count, "at most the experts")?;
        let own = self.optional_per_layer("expert_feed_forward_length", layers)?.filter(|&n| n > 0);
        let feed_forward = match own {
            Some(n) => n,
            None => self.per_layer("feed_forward_length", layers)?,
        };
        let scale = self.float("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
        Ok(Some(Experts { count, used, feed_forward, scale }))
    }

    /// Linear scaling divides positions by the factor; YaRN (arXiv:2309.00071, section 3.4) also raises the
    /// magnitude of rotated elements by `1 + 0.1 ln factor`.
    fn scaling(&self, context: u32) -> Result<Scaling, ModelError> {
        let kind = self.metadata.str(&self.key("rope.scaling.type"))?.unwrap_or("linear");
        let old_factor = self.float("rope.scale_linear")?;
        let factor = self.float("rope.scaling.factor")?.or(old_factor).filter(|&f| f != 0.0).unwrap_or(1.0);
        if factor < 0.0 {
            return Err(self.bad("rope.scaling.factor", "a positive number", factor.to_string()));
        }
        let (freq_scale, yarn) = match kind {
            "none" => (1.0, false),
            "linear" => (1.0 / factor, false),
            "yarn" => (1.0 / factor, true),
            other => return Err(self.bad("rope.scaling.type", "none, linear or yarn", format!("{other:?}"))),
        };
        let trained_context = self.optional("rope.scaling.original_context_length")?.unwrap_or(context);
        let ext_factor = self.float("rope.scaling.yarn_ext_factor")?.unwrap_or(if yarn { 1.0 } else { 0.0 });
        let magnitude = if ext_factor == 0.0 { 1.0 } else { 1.0 + 0.1 * factor.ln() };
        Ok(Scaling {
            freq_scale,
            ext_factor,
            attn_factor: magnitude * self.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
            beta_fast: self.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            trained_context,
        })
    }

    fn fits(&self, name: &str, found: u32, holds: bool, needed: &str) -> Result<(), ModelError> {
        if holds { Ok(()) } else { Err(self.bad(name, needed, found.to_string())) }
    }

    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingKey { file: self.file.into(), key: self.key(name) }
    }

    fn bad(&self, name: &str, needed: &str, found: String) -> ModelError {
        ModelError::BadKey { file: self.file.into(), key: self.key(name), needed: needed.into(), found }
    }
}
