//! Metadata → hyper-parameters: keys as the GGUF specification and llama.cpp's converter name them.
//! Everything later code divides by or multiplies is checked here once.

use super::{Architecture, Latent, ModelError, TensorTable, Windows, deepseek2, gemma3};
use crate::gguf::{Metadata, Value};
use crate::graph::ops::{ExpertGroups, Gating, Mask, Scaling};

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
    /// Router logits to probabilities.
    pub gating: Gating,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub normalize: bool,
    /// Groups that the experts are chosen from.
    pub groups: Option<ExpertGroups>,
    /// Experts beside these that every token uses.
    pub shared: u32,
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
    /// Leading layers without experts, in a model of layers with experts.
    pub dense_layers: u32,
    /// Expert layers, if the model has any.
    pub experts: Option<Experts>,
    /// Latent attention, if it is that; key and value dimensions are then those of what is cached.
    pub latent: Option<Latent>,
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
    /// Factor on the rows of the token embedding.
    pub embedding_scale: f32,
    /// Layers with windows, if there are such.
    pub windows: Option<Windows>,
}

impl Hparams {
    /// The cells that tokens reach in `layer`, base and extension of its rotation.
    pub(super) fn reach(&self, layer: u32) -> (Mask, f32, Scaling) {
        match &self.windows {
            Some(windows) if windows.layers.get(layer as usize) == Some(&true) => {
                (Mask::Window(windows.length), windows.rope_base, windows.scaling)
            }
            Some(_) | None => (Mask::Causal, self.rope_base, self.scaling),
        }
    }

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
        let vocab = keys.vocab(tensors, width)?;
        let layers = keys.layers(tensors)?;
        let context = keys.optional("context_length")?.unwrap_or(2048);
        keys.fits("context_length", context, context > 0, "at least 1")?;
        let (heads, kv_heads) = keys.heads(layers)?;
        let key_dim = keys.head_dim("attention.key_length", width, heads)?;
        let value_dim = keys.head_dim("attention.value_length", width, heads)?;
        let scale = keys.float("attention.scale")?.filter(|&s| s != 0.0);
        let experts = keys.experts(layers)?;
        let feed_forward = keys.optional_per_layer("feed_forward_length", layers)?.unwrap_or(0);
        keys.fits("feed_forward_length", feed_forward, feed_forward > 0 || experts.is_some(), "at least 1")?;
        let norm_eps = "attention.layer_norm_rms_epsilon";
        let read = Hparams {
            layers,
            width,
            vocab,
            context,
            heads,
            kv_heads,
            key_dim,
            value_dim,
            feed_forward,
            dense_layers: 0,
            experts,
            latent: None,
            norm_eps: keys.positive(norm_eps)?.ok_or_else(|| keys.missing(norm_eps))?,
            attention_scale: scale.unwrap_or(1.0 / (key_dim as f32).sqrt()),
            rotary: keys.rotary(key_dim)?,
            rope_base: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: keys.scaling(context)?,
            embedding_scale: 1.0,
            windows: None,
        };
        match architecture {
            Architecture::Deepseek2 => deepseek2::complete(&keys, tensors, read),
            Architecture::Gemma3 => gemma3::complete(&keys, read),
            Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => Ok(read),
        }
    }
}

/// The layers that a file has tensors of: one more than the highest N of a `blk.N.` name.
fn layers_of(tensors: &TensorTable) -> u64 {
    let layer = |name: &str| name.strip_prefix("blk.")?.split_once('.')?.0.parse::<u32>().ok();
    tensors.names().filter_map(layer).max().map_or(0, |last| u64::from(last) + 1)
}

