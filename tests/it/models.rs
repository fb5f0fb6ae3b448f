//! Model files whose metadata and tensors do not fit: each is refused with the key or tensor, what was needed and what
//! was found. Each starts from a small sound model and changes a little.

use std::io::Write;
use std::path::{Path, PathBuf};

use loadmaster::device::{BackendKind, Machine, MemoryId};
use loadmaster::engine::{Engine, EngineOptions};
use loadmaster::exec::homes;
use loadmaster::gguf::{Gguf, MetaValue, TensorSpec, Writer};
use loadmaster::graph::Batch;
use loadmaster::index::Id;
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{Policy, plan};
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::{DType, Shape};
use loadmaster::units::{Bytes, Tokens};
use proptest::prelude::*;

use crate::f64_model::F64Model;
use crate::reference::options;

/// A model file in the making: its keys and values, its tensors; what is in those, [`write_data`] says.
#[derive(Clone)]
pub struct Made {
    arch: String,
    keys: Vec<(String, MetaValue)>,
    tensors: Vec<(String, DType, Vec<u64>)>,
}

impl Made {
    /// Two layers, 4 query and 2 KV heads of 64, width 256, 512 tokens.
    pub fn of(name: &str) -> Made {
        Made::from_shape(&named(name).unwrap())
    }

    fn from_shape(shape: &ModelShape) -> Made {
        let bytes = Synth::new(shape, DType::F16, 1).unwrap().to_bytes().unwrap();
        let gguf = Gguf::from_bytes("sound", bytes).unwrap();
        let keys = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        let tensors = gguf.tensors().iter().map(|t| (t.name.clone(), t.dtype, t.shape.dims().to_vec())).collect();
        Made { arch: shape.arch.clone(), keys, tensors }
    }

    /// Sets a key: one with a dot in front is one of the architecture.
    pub fn set(mut self, key: &str, value: impl Into<MetaValue>) -> Made {
        let key = self.key(key);
        self.keys.retain(|(k, _)| *k != key);
        self.keys.push((key, value.into()));
        self
    }

    fn unset(mut self, key: &str) -> Made {
        let key = self.key(key);
        let before = self.keys.len();
        self.keys.retain(|(k, _)| *k != key);
        assert_eq!(self.keys.len() + 1, before, "{key}");
        self
    }

    fn key(&self, key: &str) -> String {
        if key.starts_with('.') { format!("{}{key}", self.arch) } else { key.to_owned() }
    }

    /// Adds a tensor or gives it another type and shape.
    pub fn tensor(mut self, name: &str, dtype: DType, dims: &[u64]) -> Made {
        let new = (name.to_owned(), dtype, dims.to_vec());
        match self.tensors.iter_mut().find(|t| t.0 == name) {
            Some(old) => *old = new,
            None => self.tensors.push(new),
        }
        self
    }

    /// Leaves out the tensors whose names start with this.
    fn without(mut self, name: &str) -> Made {
        let before = self.tensors.len();
        self.tensors.retain(|t| !t.0.starts_with(name));
        assert!(self.tensors.len() < before, "{name}");
        self
    }

    fn writer(&self) -> Writer {
        let mut writer = Writer::new();
        for (key, value) in &self.keys {
            writer.set(key, value.clone()).unwrap();
        }
        for (name, dtype, dims) in &self.tensors {
            writer.add_tensor(name, *dtype, Shape::new(dims).unwrap()).unwrap();
        }
        writer
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.writer().write_to(&mut bytes, &mut write_data).unwrap();
        bytes
    }

    /// The data goes into the model as two shards of these alignments.
    fn write_shards(&self, folder: &Path, alignments: [u32; 2]) -> PathBuf {
        let write = |name: &str, alignment| {
            let mut writer = self.writer();
            writer.set_alignment(alignment).unwrap();
            writer.write_split(&folder.join(name), 2, write_data).unwrap()
        };
        let (first, second) = (write("m", alignments[0]), write("n", alignments[1]));
        std::fs::rename(&second[1], &first[1]).unwrap();
        first[0].clone()
    }

