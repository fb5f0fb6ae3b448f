//! gemma3: which layers have windows, that these are seen in the logits, what is refused, and how graph files say it.

use std::path::Path;

use loadmaster::engine::{Engine, EngineOptions};
use loadmaster::gguf::Gguf;
use loadmaster::graph::ops::{Activation, Elementwise, Mask, Rows};
use loadmaster::graph::{Batch, Graph, Op};
use loadmaster::models::{CacheSpec, Hparams, Model, ModelError, ShapeFile, Sliding};
use loadmaster::plan::{Policy, node_work};
use loadmaster::synth::{ModelShape, Synth, WindowShape, named};
use loadmaster::tensor::DType;
use loadmaster::units::Tokens;
use serde_json::{Value, json};

use super::f64_model::F64Model;
use super::reference::{logits, nmse, npy, options};

const CACHE: CacheSpec = CacheSpec { cells: Tokens(64), keys: DType::F16, values: DType::F16, sliding: None };
const BATCH: Batch = Batch { tokens: Tokens(4), outputs: Tokens(1) };

fn tiny() -> ModelShape {
    named("gemma3-tiny").unwrap()
}

fn made(shape: &ModelShape, dtype: DType, seed: u64) -> Gguf {
    Gguf::from_bytes("tiny.gguf", Synth::new(shape, dtype, seed).unwrap().to_bytes().unwrap()).unwrap()
}

/// The shape file of the tiny model, as text to be changed.
fn text() -> String {
    ShapeFile::from_gguf(&made(&tiny(), DType::Q8_0, 1)).to_json()
}

fn model(text: &str) -> Result<Model, ModelError> {
    Model::from_shape(&ShapeFile::parse("tiny.json", text).unwrap())
}

/// The text with further metadata.
fn with(metadata: &str) -> String {
    text().replacen("\"gemma3.block_count\"", &format!("{metadata}, \"gemma3.block_count\""), 1)
}

fn graph(model: &Model) -> Graph {
    model.graph(BATCH, CACHE).unwrap()
}

/// `w` for a layer with a window, `f` for a full one; each rotates q and k as it should.
fn kinds(graph: &Graph, window: u32, bases: (f32, f32)) -> String {
    let mut kinds = String::new();
    let mut rotations = Vec::new();
    for (_, node) in graph.nodes() {
        if let Op::Rope(rope) = &node.op {
            rotations.push((rope.base, rope.scaling.freq_scale));
        }
        let Op::Attention(attention) = &node.op else { continue };
        let (kind, rotation) = match attention.mask {
            Mask::Causal => ('f', (bases.0, 0.125)),
            Mask::Window(n) => ('w', (bases.1, if n == window { 1.0 } else { 0.0 })),
        };
        assert_eq!(std::mem::take(&mut rotations), [rotation; 2], "{}", node.name);
        kinds.push(kind);
    }
    kinds
}

#[test]
fn every_sixth_layer_is_full_or_what_the_file_says() {
    let own = |metadata: &str| model(&with(metadata)).unwrap();
    let usual = model(&text()).unwrap();
    assert_eq!(kinds(&graph(&usual), 32, (1e6, 1e4)), "wwwwwfw");
    let pattern = "\"gemma3.attention.sliding_window_pattern\"";
    let third = own(&format!("{pattern}: 3, \"gemma3.rope.freq_base_swa\": 500.0"));
    assert_eq!(kinds(&graph(&third), 32, (1e6, 500.0)), "wwfwwfw");
    assert_eq!(kinds(&graph(&own(&format!("{pattern}: 0"))), 32, (1e6, 1e4)), "wwwwwww");
    assert_eq!(kinds(&graph(&own(&format!("{pattern}: 1"))), 32, (1e6, 1e4)), "fffffff");
    let listed = own(&format!("{pattern}: [true, false, false, true, true, false, true]"));
    assert_eq!(kinds(&graph(&listed), 32, (1e6, 1e4)), "wffwwfw");
    let none = model(&text().replacen("sliding_window\": 32", "sliding_window\": 0", 1)).unwrap();
    assert_eq!((kinds(&graph(&none), 32, (1e6, 1e4)).as_str(), none.hparams().windows.is_none()), ("fffffff", true));
}

