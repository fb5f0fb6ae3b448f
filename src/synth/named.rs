//! The shapes that have a name: published models, and tiny ones for tests. A table, nothing else.

use super::{ExpertShape, LatentShape, ModelShape, RopeScaling, WindowShape};

/// A row of the table: name, architecture, layers, width, heads, KV heads, head, hidden, vocabulary, context, base,
/// tied, Llama 3's rope factors, experts (count, used).
struct Row(&'static str, &'static str, u32, u32, u32, u32, u32, u32, u32, u32, f32, bool, bool, Option<(u32, u32)>);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // name               arch        lay  width  q  kv  hd   hidden  vocab  context    base    tied   l3    experts
    Row("qwen2-0.5b",     "qwen2",    24,   896, 14,  2,  64,  4864, 151936,  32768,     1e6, true,  false, None),
    Row("qwen2.5-1.5b",   "qwen2",    28,  1536, 12,  2, 128,  8960, 151936,  32768,     1e6, true,  false, None),
    Row("qwen2.5-7b",     "qwen2",    28,  3584, 28,  4, 128, 18944, 152064,  32768,     1e6, false, false, None),
    Row("tinyllama-1.1b", "llama",    22,  2048, 32,  4,  64,  5632,  32000,   2048,     1e4, false, false, None),
    Row("llama-1b",       "llama",    16,  2048, 32,  8,  64,  8192, 128256, 131072,     5e5, true,  true,  None),
    Row("llama-3b",       "llama",    28,  3072, 24,  8, 128,  8192, 128256, 131072,     5e5, true,  true,  None),
    Row("llama-7b",       "llama",    32,  4096, 32, 32, 128, 11008,  32000,   4096,     1e4, false, false, None),
    Row("llama-8b",       "llama",    32,  4096, 32,  8, 128, 14336, 128256, 131072,     5e5, false, true,  None),
    Row("mistral-7b",     "llama",    32,  4096, 32,  8, 128, 14336,  32000,  32768,     1e4, false, false, None),
    Row("mixtral-8x7b",   "llama",    32,  4096, 32,  8, 128, 14336,  32000,  32768,     1e6, false, false, Some((8, 2))),
    Row("qwen3-0.6b",     "qwen3",    28,  1024, 16,  8, 128,  3072, 151936,  40960,     1e6, true,  false, None),
    Row("qwen3-1.7b",     "qwen3",    28,  2048, 16,  8, 128,  6144, 151936,  40960,     1e6, true,  false, None),
    Row("qwen3-4b",       "qwen3",    36,  2560, 32,  8, 128,  9728, 151936,  40960,     1e6, true,  false, None),
    Row("qwen3-8b",       "qwen3",    36,  4096, 32,  8, 128, 12288, 151936,  40960,     1e6, false, false, None),
    Row("qwen3moe-1.6b",  "qwen3moe", 24,  1024, 16,  4, 128,   512, 151936,  40960,     1e6, false, false, Some((32, 4))),
    Row("qwen3moe-30b",   "qwen3moe", 48,  2048, 32,  4, 128,   768, 151936,  40960,     1e6, false, false, Some((128, 8))),
    Row("gemma3-1b",      "gemma3",   26,  1152,  4,  1, 256,  6912, 262144,  32768,     1e6, true,  false, None),
    Row("gemma3-4b",      "gemma3",   34,  2560,  8,  4, 256, 10240, 262144, 131072,     1e6, true,  false, None),
    Row("gemma3-12b",     "gemma3",   48,  3840, 16,  8, 256, 15360, 262144, 131072,     1e6, true,  false, None),
    Row("gemma3-27b",     "gemma3",   62,  5376, 32, 16, 128, 21504, 262144, 131072,     1e6, true,  false, None),
    Row("llama-tiny",     "llama",     2,   256,  4,  2,  64,   512,    512,    512,     1e4, true,  false, None),
    Row("mixtral-tiny",   "llama",     2,   256,  4,  2,  64,   256,    512,    512,     1e4, false, false, Some((4, 2))),
    Row("qwen2-tiny",     "qwen2",     2,   256,  4,  2,  64,   512,    512,    512,     1e6, true,  false, None),
    Row("qwen3-tiny",     "qwen3",     2,   256,  4,  2, 128,   512,    512,    512,     1e6, true,  false, None),
    Row("qwen3moe-tiny",  "qwen3moe",  2,   256,  4,  2, 128,   256,    512,    512,     1e6, false, false, Some((8, 2))),
    Row("deepseek2-tiny", "deepseek2", 3,   256, 40,  1,  48,   256,    512,    512,     1e4, false, false, Some((16, 4))),
    Row("deepseek2-lite-tiny", "deepseek2", 2, 256, 4, 1, 96,   256,    512,    512,     1e4, false, false, Some((8, 3))),
    Row("gemma3-tiny",    "gemma3",    7,   256,  4,  2,  64,   512,    512,    512,     1e6, true,  false, None),
];

/// What the deepseek2 rows have beside.
const LATENT: &[(&str, LatentShape)] = &[
    (
        "deepseek2-tiny",
        LatentShape {
            q_rank: 128,
            rank: 64,
            rotary: 16,
            value_dim: 32,
            dense_layers: 1,
            shared: 1,
            sigmoid: true,
            normalize: true,
            scale: 2.5,
            groups: (4, 2),
            log_multiplier: 0.1,
        },
    ),
    (
        "deepseek2-lite-tiny",
        LatentShape {
            q_rank: 0,
            rank: 64,
            rotary: 32,
            value_dim: 64,
            dense_layers: 1,
            shared: 2,
            sigmoid: false,
            normalize: false,
            scale: 0.0,
            groups: (0, 0),
            log_multiplier: 0.0707,
        },
    ),
];

/// Positions that a token attends to in most layers of the gemma3 rows, and what the others divide positions by.
const WINDOWS: &[(&str, u32, f32)] = &[
    ("gemma3-1b", 512, 1.0),
    ("gemma3-4b", 1024, 8.0),
    ("gemma3-12b", 1024, 8.0),
    ("gemma3-27b", 1024, 8.0),
    ("gemma3-tiny", 32, 8.0),
];

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.0)
}

/// The shape of a name.
pub fn named(name: &str) -> Option<ModelShape> {
    let row = ROWS.iter().find(|row| row.0 == name)?;
    let &Row(
        name,
        arch,
        layers,
        width,
        heads,
        kv_heads,
        head_dim,
        hidden,
        vocab,
        context,
        rope_base,
        tied,
        l3,
        experts,
    ) = row;
    let windows = WINDOWS.iter().find(|(windowed, ..)| *windowed == name);
    let experts = experts.map(|(count, used)| ExpertShape { count, used, feed_forward: hidden });
    Some(ModelShape {
        name: name.to_owned(),
        arch: arch.to_owned(),
        layers,
        width,
        heads,
        kv_heads,
        head_dim,
        feed_forward: hidden,
        vocab,
        context,
        rope_base,
        norm_eps: if arch == "llama" { 1e-5 } else { 1e-6 },
        tied,
        attention_biases: false,
        output_bias: false,
        rope_factors: l3,
        rope_scaling: match windows {
            Some((_, _, factor)) if *factor > 1.0 => RopeScaling::Linear(*factor),
            None if arch == "deepseek2" => RopeScaling::Yarn(4.0),
            Some(_) | None => RopeScaling::None,
        },
        experts,
        windows: windows.map(|&(_, length, _)| WindowShape { length, period: 0, rope_base: 0.0 }),
        latent: LATENT.iter().find(|(latent, _)| *latent == name).map(|(_, latent)| *latent),
    })
}
