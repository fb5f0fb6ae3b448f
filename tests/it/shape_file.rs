//! Models without weights: what is emitted gives the same graph again, what is malformed says where, and the shipped ones
//! have the bytes of the files they stand for.

use std::path::Path;

use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph};
use loadmaster::models::{CacheSpec, Model, ShapeFile};
use loadmaster::synth::{ModelShape, RopeScaling, Synth, named, names};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

fn graph(model: &Model, tokens: u32) -> Graph {
    let cache = CacheSpec { cells: Tokens(64), keys: DType::F16, values: DType::F16, sliding: None };
    model.graph(Batch { tokens: Tokens(tokens), outputs: Tokens(1) }, cache).unwrap()
}

fn made(shape: &ModelShape, dtype: DType) -> Gguf {
    let bytes = Synth::new(shape, dtype, 3).unwrap().to_bytes().unwrap();
    Gguf::from_bytes("made.gguf", bytes).unwrap()
}

#[test]
fn what_is_emitted_gives_the_same_graph() {
    let tiny: Vec<ModelShape> = names().filter(|n| n.ends_with("tiny")).filter_map(named).collect();
    assert!(tiny.len() >= 5);
    let scaled =
        ModelShape { rope_scaling: RopeScaling::Yarn(4.0), rope_factors: true, ..named("llama-tiny").unwrap() };
    for shape in tiny.iter().chain([&scaled]) {
        for dtype in [DType::Q4K, DType::F16] {
            let gguf = made(shape, dtype);
            let emitted = ShapeFile::from_gguf(&gguf).to_json();
            let read = ShapeFile::parse("emitted.json", &emitted).unwrap();
            assert_eq!(read.to_json(), emitted, "{}", shape.name);
            assert_eq!(read.bytes(), gguf.tensors().iter().map(|t| t.bytes).sum());
            assert!(!emitted.contains("tokenizer"));
            let (own, again) = (Model::from_gguf(&gguf).unwrap(), Model::from_shape(&read).unwrap());
            assert_eq!(own.hparams(), again.hparams());
            for tokens in [1, 512] {
                assert_eq!(graph(&own, tokens).to_json(), graph(&again, tokens).to_json(), "{} {dtype}", shape.name);
            }
            assert!(again.unused_tensors().unwrap().is_empty());
        }
    }
}

const SMALL: &str = r#"{"format": "loadmaster-shape", "version": 1,
 "metadata": {"general.architecture": "llama", "odd": [1, -2, 5000000000], "half": [0.5, 1.0], "n": -3},
 "tensors": [{"name": "token_embd.weight", "shape": [64, 300], "type": "q8_0"},
  {"name": "blk.*.x", "shape": [32], "types": {"f32": "0-2,5", "f16": "3-4"}}]}"#;

#[test]
fn layers_and_numbers_keep_their_kinds() {
    let shape = ShapeFile::parse("small.json", SMALL).unwrap();
    let names: Vec<&str> = shape.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["token_embd.weight", "blk.0.x", "blk.1.x", "blk.2.x", "blk.3.x", "blk.4.x", "blk.5.x"]);
    let types: Vec<&str> = shape.tensors().iter().map(|t| t.dtype.name()).collect();
    assert_eq!(types, ["q8_0", "f32", "f32", "f32", "f16", "f16", "f32"]);
    assert_eq!(shape.bytes(), Bytes(300 * 68 + 4 * 128 + 2 * 64));
    let json = shape.to_json();
    for line in [
        r#""odd": [1,-2,5000000000]"#,
        r#""half": [0.5,1.0]"#,
        r#""n": -3"#,
        r#"{"name": "blk.*.x", "shape": [32], "types": {"f16":"3-4","f32":"0-2,5"}}"#,
    ] {
        assert!(json.contains(line), "{line} in {json}");
    }
    assert_eq!(ShapeFile::parse("small.json", &json).unwrap(), shape);
}

