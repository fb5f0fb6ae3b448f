//! A model and its caches → what cached rows depend on, as pairs of texts: a session is taken up by an engine with the
//! same pairs only. Threads, devices, pages, contexts and where weights lie are not among them: rows do not depend on those.
//!
//! Of the weights not all is read, which may be many GB, but names, types and shapes of all tensors and 12 KiB of each: its
//! beginning, its middle and its end; 16 KiB or less are read whole. Tensors count in the order of their names, so that it
//! makes no difference how a model is split into files.

use std::fmt;
use std::hash::Hasher;
use std::io::Read;

use twox_hash::XxHash64;

use super::SavedError;
use super::wire::{Reader, damaged};
use crate::gguf::{Gguf, TensorInfo};
use crate::graph::ops::{ExpertGroups, Gating, Scaling};
use crate::graph::{State, StateId};
use crate::index::IndexVec;
use crate::models::{Experts, Hparams, Latent, Model, Windows};

/// Tensors up to this size are read whole.
const WHOLE: usize = 16 << 10;

/// What is read of others, three times.
const PART: usize = 4 << 10;

/// What a session can differ in from the engine that it is loaded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactOf {
    /// The model.
    Model,
    /// The caches: their types and what a row of them is.
    Cache,
}

impl fmt::Display for FactOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FactOf::Model => "model",
            FactOf::Cache => "cache",
        })
    }
}

/// Something that rows depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    of: FactOf,
    name: String,
    value: String,
}

impl Fact {
    fn new(of: FactOf, name: impl fmt::Display, value: impl fmt::Display) -> Fact {
        Fact { of, name: name.to_string(), value: value.to_string() }
    }

