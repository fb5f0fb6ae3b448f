//! Reading model files that other programs wrote.

use std::path::{Path, PathBuf};

use loadmaster::gguf::Gguf;
use loadmaster::tensor::quant;

use crate::gguf_walk::walk;

/// The real models that may lie next to the repository.
fn shared_models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: there is no {}", folder.display());
        return Vec::new();
    };
    let mut models: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    models.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    models.sort();
    models
}

#[test]
fn shared_models_are_read_whole() {
    for path in shared_models() {
        walk(&std::fs::read(&path).unwrap()).unwrap();
        let model = Gguf::open(&path).unwrap();
        let metadata = model.metadata();
        assert_eq!(model.version(), 3);
        assert!(metadata.str("general.architecture").unwrap().is_some());
        assert_eq!(metadata.strs("tokenizer.ggml.tokens").unwrap().unwrap().len(), 512);
        let (mut decoded, mut square, mut elements) = (Vec::new(), 0.0, 0);
        for t in model.tensors() {
            decoded.resize(t.shape.elements() as usize, 0.0);
            quant::decode(t.dtype, model.bytes(t), &mut decoded).unwrap();
            assert!(decoded.iter().all(|x| x.is_finite()), "{} {}", path.display(), t.name);
            square += decoded.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            elements += decoded.len();
        }
        let rms = (square / elements as f64).sqrt();
        eprintln!("{}: {model:?}, weights of rms {rms:.4}", path.display());
        assert!((0.01..1.0).contains(&rms), "{}: rms {rms}", path.display());
    }
}
