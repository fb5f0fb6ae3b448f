//! Logits against llama.cpp's, for every model in the folder of reference models beside the repository, if it is there.

use std::path::{Path, PathBuf};

use loadmaster::engine::{Engine, EngineOptions};
use loadmaster::gguf::Gguf;
use loadmaster::kv::KvLayout;
use loadmaster::plan::Offload;
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

/// Options for a small model on two workers.
pub fn options() -> EngineOptions {
    EngineOptions {
        context: Tokens(128),
        step: Tokens(64),
        outputs: Tokens(64),
        threads: 2,
        cache_keys: DType::F16,
        cache_values: DType::F16,
        keep_mapping: false,
        together: 1,
        layout: KvLayout::default(),
        sequences: 1,
        gpu_layers: None,
        fitted: false,
        offload: Offload::Auto,
        budget: Bytes(4 << 30),
    }
}

pub fn open(path: &Path, options: EngineOptions) -> Engine {
    Engine::open(Gguf::open(path).unwrap(), options, &|_, _| {}).unwrap()
}

/// All rows of logits, `batch` tokens at a time.
pub fn logits(engine: &mut Engine, ids: &[u32], batch: usize) -> Vec<f32> {
    let sequence = engine.start();
    let mut all = Vec::new();
    for piece in ids.chunks(batch) {
        engine.feed_all(sequence, piece, |_, rows| all.extend_from_slice(rows)).unwrap();
    }
    engine.end(sequence).unwrap();
    all
}

/// Mean squared difference over the mean square of `reference`.
pub fn nmse(found: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(found.len(), reference.len());
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(reference).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    difference / reference.iter().map(|&b| square(f64::from(b))).sum::<f64>()
}

/// The f32 elements of a little-endian `.npy` file.
pub fn npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(String::from_utf8_lossy(&bytes[10..header]).contains("'<f4'"));
    bytes[header..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The folder of reference models, or `None` with a word about it.
pub fn models() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models");
    if !folder.is_dir() {
        eprintln!("skipped: there is no folder of reference models beside the repository");
        return None;
    }
    Some(folder)
}

pub fn tokens(folder: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("tokens.txt")).unwrap();
    text.split(|c: char| !c.is_ascii_digit()).filter(|t| !t.is_empty()).map(|t| t.parse().unwrap()).collect()
}

#[test]
fn logits_match_the_reference() {
    let Some(folder) = models() else { return };
    let ids = tokens(&folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "gguf"));
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    let mut failed = Vec::new();
    for file in files {
        let reference = npy(&file.with_extension("npy"));
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let bound = if name.contains("f16") || name.contains("260K") { 1e-5 } else { 2e-3 };
        let mut engine = open(&file, options());
        for batch in [48, 1, 7] {
            let error = nmse(&logits(&mut engine, &ids, batch), &reference);
            eprintln!("{name:24} batch {batch:2}  nmse {error:.3e}");
            if error.is_nan() || error > bound {
                failed.push(format!("{name} batch {batch}: {error:.3e} > {bound:.0e}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