    /// All that happens before weights are loaded.
    fn planned(&self) -> Result<(), String> {
        let gguf = Gguf::from_bytes("made", self.bytes()).map_err(|e| e.to_string())?;
        let model = Model::from_gguf(&gguf).map_err(|e| e.to_string())?;
        let cache = CacheSpec { cells: Tokens(64), keys: DType::F16, values: DType::F16, sliding: None };
        let batch = Batch { tokens: Tokens(4), outputs: Tokens(1) };
        let graph = model.graph(batch, cache).map_err(|e| e.to_string())?;
        let machine = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 30));
        let planned = plan(&graph, &homes(&graph, &gguf, MemoryId::from_index(0), false), &machine, &Policy::default());
        planned.map(|_| ()).map_err(|e| e.to_string())
    }
}

/// Random numbers of 1/32 to 1/16 and either sign in matrices of f16 and f32, of 1 to 2 in vectors; zeros elsewhere.
fn write_data(t: &TensorSpec, out: &mut dyn Write) -> std::io::Result<()> {
    let mut state = t.name.bytes().fold(1u32, |a, b| a.wrapping_mul(31).wrapping_add(b.into()));
    let mut random = || {
        // Numerical Recipes' linear congruences; the upper bits are the better ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let elements = t.shape.elements();
    match (t.dtype, t.shape.rows()) {
        (DType::F32, 1) => {
            (0..elements).try_for_each(|_| out.write_all(&(1.0 + random() as f32 / 65536.0).to_le_bytes()))
        }
        // The sign, an exponent of -5, the upper ten bits of the fraction.
        (DType::F32, _) => (0..elements).try_for_each(|_| {
            let bits = random();
            out.write_all(&((bits & 1) << 31 | 122 << 23 | bits >> 6 << 13).to_le_bytes())
        }),
        (DType::F16, _) => (0..elements).try_for_each(|_| {
            let bits = random() as u16;
            out.write_all(&((bits & 1) << 15 | 10 << 10 | bits >> 6).to_le_bytes())
        }),
        _ => out.write_all(&vec![0; t.bytes.index()]),
    }
}

#[track_caller]
fn refused(made: Made, needed: &str) {
    assert_eq!(made.planned().expect_err("this must be refused"), needed);
}

/// Refused with a message about a key of the architecture.
#[track_caller]
fn bad_key(made: Made, key: &str, found: &str, needed: &str) {
    let message = format!("made: metadata {}.{key} is {found}, needed {needed}", made.arch);
    refused(made, &message);
}

fn llama() -> Made {
    Made::of("llama-tiny")
}

#[test]
fn sound_models_are_planned() {
    for name in loadmaster::synth::names().filter(|name| name.ends_with("-tiny")) {
        assert_eq!(Made::of(name).planned(), Ok(()), "{name}");
    }
}

#[test]
fn embeddings_that_fit_no_vocabulary_are_refused() {
    let embedding = |found: &str, width: u32| {
        format!(
            "made: tensor token_embd.weight is {found}, needed [{width}, N]: rows as long as embedding_length, one a token"
        )
    };
    let name = "token_embd.weight";
    refused(llama().without(name), &embedding("missing", 256));
    for dims in [&[256][..], &[512, 256], &[256, 512, 2], &[1, 1]] {
        refused(llama().tensor(name, DType::F16, dims), &embedding(&format!("{dims:?}"), 256));
    }
    refused(llama().set(".embedding_length", 300u32), &embedding("[256, 512]", 300));
    bad_key(llama().set(".embedding_length", 0u32), "embedding_length", "0", "at least 1");
    refused(
        llama().tensor(name, DType::F16, &[256, 500]),
        "made: metadata tokenizer.ggml.tokens is an array of 512 tokens, needed at most 500, the rows of token_embd.weight",
    );
    // More rows than tokens are padding.
    assert_eq!(llama().tensor(name, DType::F16, &[256, 528]).planned(), Ok(()));
    refused(
        Made::of("mixtral-tiny").tensor(name, DType::F16, &[256, 528]),
        "made: tensor output.weight has shape [256, 512], needed [256, 528]",
    );
}

#[test]
fn vectors_of_other_types_than_f32_are_refused() {
    for dtype in [DType::F64, DType::I8, DType::I32, DType::Q8_0, DType::F16, DType::Bf16] {
        for (name, node, elements) in [
            ("blk.1.attn_norm.weight", "blk.1.attn_norm", 256),
            ("output_norm.weight", "output_norm", 256),
            ("blk.0.attn_q.bias", "blk.0.attn_q", 256),
            ("blk.0.ffn_down.bias", "blk.0.ffn_down", 256),
            ("output.bias", "output", 512),
            ("rope_freqs.weight", "blk.0.rope_q", 32),
        ] {
            refused(
                llama().tensor(name, dtype, &[elements]),
                &format!("{node} needs a cpu kernel for weight {name} of type {dtype}, there is none; needed f32"),
            );
        }
    }
    let name = "blk.0.ffn_up_exps.bias";
    refused(
        Made::of("mixtral-tiny").tensor(name, DType::F16, &[256, 4]),
        &format!("blk.0.ffn_up_exps needs a cpu kernel for weight {name} of type f16, there is none; needed f32"),
    );
    refused(
        llama().tensor("blk.0.attn_q.weight", DType::Iq1S, &[256, 256]),
        "blk.0.attn_q needs a cpu kernel for weight blk.0.attn_q.weight of type iq1_s, there is none; \
         needed a type that can be decoded, such as f16, q8_0 or q4_k",
    );
    refused(
        llama().tensor("blk.1.attn_norm.weight", DType::F32, &[255]),
        "made: tensor blk.1.attn_norm.weight has shape [255], needed [256]",
    );
}

#[test]
fn expert_counts_that_fit_no_experts_are_refused() {
    for name in ["mixtral-tiny", "qwen3moe-tiny"] {
        let made = || Made::of(name);
        let count = if name == "mixtral-tiny" { 4 } else { 8 };
        let arch = made().arch;
        let at_most = format!("at most expert_count, which is {count}");
        bad_key(made().set(".expert_used_count", 0u32), "expert_used_count", "0", "at least 1");
        bad_key(made().set(".expert_used_count", count + 1), "expert_used_count", &(count + 1).to_string(), &at_most);
        bad_key(made().set(".expert_used_count", u32::MAX), "expert_used_count", "4294967295", &at_most);
        refused(
            made().unset(".expert_used_count"),
            &format!("made: metadata {arch}.expert_used_count is needed and missing"),
        );
        refused(
            made().set(".expert_count", -1i32),
            &format!(
                "made: \"{arch}.expert_count\" needs an integer of 32 bits without sign, found -1, which does not fit"
            ),
        );
        for (count, used) in [(count + 1, 1), (u32::MAX, u32::MAX)] {
            refused(
                made().set(".expert_count", count).set(".expert_used_count", used),
                &format!(
                    "made: tensor blk.0.ffn_gate_inp.weight has shape [256, {}], needed [256, {count}]",
                    made().count()
                ),
            );
        }
        refused(
            made().set(".expert_feed_forward_length", u32::MAX),
            &format!(
                "made: tensor blk.0.ffn_gate_exps.weight has shape [256, 256, {count}], needed [256, 4294967295, {count}]"
            ),
        );
        let without = made().unset(".expert_feed_forward_length");
        assert_eq!(without.planned(), Ok(()), "the dense width serves");
        refused(
            without.unset(".feed_forward_length"),
            &format!("made: metadata {arch}.feed_forward_length is needed and missing"),
        );
        refused(
            made().tensor("blk.1.ffn_down_exps.weight", DType::F16, &[256, 256, 2]),
            &format!("made: tensor blk.1.ffn_down_exps.weight has shape [256, 256, 2], needed [256, 256, {count}]"),
        );
    }
    let qwen3moe = || Made::of("qwen3moe-tiny");
    bad_key(qwen3moe().set(".expert_count", 0u32), "expert_count", "0", "at least 1");
    refused(qwen3moe().unset(".expert_count"), "made: metadata qwen3moe.expert_count is needed and missing");
    for name in ["qwen2-tiny", "qwen3-tiny"] {
        let made = Made::of(name).set(".expert_count", 8u32).set(".expert_used_count", 2u32);
        bad_key(made, "expert_count", "8", "0: this architecture has no experts");
    }
}

impl Made {
    /// The experts of a model that has some.
    fn count(&self) -> u64 {
        self.tensors.iter().find(|t| t.0.ends_with("ffn_gate_inp.weight")).unwrap().2[1]
    }
}

#[test]
fn forms_that_are_not_read_are_named() {
    let other = |made: Made, name: &str, found: &str, why: &str| {
        let message = format!("made: tensor {name} is needed and missing; there is {found} instead, but {why}");
        refused(made, &message);
    };
    for name in ["llama-tiny", "qwen2-tiny", "qwen3-tiny"] {
        let fused = Made::of(name).without("blk.1.attn_q").without("blk.1.attn_k").without("blk.1.attn_v");
        let fused = fused.tensor("blk.1.attn_qkv.weight", DType::F16, &[256, 512]);
        let why = "q, k and v in one tensor are not read";
        other(fused, "blk.1.attn_q.weight", "blk.1.attn_qkv.weight", why);
    }
    let gate = "blk.0.ffn_gate.weight";
    other(llama().without(gate), gate, "blk.0.ffn_up.weight", "a hidden layer without a gate is not read");
    let mixtral = || Made::of("mixtral-tiny");
    let why = "metadata expert_count does not say that there are experts";
    other(mixtral().unset(".expert_count"), gate, "blk.0.ffn_gate_inp.weight", why);
    let dense = mixtral().without("blk.1.ffn_gate").tensor("blk.1.ffn_gate.weight", DType::F16, &[256, 256]);
    let why = "a dense layer among expert layers is not read";
    other(dense, "blk.1.ffn_gate_inp.weight", "blk.1.ffn_gate.weight", why);
    let gate = "blk.0.ffn_gate_exps.weight";
    let why = "experts without a gate are not read";
    other(mixtral().without(gate), gate, "blk.0.ffn_up_exps.weight", why);
    let apart = mixtral().without(gate).tensor("blk.0.ffn_gate.0.weight", DType::F16, &[256, 256]);
    let why = "one tensor an expert is not read; convert the model again";
    other(apart, gate, "blk.0.ffn_gate.0.weight", why);
    let fused = mixtral().without(gate).without("blk.0.ffn_up");
    let fused = fused.tensor("blk.0.ffn_gate_up_exps.weight", DType::F16, &[256, 512, 4]);
    let why = "gate and up products in one tensor are not read";
    other(fused, gate, "blk.0.ffn_gate_up_exps.weight", why);
    refused(
        llama().without("blk.0.attn_q.weight"),
        "made: tensor blk.0.attn_q.weight is needed and missing; its shape would be [256, 256]",
    );
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    let heads = "attention.head_count";
    let kv_heads = "attention.head_count_kv";
    let all = |found: &str| (found.to_owned(), "one number of 32 bits for each of 2 layers, all equal");
    bad_key(llama().set(".attention.head_count", 0u32), heads, "0", "at least 1");
    bad_key(llama().set(".attention.head_count_kv", 0u32), kv_heads, "0", "at least 1");
    let multiple = |kv: u32| format!("a multiple of attention.head_count_kv, which is {kv}");
    bad_key(llama().set(".attention.head_count", 3u32), heads, "3", &multiple(2));
    bad_key(llama().set(".attention.head_count_kv", 3u32), heads, "4", &multiple(3));
    bad_key(llama().set(".attention.head_count_kv", 8u32), heads, "4", &multiple(8));
    bad_key(llama().set(".attention.head_count", u32::MAX), heads, "4294967295", &multiple(2));
    refused(
        llama().set(".attention.head_count", 8u32),
        "made: tensor blk.0.attn_q.weight has shape [256, 256], needed [256, 512]",
    );
    refused(
        llama().unset(".attention.head_count_kv"),
        "made: tensor blk.0.attn_k.weight has shape [256, 128], needed [256, 256]",
    );
    refused(llama().unset(".attention.head_count"), "made: metadata llama.attention.head_count is needed and missing");
    for key in [heads, kv_heads, "feed_forward_length"] {
        for (array, shown) in [
            (MetaValue::from(vec![4u32]), "u32[1] [4]"),
            (vec![4u32, 4, 4].into(), "u32[3] [4, 4, 4]"),
            (vec![4u32, 2].into(), "u32[2] [4, 2]"),
            (vec![4i32, -4].into(), "i32[2] [4, -4]"),
            (vec![-1i64, -1].into(), "i64[2] [-1, -1]"),
            (vec![4.0f32, 4.0].into(), "f32[2] [4, 4]"),
            (Vec::<u32>::new().into(), "u32[0] []"),
            (vec![4u8; 1000].into(), "u8[1000] [4, 4, 4, 4, 4, 4, …]"),
        ] {
            let (found, needed) = all(shown);
            bad_key(llama().set(&format!(".{key}"), array), key, &found, needed);
        }
    }
    assert_eq!(llama().set(".attention.head_count_kv", vec![2i32, 2]).planned(), Ok(()));
}

#[test]
fn heads_of_odd_lengths_are_refused() {
    let (key, value) = ("attention.key_length", "attention.value_length");
    let free = || llama().unset(".attention.key_length").unset(".attention.value_length");
    assert_eq!(free().planned(), Ok(()));
    let divisor = |lacking: &str| format!("a divisor of embedding_length, which is 256, as there is no {lacking}");
    let six = || free().set(".attention.head_count", 6u32);
    bad_key(six(), "attention.head_count", "6", &divisor(key));
    bad_key(six().set(".attention.key_length", 64u32), "attention.head_count", "6", &divisor(value));
    for name in [key, value] {
        let set = |n: u32| llama().set(&format!(".{name}"), n);
        bad_key(set(0), name, "0", "at least 1");
        bad_key(set(u32::MAX), name, "4294967295", "short enough for 2^32 elements a row");
    }
    refused(
        llama().set(".attention.key_length", 128u32),
        "made: tensor blk.0.attn_q.weight has shape [256, 256], needed [256, 512]",
    );
    refused(
        llama().set(".attention.value_length", 63u32),
        "made: tensor blk.0.attn_v.weight has shape [256, 128], needed [256, 126]",
    );
    let even = |dim: u32| format!("an even number from 2 to the {dim} elements of a key");
    for n in [0u32, 1, 63, 65, 66, u32::MAX] {
        bad_key(llama().set(".rope.dimension_count", n), "rope.dimension_count", &n.to_string(), &even(64));
    }
    let odd = llama().unset(".rope.dimension_count").set(".attention.key_length", 63u32);
    bad_key(odd, "rope.dimension_count", "missing", &even(63));
    assert_eq!(llama().set(".rope.dimension_count", 32u32).planned(), Ok(()));
    refused(
        llama().tensor("rope_freqs.weight", DType::F32, &[31]),
        "made: tensor rope_freqs.weight has shape [31], needed [32]",
    );
}

#[test]
fn numbers_that_rotate_or_normalise_nothing_are_refused() {
    let positive = "a number above 0";
    let finite = "a finite number";
    let inverse = "a positive number with an inverse";
    for (key, value, needed) in [
        ("attention.layer_norm_rms_epsilon", 0.0f32, positive),
        ("attention.layer_norm_rms_epsilon", -1e-5, positive),
        ("attention.layer_norm_rms_epsilon", f32::NAN, finite),
        ("attention.layer_norm_rms_epsilon", f32::INFINITY, finite),
        ("rope.freq_base", 0.0, positive),
        ("rope.freq_base", -10_000.0, positive),
        ("rope.freq_base", f32::NAN, finite),
        ("rope.freq_base", f32::NEG_INFINITY, finite),
        ("attention.scale", f32::NAN, finite),
        ("rope.scaling.factor", -2.0, inverse),
        ("rope.scaling.factor", 1e-40, inverse),
        ("rope.scaling.factor", f32::NAN, finite),
        ("rope.scaling.attn_factor", f32::NAN, finite),
        ("rope.scaling.yarn_ext_factor", f32::INFINITY, finite),
        ("rope.scaling.yarn_beta_fast", 0.0, positive),
        ("rope.scaling.yarn_beta_slow", -1.0, positive),
    ] {
        bad_key(llama().set(&format!(".{key}"), value), key, &value.to_string(), needed);
    }
    let old = llama().set(".rope.scale_linear", -4.0f32);
    bad_key(old, "rope.scale_linear", "-4", inverse);
    let mixtral = Made::of("mixtral-tiny").set(".expert_weights_scale", f32::NAN);
    bad_key(mixtral, "expert_weights_scale", "NaN", finite);
    let kind = |kind: &str| llama().set(".rope.scaling.type", kind);
    bad_key(kind("longrope"), "rope.scaling.type", "\"longrope\"", "none, linear or yarn");
    bad_key(kind("\u{1b}[2J"), "rope.scaling.type", "\"\\u{1b}[2J\"", "none, linear or yarn");
    let long = format!("\"{}\"…", "a".repeat(60));
    bad_key(kind(&"a".repeat(1000)), "rope.scaling.type", &long, "none, linear or yarn");
    let original = "rope.scaling.original_context_length";
    bad_key(kind("yarn").set(".rope.scaling.original_context_length", 0u32), original, "0", "at least 1");
    refused(llama().set(".rope.freq_base", 10_000u32), "made: \"llama.rope.freq_base\" needs a float, found u32 10000");
    refused(
        llama().unset(".attention.layer_norm_rms_epsilon"),
        "made: metadata llama.attention.layer_norm_rms_epsilon is needed and missing",
    );
    for (kind, factor) in [("none", 0.0f32), ("linear", 0.0), ("linear", 4.0), ("yarn", 4.0), ("yarn", 3e38)] {
        let made = llama().set(".rope.scaling.type", kind).set(".rope.scaling.factor", factor);
        assert_eq!(made.planned(), Ok(()), "{kind} {factor}");
    }
}

#[test]
fn layers_that_are_not_there_are_refused() {
    let most = "at most 2: the file has tensors of 2 layers";
    bad_key(llama().set(".block_count", 0u32), "block_count", "0", "at least 1");
    bad_key(llama().set(".block_count", 3u32), "block_count", "3", most);
    bad_key(llama().set(".block_count", u32::MAX), "block_count", "4294967295", most);
    bad_key(llama().without("blk."), "block_count", "2", "at most 0: the file has tensors of 0 layers");
    refused(llama().unset(".block_count"), "made: metadata llama.block_count is needed and missing");
    refused(
        llama().set(".block_count", u64::MAX),
        "made: \"llama.block_count\" needs an integer of 32 bits without sign, found 18446744073709551615, which does not fit",
    );
    let gap = llama().set(".block_count", 4_000_000_000u32).tensor("blk.4000000000.x", DType::F32, &[1]);
    refused(gap, "made: tensor blk.2.attn_norm.weight is needed and missing; its shape would be [256]");
    // Numbers that are no layer say nothing.
    let odd = llama().tensor("blk.x.y", DType::F32, &[1]).tensor("blk.99999999999.y", DType::F32, &[1]);
    assert_eq!(odd.planned(), Ok(()));
}

#[test]
fn contexts_and_caches_that_cannot_be_are_refused() {
    bad_key(llama().set(".context_length", 0u32), "context_length", "0", "at least 1");
    assert_eq!(llama().set(".context_length", u32::MAX).planned(), Ok(()));
    let gguf = Gguf::from_bytes("made", llama().bytes()).unwrap();
    let model = Model::from_gguf(&gguf).unwrap();
    let batch = Batch { tokens: Tokens(1), outputs: Tokens(1) };
    let graph = |cells, keys| {
        let cache = CacheSpec { cells: Tokens(cells), keys, values: DType::F16, sliding: None };
        model.graph(batch, cache).map(|graph| graph.len()).map_err(|e| e.to_string())
    };
    assert_eq!(graph(u32::MAX - 15, DType::F16), graph(1, DType::F16));
    assert_eq!(
        graph(u32::MAX, DType::F16),
        Err("made: the cache cannot be used: 4294967295 tokens are more than whole pages of 32 bits count".into())
    );
    assert!(
        graph(0, DType::F16).unwrap_err().starts_with("state blk.0.cache_k: 2 heads of 64 f16 elements in 0 cells")
    );
    let narrow = "made: cache_k cannot be used: q4_k has blocks of 256, a head has 64 elements";
    assert_eq!(graph(16, DType::Q4K), Err(narrow.into()));
}

#[test]
fn architectures_that_are_unknown_are_refused() {
    let key = "general.architecture";
    refused(llama().unset(key), "made: metadata general.architecture is needed and missing");
    refused(llama().set(key, 7u32), "made: \"general.architecture\" needs text, found u32 7");
    refused(llama().set(key, vec!["llama"]), "made: \"general.architecture\" needs text, found str[1] [\"llama\"]");
    let known = "llama, qwen2, qwen3, qwen3moe, deepseek2, gemma3";
    let unknown = |found: &str| format!("made: general.architecture is {found:?}, needed one of {known}");
    refused(llama().set(key, "Llama"), &unknown("Llama"));
    refused(llama().set(key, ""), &unknown(""));
    refused(llama().set(key, "\u{1b}x".repeat(1000)), &unknown(&"\u{1b}x".repeat(32)));
    // Keys of another architecture are not its own.
    refused(llama().set(key, "qwen2"), "made: metadata qwen2.embedding_length is needed and missing");
}

const IDS: [u32; 5] = [1, 200, 3, 511, 77];

/// Feeds some tokens and returns the logits of the last.
fn fed(gguf: Gguf, keep_mapping: bool) -> Vec<f32> {
    let options = EngineOptions { keep_mapping, ..options() };
    let mut engine = Engine::open(gguf, options, &|_, _| {}).unwrap();
    let sequence = engine.start();
    engine.feed(sequence, &IDS).unwrap().to_vec()
}

/// Logits like those of the oracle.
#[track_caller]
fn check_logits(gguf: Gguf) {
    let expected = F64Model::new(&gguf).logits(&IDS);
    let expected = &expected[expected.len() - 512..];
    let most = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!(most > 0.1 && most.is_finite(), "{most}");
    for (i, (found, expected)) in fed(gguf, false).iter().zip(expected).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 0.01 * most, "{i}: {found}, needed {expected}, largest {most}");
    }
}

