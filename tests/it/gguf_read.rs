//! Reading model files that other programs wrote.

use std::path::{Path, PathBuf};

use loadmaster::gguf::{Gguf, Value};
use loadmaster::tensor::{DType, quant};

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

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(name)
}

/// `-4` in steps of `1/64`, as the script of the fixtures has them.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 - 256.0) / 64.0).collect()
}

/// The model of tests/scripts/quant_fixtures.py.
fn check_python_model(model: &Gguf) {
    let m = model.metadata();
    let scalars = [
        ("t.u8", Value::U8(200)),
        ("t.i8", Value::I8(-100)),
        ("t.u16", Value::U16(60000)),
        ("t.i16", Value::I16(-30000)),
        ("t.u32", Value::U32(4_000_000_000)),
        ("t.i32", Value::I32(-2_000_000_000)),
        ("t.f32", Value::F32(0.15625)),
        ("t.u64", Value::U64(1 << 63)),
        ("t.i64", Value::I64(-(1 << 62))),
        ("t.f64", Value::F64(1.1)),
        ("t.bool", Value::Bool(true)),
        ("t.str", Value::Str("snow: \u{2603}, newline: \n")),
    ];
    for (key, value) in scalars {
        assert_eq!(m.get(key), Some(value), "{key}");
    }
    let strings = m.strs("t.strs").unwrap().unwrap();
    assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "a", "\u{e9}\u{e8}", "\u{1f600}"]);
    assert_eq!(m.i32s("t.ints").unwrap().unwrap(), [1, -2, 3]);
    assert_eq!(m.f32s("t.floats").unwrap().unwrap(), [0.5, -1.5]);
    assert_eq!(m.bools("t.bools").unwrap().unwrap(), [true, false, true]);
    assert_eq!(m.u32s("t.u16s").unwrap().unwrap(), [1, 2, 65535]);
    let nested = m.get("t.nested").unwrap();
    assert_eq!(nested.to_string(), "array[2] [i32[2], i32[1]]");
    let inner: Vec<String> = nested.as_array().unwrap().iter().map(|v| v.to_string()).collect();
    assert_eq!(inner, ["i32[2] [1, 2]", "i32[1] [3]"]);

    let tensors = [
        ("floats", DType::F32, vec![4, 3, 2]),
        ("halves", DType::F16, vec![3, 2]),
        ("blocks.Q8_0", DType::Q8_0, vec![64, 8]),
        ("blocks.Q4_0", DType::Q4_0, vec![64, 8]),
        ("ints", DType::I32, vec![5]),
    ];
    let found: Vec<_> = model.tensors().iter().map(|t| (t.name.as_str(), t.dtype, t.shape.dims().to_vec())).collect();
    assert_eq!(found, tensors);
    let decoded = |name: &str| {
        let t = model.tensor(name).unwrap();
        let mut out = vec![0.0; t.shape.elements() as usize];
        quant::decode(t.dtype, model.bytes(t), &mut out).unwrap();
        out
    };
    assert_eq!(decoded("floats"), values(24));
    assert_eq!(decoded("halves"), values(6));
    for (name, error) in [("blocks.Q8_0", 4.0 / 127.0), ("blocks.Q4_0", 0.5)] {
        let close = decoded(name).iter().zip(values(512)).all(|(a, b)| (a - b).abs() <= error);
        assert!(close, "{name}");
    }
    assert_eq!(model.bytes(model.tensor("ints").unwrap())[..8], [0, 0, 0, 0, 1, 0, 0, 0]);
    assert!(model.tensor("absent").is_none());
}

#[test]
fn files_of_the_python_writer_are_read() {
    let model = Gguf::open(&fixture("python.gguf")).unwrap();
    assert_eq!(model.alignment(), 64);
    check_python_model(&model);
    walk(&std::fs::read(fixture("python.gguf")).unwrap()).unwrap();
}

#[test]
fn any_shard_of_the_python_writer_opens_the_model() {
    for no in 1..=3 {
        let model = Gguf::open(&fixture(&format!("python-0000{no}-of-00003.gguf"))).unwrap();
        assert_eq!(model.shards().len(), 3);
        check_python_model(&model);
    }
}

#[test]
fn embedded_bytes_are_read_at_any_address() {
    let bytes: &'static [u8] = std::fs::read(fixture("python.gguf")).unwrap().leak();
    let mut shifted = vec![0; 7];
    shifted.extend(bytes);
    let shifted: &'static [u8] = shifted.leak();
    for bytes in [bytes, &shifted[7..]] {
        let model = Gguf::from_static("embedded", bytes).unwrap();
        check_python_model(&model);
        let floats = model.bytes(model.tensor("floats").unwrap());
        assert_eq!(bytemuck::cast_slice::<u8, f32>(floats), values(24));
    }
}

#[test]
fn released_data_reads_the_same_again() {
    let model = Gguf::open(&fixture("python.gguf")).unwrap();
    let before: Vec<_> = model.tensors().iter().map(|t| model.bytes(t).to_vec()).collect();
    model.tensors().iter().for_each(|t| model.release(t));
    assert!(model.tensors().iter().zip(&before).all(|(t, before)| model.bytes(t) == before));
}

#[test]
fn a_model_may_be_read_from_many_threads() {
    fn check<T: Send + Sync>() {}
    check::<Gguf>();
}
