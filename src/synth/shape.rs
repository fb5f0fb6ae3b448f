//! What a synthetic model looks like: dimensions and options as plain data, read from a JSON file or named, and the
//! metadata that says the same in a GGUF file (keys of the GGUF specification).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Entry, SynthError, vocab};
use crate::gguf::MetaValue;
use crate::tensor::DType;

/// The dimensions of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// What the file calls itself.
    #[serde(default)]
    pub name: String,
    /// `llama`, `qwen2`, `qwen3`, `qwen3moe`, `deepseek2` or `gemma3`.
    pub arch: String,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Query heads.
    pub heads: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Width of the dense hidden layer.
    #[serde(default)]
    pub feed_forward: u32,
    /// Tokens.
    pub vocab: u32,
    /// Context the model says it was trained on.
    #[serde(default = "default_context")]
    pub context: u32,
    /// Base of the rotation frequencies.
    #[serde(default = "default_base")]
    pub rope_base: f32,
    /// Epsilon of the norms.
    #[serde(default = "default_eps")]
    pub norm_eps: f32,
    /// Whether the embedding is the output matrix too.
    #[serde(default)]
    pub tied: bool,
    /// Biases on q, k and v; qwen2 always has them.
    #[serde(default)]
    pub attention_biases: bool,
    /// A bias on the logits.
    #[serde(default)]
    pub output_bias: bool,
    /// Llama 3's divisors of the rotation frequencies.
    #[serde(default)]
    pub rope_factors: bool,
    /// Context extension: `none`, `linear:4`, `yarn:4`.
    #[serde(default)]
    pub rope_scaling: RopeScaling,
    /// Experts instead of the dense hidden layer.
    #[serde(default)]
    pub experts: Option<ExpertShape>,
    /// What deepseek2 has beside: latent attention instead of KV heads, and its experts' peculiarities.
    #[serde(default)]
    pub latent: Option<LatentShape>,
    /// What gemma3 may have beside: layers that attend to a window of the context.
    #[serde(default)]
    pub windows: Option<WindowShape>,
}

/// Layers that attend to a window of the context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowShape {
    /// Positions that a token attends to, its own included.
    pub length: u32,
    /// Every so-many-th layer has none; 0: the file does not say, which means 6.
    #[serde(default)]
    pub period: u32,
    /// Base of the rotation frequencies in these layers; 0: the file does not say, which means 10000.
    #[serde(default)]
    pub rope_base: f32,
}

/// Latent attention and the experts that come with it; `head_dim` is that of q, rotated elements included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentShape {
    /// Columns that q is compressed to; 0: it is not.
    #[serde(default)]
    pub q_rank: u32,
    /// Elements that K and V are compressed to.
    pub rank: u32,
    /// Rotated elements of a q head.
    pub rotary: u32,
    /// Elements of a v head.
    pub value_dim: u32,
    /// Leading layers without experts.
    #[serde(default)]
    pub dense_layers: u32,
    /// Experts beside the others that every token uses.
    #[serde(default)]
    pub shared: u32,
    /// Sigmoid instead of softmax over the router's logits, with a bias for the choice.
    #[serde(default)]
    pub sigmoid: bool,
    /// Whether the weights of the chosen experts are divided by their sum.
    #[serde(default)]
    pub normalize: bool,
    /// Factor on those weights; 0: none.
    #[serde(default)]
    pub scale: f32,
    /// Groups of experts and groups used a token; 0: none.
    #[serde(default)]
    pub groups: (u32, u32),
    /// `yarn_log_multiplier` of the file; 0: none.
    #[serde(default)]
    pub log_multiplier: f32,
}

/// The expert layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertShape {
    /// Experts a layer.
    pub count: u32,
    /// Experts used a token.
    pub used: u32,
    /// Width of an expert's hidden layer.
    pub feed_forward: u32,
}

/// How positions past the trained context are squeezed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// Positions are divided by the factor.
    Linear(f32),
    /// YaRN by the factor.
    Yarn(f32),
}

impl FromStr for RopeScaling {
    type Err = String;

    fn from_str(text: &str) -> Result<RopeScaling, String> {
        let refused = || format!("needed none, linear:FACTOR or yarn:FACTOR with a factor from 1, found {text:?}");
        let (kind, factor) = text.split_once(':').unwrap_or((text, "1"));
        let factor: f32 = factor.parse().map_err(|_| refused())?;
        match kind {
            "none" => Ok(RopeScaling::None),
            _ if !(1.0..=1e6).contains(&factor) => Err(refused()),
            "linear" => Ok(RopeScaling::Linear(factor)),
            "yarn" => Ok(RopeScaling::Yarn(factor)),
            _ => Err(refused()),
        }
    }
}

impl TryFrom<String> for RopeScaling {
    type Error = String;

    fn try_from(text: String) -> Result<RopeScaling, String> {
        text.parse()
    }
}