#[test]
fn malformed_files_name_field_needed_and_found() {
    let cases = [
        ("\"loadmaster-shape\"", "\"gguf\"", "format is gguf, needed loadmaster-shape"),
        ("\"version\": 1", "\"version\": 2", "version is 2, needed 1"),
        ("\"version\": 1,", "\"version\": 1, \"extra\": 1,", "unknown field `extra`"),
        ("[64, 300]", "[64, 0]", "tensors[0] token_embd.weight: shape is [64, 0]"),
        ("[64, 300]", "[63, 300]", "needed rows of whole blocks of 32 elements of q8_0"),
        ("[64, 300]", "[4611686018427387904, 1]", "2^62 bytes"),
        ("\"type\": \"q8_0\"", "\"type\": \"q9\"", "unknown tensor type \"q9\""),
        ("\"type\": \"q8_0\"", "\"type\": \"q8_0\", \"types\": {}", "is both, needed either type or types"),
        (", \"type\": \"q8_0\"", "", "is neither, needed either type or types"),
        ("0-2,5", "0-2,2", "types.f32 is \"0-2,2\", needed ascending layers below 4096, such as 0-7,10"),
        ("0-2,5", "0-4096", "\"0-4096\""),
        ("0-2,5", "2-0", "\"2-0\""),
        ("0-2,5", "0-+2", "\"0-+2\""),
        ("0-2,5", "", "types.f32 is \"\""),
        ("0-2,5", "0-3", "types.f16 is 3, needed layers that are not there yet"),
        (
            "\"name\": \"token_embd.weight\"",
            "\"name\": \"blk.5.x\"",
            "is blk.5.x, needed a tensor that is not there yet",
        ),
        ("\"f16\": \"3-4\"", "\"q9\": \"3-4\"", "types is q9, needed names of tensor types"),
        ("blk.*.x", "x", "name is x, needed blk.*. and a name"),
        ("[0.5, 1.0]", "[0.5, true]", "metadata half is [0.5,true], needed a number, text"),
        ("-3", "null", "metadata n is null"),
        ("\"n\": -3", "\"odd\": 1", "metadata key \"odd\" is there twice"),
        ("\"n\": -3", "\"general.alignment\": 7", "\"general.alignment\" is set by the writer"),
    ];
    for (from, to, why) in cases {
        assert!(SMALL.contains(from), "{from}");
        let error = ShapeFile::parse("bad.json", &SMALL.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.starts_with("bad.json: ") && error.contains(why), "{error}\nneeded {why}");
    }
    let cut = ShapeFile::parse("bad.json", &SMALL[..80]).unwrap_err().to_string();
    assert!(cut.contains("EOF"), "{cut}");
    let many: Vec<String> =
        (0..17).map(|i| format!(r#"{{"name": "blk.*.{i}", "shape": [1], "types": {{"f32": "0-4095"}}}}"#)).collect();
    let many =
        format!(r#"{{"format": "loadmaster-shape", "version": 1, "metadata": {{}}, "tensors": [{}]}}"#, many.join(","));
    let error = ShapeFile::parse("bad.json", &many).unwrap_err().to_string();
    assert!(error.contains("at most 65536"), "{error}");
}

#[test]
fn a_shape_without_what_a_model_needs_is_refused_as_a_file_would_be() {
    let refused =
        |text: &str| Model::from_shape(&ShapeFile::parse("small.json", text).unwrap()).unwrap_err().to_string();
    assert_eq!(refused(SMALL), "small.json: metadata llama.embedding_length is needed and missing");
    let unknown = SMALL.replace("\"llama\"", "\"gpt9\"");
    assert!(refused(&unknown).contains("general.architecture is \"gpt9\""));
}

fn shipped(name: &str) -> ShapeFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs/models").join(name);
    ShapeFile::parse(name, &std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// File, GiB of its weights, how far off they may be, nodes of its graph.
const SHIPPED: [(&str, f64, f64, usize); 8] = [
    ("qwen2.5-32b-q4_k_m.json", 18.5, 0.05, 64 * 14 + 4),
    ("qwen2.5-32b-q5_k_m.json", 21.66, 0.05, 64 * 14 + 4),
    ("llama-3-70b-q4_k_m.json", 39.6, 0.05, 80 * 14 + 4),
    ("gemma-3-27b-it-q4_k_m.json", 15.4, 0.05, 62 * 20 + 4),
    ("qwen3-30b-a3b-q4_k_m.json", 17.28, 0.05, 48 * 19 + 4),
    ("qwen3-235b-a22b-q4_k_s.json", 124.5, 0.05, 94 * 19 + 4),
    ("deepseek-v3-iq1_s.json", 130.20, 0.01, 3 * 18 + 58 * 25 + 4),
    ("kimi-k2.5-ud-iq3_xxs.json", 395_589.5 / 1024.0, 0.001, 18 + 60 * 25 + 4),
];

#[test]
fn shipped_models_have_the_bytes_of_the_files_they_stand_for() {
    for (name, gib, margin, nodes) in SHIPPED {
        let shape = shipped(name);
        let found = shape.bytes().0 as f64 / f64::from(1 << 30);
        assert!((found - gib).abs() <= margin, "{name}: {found:.3} GiB, needed {gib} within {margin}");
        let model = Model::from_shape(&shape).unwrap();
        for tokens in [1, 512] {
            let graph = graph(&model, tokens);
            assert_eq!(graph.len(), nodes, "{name}");
            assert_eq!(graph.weights().iter().map(|w| w.bytes()).sum::<Bytes>(), shape.bytes(), "{name}");
        }
    }
}

/// Kimi-K2.5 UD-IQ3_XXS as a user's log shows it: MiB a layer outside of experts.
#[rustfmt::skip]
const KIMI_DENSE: [f64; 61] = [
    279.53, 102.97, 116.45, 99.58, 116.45, 104.39, 107.78, 100.03, 97.72, 97.72, 97.72, 93.36, 97.72, 93.36, 93.36,
    98.61, 97.72, 88.15, 93.4, 88.15, 93.4, 93.36, 88.15, 90.01, 88.15, 88.15, 93.36, 90.01, 88.15, 88.15, 88.15,
    88.15, 93.36, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15,
    88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 88.15, 93.36, 90.01, 97.64, 103.42,
];

/// The same of the experts.
#[rustfmt::skip]
const KIMI_EXPERTS: [f64; 61] = [
    0.0, 7476.0, 7476.0, 6930.0, 7476.0, 6930.0, 7476.0, 6930.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0,
    6174.0, 7476.0, 6174.0, 6174.0, 7476.0, 6174.0, 6972.0, 6174.0, 6174.0, 6426.0, 6174.0, 6174.0, 6174.0, 6426.0,
    6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0,
    6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6174.0, 6930.0, 6930.0,
    6930.0, 6930.0, 7476.0, 6930.0, 7476.0,
];

#[test]
fn kimi_has_the_bytes_of_the_log_in_every_layer() {
    let shape = shipped("kimi-k2.5-ud-iq3_xxs.json");
    let mib = |kept: &dyn Fn(&str) -> bool| {
        let tensors = shape.tensors().iter().filter(|t| kept(&t.name));
        tensors.map(|t| t.bytes()).sum::<Bytes>().0 as f64 / f64::from(1 << 20)
    };
    for layer in 0..61 {
        let start = format!("blk.{layer}.");
        let dense = mib(&|name| name.starts_with(&start) && !name.contains("_exps."));
        let experts = mib(&|name| name.starts_with(&start) && name.contains("_exps."));
        let (needed, of_experts) = (KIMI_DENSE[layer], KIMI_EXPERTS[layer]);
        assert!((dense - needed).abs() < 0.1, "layer {layer}: {dense:.2} MiB, needed {needed}");
        assert!((experts - of_experts).abs() < 0.1, "layer {layer}: experts of {experts:.2} MiB, needed {of_experts}");
    }
    assert_eq!(mib(&|name| name == "token_embd.weight"), 630.0);
    assert!((mib(&|name| name.starts_with("output")) - 918.75).abs() < 0.1);
    let cache = CacheSpec { cells: Tokens(32768), keys: DType::F16, values: DType::F16, sliding: None };
    let batch = Batch { tokens: Tokens(1), outputs: Tokens(1) };
    let graph = Model::from_shape(&shape).unwrap().graph(batch, cache).unwrap();
    assert_eq!(graph.states().len(), 61);
    assert!(graph.states().iter().all(|state| state.bytes() == Bytes::mib(36)));
}

#[test]
fn every_shipped_model_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs/models");
    let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = files.filter(|f| f.ends_with(".json")).collect();
    let mut tested: Vec<&str> = SHIPPED.iter().map(|(name, ..)| *name).collect();
    files.sort();
    tested.sort_unstable();
    assert_eq!(files, tested);
}

#[test]
fn the_fuzz_corpus_of_shapes_never_panics() {
    crate::json_smoke::smoke("model_file", 1500, |text| crate::json_walk::model_file(text).is_ok());
}