#[test]
fn published_sizes_have_their_factors() {
    let read = |name: &str| -> Hparams {
        let shape = ModelShape { vocab: 300, ..named(name).unwrap() };
        let gguf = ShapeFile::from_gguf(&made(&ModelShape { width: 64, feed_forward: 64, ..shape }, DType::Q8_0, 1));
        Model::from_shape(&gguf).unwrap().hparams().clone()
    };
    for (name, score) in [("gemma3-1b", 256f32), ("gemma3-4b", 256.0), ("gemma3-12b", 256.0)] {
        let found = read(name);
        assert_eq!((found.attention_scale, found.embedding_scale), (1.0 / score.sqrt(), 8.0), "{name}");
    }
    // The width is 64 here; the published one of 5376 has 168 a head.
    assert_eq!(read("gemma3-27b").attention_scale, 1.0 / 2f32.sqrt());
}

#[test]
fn files_that_do_not_hold_together_are_refused_by_key() {
    let cases = [
        (with("\"gemma3.final_logit_softcapping\": 30.0"), "final_logit_softcapping is 30, needed 0: capped logits"),
        (with("\"gemma3.attn_logit_softcapping\": 50.0"), "attn_logit_softcapping is 50, needed 0: capped logits"),
        (with("\"gemma3.attention.key_length_swa\": 32"), "key_length_swa is 32, needed that of all layers"),
        (with("\"gemma3.attention.value_length_swa\": 32"), "value_length_swa is 32, needed that of all layers"),
        (with("\"gemma3.rope.dimension_count_swa\": 32"), "dimension_count_swa is 32, needed that of all layers"),
        (with("\"gemma3.rope.freq_base_swa\": 0.0"), "freq_base_swa is 0, needed a number above 0"),
        (with("\"gemma3.expert_count\": 2"), "expert_count is 2, needed 0"),
        (with("\"gemma3.attention.sliding_window_pattern\": [true, false]"), "needed one flag for each of 7 layers"),
        (
            with("\"gemma3.attention.sliding_window_pattern\": [0, 1, 0, 1, 0, 1, 2]"),
            "needed one flag for each of 7 layers",
        ),
        (with("\"gemma3.attention.sliding_window_pattern\": \"x\""), "gemma3.attention.sliding_window_pattern"),
    ];
    for (text, why) in cases {
        let error = model(&text).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("tiny.json: ") && error.contains(why), "{error}\nneeded {why}");
    }
}

#[test]
fn norms_behind_blocks_are_needed() {
    for name in ["post_attention_norm", "post_ffw_norm"] {
        let error = model(&text().replace(name, "other_norm")).unwrap().graph(BATCH, CACHE).unwrap_err().to_string();
        let why = format!("tensor blk.0.{name}.weight is needed and missing; its shape would be [256]");
        assert!(error.contains(&why), "{error}");
    }
}

/// Rows within the first window are the same bits whatever comes behind it; past it the window is what makes them
/// llama.cpp's.
#[test]
fn windows_make_the_logits_of_llama_cpp() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/logits");
    let described: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    let case = described["cases"].as_array().unwrap().iter().find(|case| case["name"] == "gemma3-f16").unwrap();
    let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
    let shape: ModelShape = serde_json::from_value(case["shape"].clone()).unwrap();
    let window = shape.windows.unwrap();
    let with = |windows| {
        let gguf = made(&ModelShape { windows: Some(windows), ..shape.clone() }, DType::F16, 26);
        logits(&mut Engine::open(gguf, options(), &|_, _| {}).unwrap(), &tokens, tokens.len())
    };
    let (own, theirs) = (with(window), npy(&folder.join("gemma3-f16.npy")));
    let inside = window.length as usize * shape.vocab as usize;
    assert!(tokens.len() > 3 * window.length as usize);
    assert!(nmse(&own, &theirs) <= 1e-5);
    let causal = with(WindowShape { length: 512, ..window });
    assert!(own[..inside].iter().zip(&causal[..inside]).all(|(a, b)| a.to_bits() == b.to_bits()));
    for (what, other) in [
        ("no window", causal),
        ("one more", with(WindowShape { length: window.length + 1, ..window })),
        ("one less", with(WindowShape { length: window.length - 1, ..window })),
        ("a full layer more", with(WindowShape { period: 5, ..window })),
    ] {
        let error = nmse(&other[inside..], &theirs[inside..]);
        assert!(error > 1e-3, "{what}: {error:e}");
    }
    let turned = with(WindowShape { rope_base: shape.rope_base, ..window });
    assert!(nmse(&turned, &theirs) > 1e-3);
}