#[test]
fn a_shard_that_aligns_less_than_the_first_runs() {
    // The biases of experts are floats that are used where they lie, so they go to the end of the second shard.
    let mut made = Made::of("mixtral-tiny");
    for layer in 0..2 {
        for part in ["gate", "up", "down"] {
            made = made.tensor(&format!("blk.{layer}.ffn_{part}_exps.bias"), DType::F32, &[256, 4]);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for pad in 0..4 {
        // The length of the last name moves all data of the second shard.
        let made = made.clone().tensor(&"x".repeat(pad + 1), DType::F32, &[1]);
        let path = made.write_shards(folder.path(), [32, 1]);
        let (split, whole) = (Gguf::open(&path).unwrap(), Gguf::from_bytes("made", made.bytes()).unwrap());
        assert_eq!(split.alignment(), 1);
        assert_eq!(fed(split, pad % 2 == 0), fed(whole, true));
    }
}

#[test]
fn heads_of_odd_lengths_run() {
    for (key, value, rotary) in [(63u32, 17u32, 30u32), (64, 128, 64), (66, 1, 2), (5, 96, 4)] {
        let mut made = llama().set(".attention.key_length", key).set(".attention.value_length", value);
        made = made.set(".rope.dimension_count", rotary);
        let (key, value) = (u64::from(key), u64::from(value));
        for layer in 0..2 {
            let parts = [("q", 256, 4 * key), ("k", 256, 2 * key), ("v", 256, 2 * value), ("output", 4 * value, 256)];
            for (part, cols, rows) in parts {
                made = made.tensor(&format!("blk.{layer}.attn_{part}.weight"), DType::F16, &[cols, rows]);
            }
        }
        assert_eq!(made.planned(), Ok(()), "{key} {value} {rotary}");
        check_logits(Gguf::from_bytes("made", made.bytes()).unwrap());
    }
}

/// A change of one key or one tensor; most make the model unsound, some only odd.
fn changed(made: Made, (what, at, value): (u8, prop::sample::Index, u32)) -> Made {
    let keys = made.keys.iter().map(|(key, _)| key.clone()).filter(|key| key.starts_with(&made.arch));
    let keys: Vec<_> = keys.collect();
    let key = &keys[at.index(keys.len())];
    let (name, dtype, mut dims) = made.tensors[at.index(made.tensors.len())].clone();
    let axis = value as usize % dims.len();
    match what {
        0 => made.set(key, value),
        1 => made.set(key, f32::from_bits(value)),
        2 => made.set(key, vec![value; 2]),
        3 => made.unset(key),
        4 => made.without(&name),
        5 => {
            dims[axis] = u64::from(value % 300 + 1);
            if dtype.row_bytes(dims[0]).is_some() { made.tensor(&name, dtype, &dims) } else { made }
        }
        _ => {
            let dtype = [DType::F32, DType::F64, DType::Q8_0, DType::I8][value as usize % 4];
            if dtype.row_bytes(dims[0]).is_some() { made.tensor(&name, dtype, &dims) } else { made }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(100), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn changed_models_are_refused_or_run(
        name in prop::sample::select(vec!["llama-tiny", "mixtral-tiny", "qwen2-tiny", "qwen3moe-tiny", "deepseek2-tiny", "deepseek2-lite-tiny", "gemma3-tiny"]),
        changes in prop::collection::vec((0..7u8, any::<prop::sample::Index>(), value()), 1..3),
    ) {
        let made = changes.into_iter().fold(Made::of(name), changed);
        match made.planned() {
            Ok(()) => drop(fed(Gguf::from_bytes("made", made.bytes()).unwrap(), true)),
            Err(why) => prop_assert!(why.contains("made: ") || why.contains("needs a cpu kernel"), "{}", why),
        }
    }
}

/// Numbers at edges, and floats at theirs by their bits.
fn value() -> impl Strategy<Value = u32> {
    let floats = [0.0, -0.0, 1.0, -1.0, 1e-40, 1e-30, 3e38, f32::NAN, f32::INFINITY].map(f32::to_bits);
    let edges = vec![0, 1, 2, 3, 4, 5, 8, 63, 64, 65, 128, 255, 256, 512, 1 << 16, 1 << 31, u32::MAX - 15, u32::MAX];
    prop_oneof![prop::sample::select(edges), prop::sample::select(floats.to_vec()), any::<u32>()]
}