/// Getters of the architecture's keys, with errors that name them.
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: Architecture,
    file: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.metadata.u32(&self.key(name))?)
    }

    pub(super) fn count(&self, name: &str) -> Result<u32, ModelError> {
        let value = self.optional(name)?.ok_or_else(|| self.missing(name))?;
        self.fits(name, value, value > 0, "at least 1")?;
        Ok(value)
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ModelError> {
        Ok(self.metadata.bool(&self.key(name))?)
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let value = self.metadata.f32(&self.key(name))?;
        match value {
            Some(x) if !x.is_finite() => Err(self.bad(name, "a finite number", x.to_string())),
            other => Ok(other),
        }
    }

    pub(super) fn positive(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.float(name)? {
            Some(x) if x <= 0.0 => Err(self.bad(name, "a number above 0", x.to_string())),
            other => Ok(other),
        }
    }

    /// The vocabulary's size is what the embedding has rows for; it may have more rows than the tokenizer has tokens.
    fn vocab(&self, tensors: &TensorTable, width: u32) -> Result<u32, ModelError> {
        let file = || self.file.to_owned();
        let found = tensors.get("token_embd.weight").map(|(_, dims)| dims);
        let rows = match found {
            Some(&[cols, rows]) if cols == u64::from(width) => u32::try_from(rows).ok(),
            Some(_) | None => None,
        };
        let embedding = || {
            let found = found.map_or_else(|| "missing".to_owned(), |dims| format!("{dims:?}"));
            ModelError::Embedding { file: file(), width, found }
        };
        let rows = rows.ok_or_else(embedding)?;
        let key = "tokenizer.ggml.tokens";
        match self.metadata.get(key) {
            Some(Value::Array(tokens)) if tokens.len() > rows as usize => Err(ModelError::BadKey {
                file: file(),
                key: key.into(),
                needed: format!("at most {rows}, the rows of token_embd.weight"),
                found: format!("an array of {} tokens", tokens.len()),
            }),
            Some(_) | None => Ok(rows),
        }
    }

    fn layers(&self, tensors: &TensorTable) -> Result<u32, ModelError> {
        let (layers, found) = (self.count("block_count")?, layers_of(tensors));
        let needed = || format!("at most {found}: the file has tensors of {found} layers");
        self.fits("block_count", layers, u64::from(layers) <= found, &needed())?;
        Ok(layers)
    }

    /// Query heads and KV heads.
    fn heads(&self, layers: u32) -> Result<(u32, u32), ModelError> {
        let heads = self.per_layer("attention.head_count", layers)?;
        let kv_heads = self.optional_per_layer("attention.head_count_kv", layers)?.unwrap_or(heads);
        self.fits("attention.head_count_kv", kv_heads, kv_heads > 0, "at least 1")?;
        let needed = format!("a multiple of attention.head_count_kv, which is {kv_heads}");
        self.fits("attention.head_count", heads, heads.is_multiple_of(kv_heads), &needed)?;
        Ok((heads, kv_heads))
    }

    /// Elements of a head, by a key of its own or as an equal share of the width.
    fn head_dim(&self, name: &str, width: u32, heads: u32) -> Result<u32, ModelError> {
        let Some(dim) = self.optional(name)? else {
            let needed = format!("a divisor of embedding_length, which is {width}, as there is no {name}");
            self.fits("attention.head_count", heads, width.is_multiple_of(heads), &needed)?;
            return Ok(width / heads);
        };
        self.fits(name, dim, dim > 0, "at least 1")?;
        self.fits(name, dim, heads.checked_mul(dim).is_some(), "short enough for 2^32 elements a row")?;
        Ok(dim)
    }

    /// Rotated elements of a head of `key_dim` elements.
    fn rotary(&self, key_dim: u32) -> Result<u32, ModelError> {
        let name = "rope.dimension_count";
        let asked = self.optional(name)?;
        let rotary = asked.unwrap_or(key_dim);
        if rotary > 0 && rotary <= key_dim && rotary.is_multiple_of(2) {
            return Ok(rotary);
        }
        let needed = format!("an even number from 2 to the {key_dim} elements of a key");
        Err(self.bad(name, &needed, asked.map_or_else(|| "missing".to_owned(), |n| n.to_string())))
    }

    /// A number, or an array with one equal number a layer.
    fn optional_per_layer(&self, name: &str, layers: u32) -> Result<Option<u32>, ModelError> {
        let Some(Value::Array(array)) = self.metadata.get(&self.key(name)) else { return self.optional(name) };
        let mut numbers = array.iter().map(|v| v.as_integer().and_then(|n| u32::try_from(n).ok()));
        let first = numbers.next().flatten();
        if array.len() != layers as usize || first.is_none() || numbers.any(|n| n != first) {
            let needed = format!("one number of 32 bits for each of {layers} layers, all equal");
            return Err(self.bad(name, &needed, array.to_string()));
        }
        Ok(first)
    }

    /// An array with a flag or a 0 or 1 for each layer; none where the key is no array.
    pub(super) fn flag_per_layer(&self, name: &str, layers: u32) -> Result<Option<Vec<bool>>, ModelError> {
        let Some(Value::Array(array)) = self.metadata.get(&self.key(name)) else { return Ok(None) };
        let flag = |value: Value<'_>| match value {
            Value::Bool(flag) => Some(flag),
            other => other.as_integer().and_then(|n| u8::try_from(n).ok()).filter(|&n| n <= 1).map(|n| n == 1),
        };
        let flags: Option<Vec<bool>> = array.iter().map(flag).collect();
        let needed = || format!("one flag for each of {layers} layers");
        let flags = flags.filter(|flags| flags.len() == layers as usize);
        flags.map(Some).ok_or_else(|| self.bad(name, &needed(), array.to_string()))
    }

    fn per_layer(&self, name: &str, layers: u32) -> Result<u32, ModelError> {
        let value = self.optional_per_layer(name, layers)?.ok_or_else(|| self.missing(name))?;
        self.fits(name, value, value > 0, "at least 1")?;
        Ok(value)
    }

    fn experts(&self, layers: u32) -> Result<Option<Experts>, ModelError> {
        let count = self.optional("expert_count")?.unwrap_or(0);
        match self.architecture {
            Architecture::Llama if count == 0 => return Ok(None),
            Architecture::Llama => {}
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Gemma3 => {
                self.fits("expert_count", count, count == 0, "0: this architecture has no experts")?;
                return Ok(None);
            }
            Architecture::Qwen3Moe | Architecture::Deepseek2 => drop(self.count("expert_count")?),
        }
        let used = self.count("expert_used_count")?;
        self.fits("expert_used_count", used, used <= count, &format!("at most expert_count, which is {count}"))?;
        let own = self.optional_per_layer("expert_feed_forward_length", layers)?.filter(|&n| n > 0);
        let feed_forward = match own {
            Some(n) => n,
            None => self.per_layer("feed_forward_length", layers)?,
        };
        let scale = self.float("expert_weights_scale")?.filter(|&s| s != 0.0).unwrap_or(1.0);
        let (gating, normalize, groups, shared) = (Gating::Softmax, true, None, 0);
        Ok(Some(Experts { count, used, feed_forward, scale, gating, normalize, groups, shared }))
    }

    /// Linear scaling divides positions by the factor; YaRN (arXiv:2309.00071, section 3.4) also raises the
    /// magnitude of rotated elements by `1 + 0.1 ln factor`.
    fn scaling(&self, context: u32) -> Result<Scaling, ModelError> {
        let kind = self.metadata.str(&self.key("rope.scaling.type"))?.unwrap_or("linear");
        let (name, factor) = match self.float("rope.scaling.factor")? {
            Some(factor) => ("rope.scaling.factor", factor),
            None => ("rope.scale_linear", self.float("rope.scale_linear")?.unwrap_or(1.0)),
        };
        let factor = if factor == 0.0 { 1.0 } else { factor };
        if factor < f32::MIN_POSITIVE {
            return Err(self.bad(name, "a positive number with an inverse", factor.to_string()));
        }
        let (freq_scale, yarn) = match kind {
            "none" => (1.0, false),
            "linear" => (1.0 / factor, false),
            "yarn" => (1.0 / factor, true),
            other => {
                return Err(self.bad("rope.scaling.type", "none, linear or yarn", Value::Str(other).to_string()));
            }
        };
        let trained_context = self.optional("rope.scaling.original_context_length")?.unwrap_or(context);
        self.fits("rope.scaling.original_context_length", trained_context, trained_context > 0, "at least 1")?;
        let ext_factor = self.float("rope.scaling.yarn_ext_factor")?.unwrap_or(if yarn { 1.0 } else { 0.0 });
        let magnitude = if ext_factor == 0.0 { 1.0 } else { 1.0 + 0.1 * factor.ln() };
        Ok(Scaling {
            freq_scale,
            ext_factor,
            attn_factor: magnitude * self.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
            beta_fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            trained_context,
        })
    }

    pub(super) fn fits(&self, name: &str, found: u32, holds: bool, needed: &str) -> Result<(), ModelError> {
        if holds { Ok(()) } else { Err(self.bad(name, needed, found.to_string())) }
    }

    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingKey { file: self.file.into(), key: self.key(name) }
    }

    pub(super) fn bad(&self, name: &str, needed: &str, found: String) -> ModelError {
        ModelError::BadKey { file: self.file.into(), key: self.key(name), needed: needed.into(), found }
    }
}
