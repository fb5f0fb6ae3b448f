//! Our error against the double-precision oracle, beside llama.cpp's error against it.

use std::path::Path;

use loadmaster::engine::Engine;
use loadmaster::gguf::Gguf;
use loadmaster::synth::{ModelShape, Synth};
use loadmaster::tensor::DType;
use serde::Deserialize;

use super::f64_model::F64Model;
use super::reference::{logits, models, nmse, npy, open, options, tokens};

/// Errors below this are rounding of single precision; neither side is judged by their ratio.
const FLOOR: f64 = 1e-7;

/// How much larger our error may be than llama.cpp's.
const MOST: f64 = 1.2;

/// Mean squared difference over the mean square of the oracle's logits.
fn error(found: &[f32], oracle: &[f64]) -> f64 {
    assert_eq!(found.len(), oracle.len());
    let difference: f64 = found.iter().zip(oracle).map(|(&a, b)| (f64::from(a) - b) * (f64::from(a) - b)).sum();
    difference / oracle.iter().map(|b| b * b).sum::<f64>()
}

/// Errors of ours and theirs, a line about them, and whether ours is in bounds.
fn judge(name: &str, ours: &[f32], theirs: &[f32], oracle: &[f64]) -> bool {
    let (our_error, their_error) = (error(ours, oracle), error(theirs, oracle));
    eprintln!("{name:24} ours {our_error:.3e}  llama.cpp {their_error:.3e}  ratio {:.2}", our_error / their_error);
    our_error <= MOST * their_error.max(FLOOR)
}

fn oracle(path: &Path, ids: &[u32]) -> Vec<f64> {
    F64Model::new(&Gguf::open(path).unwrap()).logits(ids)
}

#[test]
fn errors_are_at_most_those_of_llama_cpp() {
    let Some(folder) = models() else { return };
    let ids = tokens(&folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "gguf"));
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    let mut failed = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let ours = logits(&mut open(&file, options()), &ids, ids.len());
        if !judge(&name, &ours, &npy(&file.with_extension("npy")), &oracle(&file, &ids)) {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "more than {MOST} times llama.cpp's error: {failed:?}");
}

/// `fixtures/logits/cases.json`.
#[derive(Deserialize)]
struct Described {
    tokens: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(rename = "type")]
    dtype: DType,
    seed: u64,
    shape: ModelShape,
    /// Instead of those for all.
    tokens: Option<Vec<u32>>,
}

/// Needs nothing beside the repository: the models are made here, llama.cpp's logits are committed.
#[test]
fn seeded_models_give_the_logits_of_llama_cpp() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/logits");
    let described = std::fs::read_to_string(folder.join("cases.json")).unwrap();
    let Described { tokens, cases } = serde_json::from_str(&described).unwrap();
    assert!(cases.len() >= 8);
    let mut failed = Vec::new();
    for Case { name, dtype, seed, shape, tokens: own } in cases {
        let tokens = own.unwrap_or_else(|| tokens.clone());
        let bytes = Synth::new(&shape, dtype, seed).unwrap().to_bytes().unwrap();
        let gguf = || Gguf::from_bytes(&name, bytes.clone()).unwrap();
        let oracle = F64Model::new(&gguf()).logits(&tokens);
        let theirs = npy(&folder.join(format!("{name}.npy")));
        let mut engine = Engine::open(gguf(), options(), &|_, _| {}).unwrap();
        let ours = logits(&mut engine, &tokens, tokens.len());
        let bound = if dtype == DType::F16 { 1e-5 } else { 2e-3 };
        let near = nmse(&ours, &theirs);
        eprintln!("{name:24} nmse {near:.3e}");
        if near.is_nan() || near > bound || !judge(&name, &ours, &theirs, &oracle) {
            failed.push(format!("{name}: {near:.3e} from llama.cpp"));
        }
        let one_by_one = logits(&mut engine, &tokens, 1);
        assert!(ours.iter().zip(&one_by_one).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: token by token");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