impl From<RopeScaling> for String {
    fn from(scaling: RopeScaling) -> String {
        match scaling {
            RopeScaling::None => "none".to_owned(),
            RopeScaling::Linear(factor) => format!("linear:{factor}"),
            RopeScaling::Yarn(factor) => format!("yarn:{factor}"),
        }
    }
}

impl ModelShape {
    /// Whether k and q heads are normalised.
    pub(super) fn has_head_norms(&self) -> bool {
        matches!(self.arch.as_str(), "qwen3" | "qwen3moe" | "gemma3")
    }

    /// Whether what a block adds to the stream is normalised, and layers may have windows.
    pub(super) fn is_gemma(&self) -> bool {
        self.arch == "gemma3"
    }

    /// Whether q, k and v have biases.
    pub(super) fn has_attention_biases(&self) -> bool {
        self.attention_biases || self.arch == "qwen2"
    }

    /// # Errors
    /// A dimension that no model of the architecture has.
    pub(super) fn check(&self) -> Result<(), SynthError> {
        let known = ["llama", "qwen2", "qwen3", "qwen3moe", "deepseek2", "gemma3"].contains(&self.arch.as_str());
        require("arch", "llama, qwen2, qwen3, qwen3moe, deepseek2 or gemma3", &self.arch, known)?;
        let dense = if self.experts.is_none() { self.feed_forward } else { 1 };
        let counts = [
            ("layers", self.layers, 1 << 12),
            ("width", self.width, 1 << 20),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("feed_forward", dense, 1 << 22),
            ("context", self.context, 1 << 30),
        ];
        for (what, found, most) in counts {
            require(what, &format!("1 to {most}"), &found.to_string(), (1..=most).contains(&found))?;
        }
        let least = vocab::LEAST;
        let vocab = (least..=1 << 24).contains(&self.vocab);
        require("vocab", &format!("{least} to {}, for bytes and marks", 1 << 24), &self.vocab.to_string(), vocab)?;
        let divides = self.heads.is_multiple_of(self.kv_heads);
        require("kv_heads", &format!("a divisor of the {} heads", self.heads), &self.kv_heads.to_string(), divides)?;
        require("head_dim", "an even number", &self.head_dim.to_string(), self.head_dim.is_multiple_of(2))?;
        for (what, found) in [("rope_base", self.rope_base), ("norm_eps", self.norm_eps)] {
            require(what, "a finite number above 0", &found.to_string(), found.is_finite() && found > 0.0)?;
        }
        self.check_windows()?;
        self.check_latent()?;
        self.check_experts()
    }

    fn check_windows(&self) -> Result<(), SynthError> {
        let Some(WindowShape { length, period: _, rope_base }) = self.windows else { return Ok(()) };
        require("windows", "given for gemma3 alone", "given", self.is_gemma())?;
        require("windows.length", "at least 1", &length.to_string(), length > 0)?;
        let base = rope_base.is_finite() && rope_base >= 0.0;
        require("windows.rope_base", "a finite number from 0", &rope_base.to_string(), base)
    }

    fn check_latent(&self) -> Result<(), SynthError> {
        let given = if self.latent.is_some() { "given" } else { "none" };
        require("latent", "given for deepseek2 alone", given, self.latent.is_some() == (self.arch == "deepseek2"))?;
        let Some(latent) = self.latent else { return Ok(()) };
        let rotary = latent.rotary.is_multiple_of(2) && (1..self.head_dim).contains(&latent.rotary);
        require("latent.rotary", "even and less than head_dim", &latent.rotary.to_string(), rotary)?;
        let counts = [("latent.rank", latent.rank), ("latent.value_dim", latent.value_dim)];
        for (what, found) in counts {
            require(what, "1 to 65536", &found.to_string(), (1..=1 << 16).contains(&found))?;
        }
        require("latent.q_rank", "at most 65536", &latent.q_rank.to_string(), latent.q_rank <= 1 << 16)?;
        require("latent.shared", "at most 64", &latent.shared.to_string(), latent.shared <= 64)?;
        let fits = latent.dense_layers <= self.layers && (latent.dense_layers == 0 || self.feed_forward > 0);
        let needed = "at most the layers, with feed_forward";
        require("latent.dense_layers", needed, &latent.dense_layers.to_string(), fits)
    }

    fn check_experts(&self) -> Result<(), SynthError> {
        let Some(ExpertShape { count, used, feed_forward }) = self.experts else {
            let dense = !matches!(self.arch.as_str(), "qwen3moe" | "deepseek2");
            return require("experts", "given for qwen3moe and deepseek2", "none", dense);
        };
        let can = matches!(self.arch.as_str(), "llama" | "qwen3moe" | "deepseek2");
        require("experts", "llama, qwen3moe or deepseek2 as architecture", &self.arch, can)?;
        require("experts.count", "1 to 4096", &count.to_string(), (1..=4096).contains(&count))?;
        require("experts.used", &format!("1 to {count}"), &used.to_string(), (1..=count).contains(&used))?;
        let hidden = (1..=1 << 22).contains(&feed_forward);
        require("experts.feed_forward", "1 to 4194304", &feed_forward.to_string(), hidden)
    }