/// More windows than one, and more tiles of attention than one, against double precision.
#[test]
fn long_texts_give_the_logits_of_double_precision() {
    let gguf = || made(&tiny(), DType::F32, 9);
    let ids: Vec<u32> = (0..300).map(|i| (i * i * 7 + 3 * i + 1) % 512).collect();
    let sizes = EngineOptions { context: Tokens(320), cache_keys: DType::F32, cache_values: DType::F32, ..options() };
    let found = logits(&mut Engine::open(gguf(), sizes, &|_, _| {}).unwrap(), &ids, 64);
    let oracle: Vec<f32> = F64Model::new(&gguf()).logits(&ids).iter().map(|&x| x as f32).collect();
    let error = nmse(&found, &oracle);
    assert!(error <= 1e-10, "{error:e}");
}

/// Where each window keeps no more than it needs, rows have the bits that they have over caches that keep all.
#[test]
fn caches_of_windows_give_the_bits_of_whole_ones() {
    let cells = Tokens(640);
    let sizes = |sequences| EngineOptions { context: cells, sequences, ..options() };
    let kept = |sequences| {
        let sliding = Some(Sliding { sequences, step: sizes(sequences).step });
        let cache = CacheSpec { cells, sliding, ..CACHE };
        let graph = model(&text()).unwrap().graph(BATCH, cache).unwrap();
        graph.states().iter().map(|state| (state.window, state.cells)).collect::<Vec<_>>()
    };
    assert_eq!(kept(64), [(None, cells); 14]);
    let one = kept(1);
    let (window, full) = (one[0], (None, cells));
    assert!(window.0 == Some(Tokens(32)) && window.1 < Tokens(160), "{window:?}");
    assert_eq!(one, [[window; 10].as_slice(), &[full; 2], &[window; 2]].concat());
    let open = |sequences| Engine::open(made(&tiny(), DType::Q8_0, 1), sizes(sequences), &|_, _| {}).unwrap();
    let ids: Vec<u32> = (0..600).map(|i| (i * 7 + i / 9) % 512).collect();
    let whole = logits(&mut open(64), &ids, 64);
    let mut sliding = open(1);
    for batch in [64, 17, 1] {
        let found = logits(&mut sliding, &ids, batch);
        assert!(found.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits()), "{batch} at a time");
    }
}

#[test]
fn graph_files_keep_what_these_layers_have() {
    let text = graph(&model(&text()).unwrap()).to_json();
    let read = Graph::from_json(&text).unwrap();
    assert_eq!(read.to_json(), text);
    let (mut scales, mut gates) = (Vec::new(), Vec::new());
    for (_, node) in read.nodes() {
        if let Op::Rows(Rows::Embed(embed)) = &node.op {
            scales.push(embed.scale);
        }
        if let Op::Elementwise(Elementwise::Gated { activation, .. }) = &node.op {
            gates.push(*activation);
        }
    }
    assert_eq!((scales, gates), (vec![16.0], vec![Activation::Gelu; 7]));
    let plain = ModelShape { windows: None, arch: "qwen3".into(), ..tiny() };
    let plain = graph(&Model::from_gguf(&made(&plain, DType::Q8_0, 1)).unwrap()).to_json();
    let mut file: Value = serde_json::from_str(&plain).unwrap();
    assert_eq!(file["nodes"][0]["op"]["rows"]["embed"], json!({"weight": 0, "ids": 0}));
    file["nodes"][0]["op"]["rows"]["embed"]["scale"] = json!(1e300);
    let error = Graph::from_json(&file.to_string()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("token_embd: scale inf is out of range"), "{error}");
}

/// Attention over a window does not cost more in a longer context; over the whole context it does.
#[test]
fn a_window_bounds_what_attention_costs() {
    let cache = CacheSpec { cells: Tokens(4096), ..CACHE };
    let graph = model(&text()).unwrap().graph(BATCH, cache).unwrap();
    let work = |context: u32| {
        let policy = Policy { context: Tokens(context), ..Policy::default() };
        let attention = graph.nodes().filter(|(_, node)| matches!(node.op, Op::Attention(_)));
        attention.map(|(id, _)| node_work(&graph, &policy, id)).map(|w| (w.f16, w.read)).collect::<Vec<_>>()
    };
    let (short, long) = (work(16), work(4096));
    // q and the mixed values have 256 elements each; a cell of both caches 2 x 2 x 64 of f16.
    let of = |attended: f64, touched: f64| (2.0 * 512.0 * attended * 4.0, touched * 512.0);
    assert_eq!(short, [of(16.0, 16.0); 7]);
    let (window, full) = (of(32.0, 35.0), of(4096.0, 4096.0));
    assert_eq!(long, [window, window, window, window, window, full, window]);
}