    /// Appends it to what will be a file.
    pub fn write(&self, out: &mut Vec<u8>) {
        for text in [&self.name, &self.value] {
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
    }
}

/// Reads the facts of a file, which must be these.
pub(super) fn check(facts: &[Fact], reader: &mut Reader<'_, impl Read>) -> Result<(), SavedError> {
    let count = reader.count("facts")?;
    for (_, Fact { of, name, value }) in (0..count).zip(facts) {
        let found = (reader.text("name of a fact")?, reader.text("value of a fact")?);
        if (&found.0, &found.1) != (name, value) {
            let (needed, found) = (format!("{name} {value}"), format!("{} {}", found.0, found.1));
            return Err(SavedError::Other { file: reader.file(), of: *of, needed, found });
        }
    }
    match count as usize == facts.len() {
        true => Ok(()),
        false => Err(damaged(&reader.file(), "facts", facts.len().to_string(), count.to_string())),
    }
}

/// What rows depend on.
pub(super) fn facts(model: &Model, gguf: &Gguf, states: &IndexVec<StateId, State>) -> Vec<Fact> {
    let mut facts = vec![Fact::new(FactOf::Model, "architecture", model.architecture())];
    facts.extend(hparams(model.hparams()));
    let mut tensors: Vec<&TensorInfo> = gguf.tensors().iter().collect();
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    facts.push(Fact::new(FactOf::Model, "tensors", directory(&tensors)));
    facts.push(Fact::new(FactOf::Model, "weights", weights(gguf, &tensors)));
    facts.push(Fact::new(FactOf::Cache, "caches", states.len()));
    facts.extend(states.iter().map(|state| {
        let State { name, layer: _, half: _, dtype, heads, head_dim, cells: _, window } = state;
        let kept = window.map_or(String::new(), |window| format!(", the last {window}"));
        Fact::new(FactOf::Cache, name, format_args!("{dtype} {heads} x {head_dim}{kept}"))
    }));
    facts
}

fn hparams(hparams: &Hparams) -> Vec<Fact> {
    // The context that a model was trained on counts through its scaling alone.
    let Hparams {
        layers,
        width,
        vocab,
        context: _,
        heads,
        kv_heads,
        key_dim,
        value_dim,
        feed_forward,
        dense_layers,
        experts,
        latent,
        norm_eps,
        attention_scale,
        rotary,
        rope_base,
        scaling,
        embedding_scale,
        windows,
    } = hparams;
    let fact = |name: &str, value: &dyn fmt::Display| Fact::new(FactOf::Model, name, value);
    let mut facts = vec![
        fact("layers", layers),
        fact("width", width),
        fact("vocabulary", vocab),
        fact("heads", heads),
        fact("KV heads", kv_heads),
        fact("key length", key_dim),
        fact("value length", value_dim),
        fact("feed-forward length", feed_forward),
        fact("dense layers", dense_layers),
        fact("experts", &experts.as_ref().map_or("none".into(), words_of_experts)),
        fact("latent attention", &latent.as_ref().map_or("none".into(), words_of_latent)),
        fact("epsilon", norm_eps),
        fact("attention scale", attention_scale),
        fact("rotary length", rotary),
        fact("rope base", rope_base),
        fact("rope scaling", &words_of_scaling(scaling)),
    ];
    // Models without these have no word of them in their sessions.
    facts.extend((*embedding_scale != 1.0).then(|| fact("embedding scale", embedding_scale)));
    facts.extend(windows.as_ref().map(|windows| fact("windows", &words_of_windows(windows))));
    facts
}

fn words_of_experts(experts: &Experts) -> String {
    let Experts { count, used, feed_forward, scale, gating, normalize, groups, shared } = experts;
    let gating = match gating {
        Gating::Softmax => "softmax",
        Gating::Sigmoid => "sigmoid",
    };
    let groups = groups.map_or("none".into(), |ExpertGroups { count, used }| format!("{used} of {count}"));
    format!(
        "{used} of {count}, length {feed_forward}, scale {scale}, {gating}, normalized {normalize}, groups {groups}, \
         shared {shared}"
    )
}

fn words_of_latent(latent: &Latent) -> String {
    let Latent { q_rank, rank, rotary, plain, value_dim } = latent;
    let q_rank = q_rank.map_or("none".into(), |rank| rank.to_string());
    format!("q rank {q_rank}, rank {rank}, rotary {rotary}, plain {plain}, values {value_dim}")
}

fn words_of_windows(windows: &Windows) -> String {
    let Windows { length, layers, rope_base, scaling } = windows;
    let layers: String = layers.iter().map(|&window| if window { 'w' } else { 'f' }).collect();
    format!("length {length}, layers {layers}, base {rope_base}, {}", words_of_scaling(scaling))
}

fn words_of_scaling(scaling: &Scaling) -> String {
    let Scaling { freq_scale, ext_factor, attn_factor, beta_fast, beta_slow, trained_context } = scaling;
    format!(
        "frequencies {freq_scale}, extension {ext_factor}, attention {attn_factor}, beta {beta_slow} to {beta_fast}, \
         trained {trained_context}"
    )
}

/// Number and XXH64 of names, types and shapes.
fn directory(tensors: &[&TensorInfo]) -> String {
    let mut hash = XxHash64::with_seed(0);
    for tensor in tensors {
        let dims = tensor.shape.dims();
        hash.write(&(tensor.name.len() as u64).to_le_bytes());
        hash.write(tensor.name.as_bytes());
        hash.write(&tensor.dtype.ggml().to_le_bytes());
        hash.write(&(dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| hash.write(&dim.to_le_bytes()));
    }
    format!("{} with xxh64 {:016x}", tensors.len(), hash.finish())
}

/// XXH64 of what is read of all tensors.
fn weights(gguf: &Gguf, tensors: &[&TensorInfo]) -> String {
    let mut hash = XxHash64::with_seed(0);
    for tensor in tensors {
        let bytes = gguf.bytes(tensor);
        if bytes.len() <= WHOLE {
            hash.write(bytes);
            continue;
        }
        for at in [0, bytes.len() / 2, bytes.len() - PART] {
            hash.write(&bytes[at..at + PART]);
        }
    }
    format!("xxh64 {:016x}", hash.finish())
}