    /// Keys and values of the file, without its vocabulary.
    pub(super) fn metadata(&self, dtype: DType, seed: u64) -> Vec<Entry> {
        let mut entries: Vec<Entry> = vec![
            ("general.architecture".into(), self.arch.clone().into()),
            ("general.type".into(), "model".into()),
            ("general.name".into(), format!("{} of random {dtype} weights, seed {seed}", self.title()).into()),
            ("general.file_type".into(), file_type(dtype).into()),
            ("general.quantization_version".into(), 2u32.into()),
        ];
        let mut add = |key: &str, value| entries.push((format!("{}.{key}", self.arch), value));
        add("block_count", self.layers.into());
        add("context_length", self.context.into());
        add("embedding_length", self.width.into());
        let dense = self.latent.map(|_| self.feed_forward);
        let hidden = dense.unwrap_or(self.experts.map_or(self.feed_forward, |e| e.feed_forward));
        add("feed_forward_length", hidden.into());
        add("attention.head_count", self.heads.into());
        let cached = self.latent.map_or((self.head_dim, self.head_dim), |l| (l.rank + l.rotary, l.rank));
        add("attention.head_count_kv", self.kv_heads.into());
        add("attention.key_length", cached.0.into());
        add("attention.value_length", cached.1.into());
        add("attention.layer_norm_rms_epsilon", self.norm_eps.into());
        add("rope.dimension_count", self.latent.map_or(self.head_dim, |latent| latent.rotary).into());
        add("rope.freq_base", self.rope_base.into());
        add("vocab_size", self.vocab.into());
        if let Some(ExpertShape { count, used, feed_forward }) = self.experts {
            add("expert_count", count.into());
            add("expert_used_count", used.into());
            add("expert_feed_forward_length", feed_forward.into());
        }
        if let Some(latent) = self.latent {
            latent.metadata(self.head_dim, &mut add);
        }
        if let Some(WindowShape { length, period, rope_base }) = self.windows {
            add("attention.sliding_window", length.into());
            if period > 0 {
                add("attention.sliding_window_pattern", period.into());
            }
            if rope_base > 0.0 {
                add("rope.freq_base_swa", rope_base.into());
            }
        }
        let scaling = match self.rope_scaling {
            RopeScaling::None => None,
            RopeScaling::Linear(factor) => Some(("linear", factor)),
            RopeScaling::Yarn(factor) => Some(("yarn", factor)),
        };
        if let Some((kind, factor)) = scaling {
            add("rope.scaling.type", kind.into());
            add("rope.scaling.factor", factor.into());
            add("rope.scaling.original_context_length", ((self.context as f32 / factor) as u32).max(1).into());
        }
        entries
    }

    fn title(&self) -> &str {
        if self.name.is_empty() { &self.arch } else { &self.name }
    }
}

impl LatentShape {
    /// The keys of deepseek2 alone.
    fn metadata(&self, head_dim: u32, add: &mut impl FnMut(&str, MetaValue)) {
        add("attention.q_lora_rank", self.q_rank.into());
        add("attention.kv_lora_rank", self.rank.into());
        add("attention.key_length_mla", head_dim.into());
        add("attention.value_length_mla", self.value_dim.into());
        add("leading_dense_block_count", self.dense_layers.into());
        add("expert_shared_count", self.shared.into());
        add("expert_gating_func", (if self.sigmoid { 2u32 } else { 1 }).into());
        add("expert_weights_norm", self.normalize.into());
        if self.scale != 0.0 {
            add("expert_weights_scale", self.scale.into());
        }
        if self.groups.0 > 0 {
            add("expert_group_count", self.groups.0.into());
            add("expert_group_used_count", self.groups.1.into());
        }
        if self.log_multiplier != 0.0 {
            add("rope.scaling.yarn_log_multiplier", self.log_multiplier.into());
        }
    }
}

/// `general.file_type` of a model whose matrices are of one type (`enum llama_ftype` in llama.h), for display only.
fn file_type(dtype: DType) -> u32 {
    use DType::*;
    match dtype {
        F32 => 0,
        F16 => 1,
        Q4_0 => 2,
        Q4_1 => 3,
        Q8_0 => 7,
        Q5_0 => 8,
        Q5_1 => 9,
        Q2K => 10,
        Q3K => 12,
        Q4K => 14,
        Q5K => 16,
        Q6K => 18,
        Iq4Nl => 25,
        Iq4Xs => 30,
        Bf16 => 32,
        Mxfp4 => 38,
        // 1024 stands for "guessed" in that enum; these types have no random weights.
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => 1024,
    }
}

fn require(what: &'static str, needed: &str, found: &str, holds: bool) -> Result<(), SynthError> {
    if holds { Ok(()) } else { Err(SynthError::Shape { what, needed: needed.to_owned(), found: found.to_owned() }) }
}

fn default_context() -> u32 {
    4096
}

fn default_base() -> f32 {
    10_000.0
}

fn default_eps() -> f32 {
    1e-5
}
