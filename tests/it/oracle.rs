//! Our error against the double-precision oracle, beside llama.cpp's error against it.

use std::path::Path;

use loadmaster::gguf::Gguf;

use super::f64_model::F64Model;
use super::reference::{logits, models, npy, open, options, tokens};

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
