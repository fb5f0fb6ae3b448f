//! The writer against the reader: everything comes back, whole, aligned and split.

use std::io::Write;
use std::path::Path;

use loadmaster::gguf::{Gguf, GgufError, MetaValue, ValueType, WriteError, Writer};
use loadmaster::tensor::{DType, Shape};

use crate::gguf_walk::walk;

fn shape(dims: &[u64]) -> Shape {
    Shape::new(dims).unwrap()
}

/// A small model with every metadata type and one tensor of every element type.
pub fn small_model() -> Writer {
    let mut w = Writer::new();
    w.set("general.architecture", "test").unwrap();
    w.set("u8", 1u8).unwrap().set("i8", -1i8).unwrap().set("u16", 2u16).unwrap().set("i16", -2i16).unwrap();
    w.set("u32", 3u32).unwrap().set("i32", -3i32).unwrap().set("u64", 4u64).unwrap().set("i64", -4i64).unwrap();
    w.set("f32", 0.5f32).unwrap().set("f64", -0.5f64).unwrap().set("bool", true).unwrap();
    w.set("strs", vec!["a", "", "\u{1f600}"]).unwrap().set("f32s", vec![1.0f32, 2.0]).unwrap();
    w.set("empty", Vec::<String>::new()).unwrap();
    let inner = |v: Vec<u32>| MetaValue::from(v);
    w.set("nested", MetaValue::Array(ValueType::Array, vec![inner(vec![1, 2]), inner(vec![])])).unwrap();
    for (i, &dtype) in DType::ALL.iter().enumerate() {
        let row = u64::from(dtype.block().elements);
        w.add_tensor(&format!("t.{dtype}"), dtype, shape(&[row, 1 + i as u64 % 3])).unwrap();
    }
    w
}

/// Bytes that tell tensors and positions apart.
fn pattern(name: &str, len: u64) -> Vec<u8> {
    let seed = name.bytes().fold(7u8, |a, b| a.wrapping_mul(31).wrapping_add(b));
    (0..len).map(|i| seed.wrapping_add(i as u8)).collect()
}

/// The model as bytes.
pub fn to_bytes(w: &Writer) -> Vec<u8> {
    let mut out = Vec::new();
    w.write_to(&mut out, &mut |t, out| out.write_all(&pattern(&t.name, t.bytes.0))).unwrap();
    out
}

fn check_same(w: &Writer, model: &Gguf) {
    assert_eq!(model.tensors().len(), w.tensors().len());
    for (spec, t) in w.tensors().iter().zip(model.tensors()) {
        assert_eq!((&spec.name, spec.dtype, spec.shape, spec.bytes), (&t.name, t.dtype, t.shape, t.bytes));
        assert_eq!(model.bytes(t), pattern(&t.name, t.bytes.0), "{}", t.name);
        assert!(t.offset().is_multiple_of(model.alignment()));
    }
}

#[test]
fn what_is_written_is_read() {
    for alignment in [1, 8, 32, 4096] {
        let mut w = small_model();
        w.set_alignment(alignment).unwrap();
        let model = walk(&to_bytes(&w)).unwrap();
        assert_eq!((model.version(), model.alignment()), (3, alignment.into()));
        check_same(&w, &model);
        assert_eq!(model.metadata().u32("u8").unwrap(), Some(1));
        assert_eq!(model.metadata().str("general.architecture").unwrap(), Some("test"));
    }
}

#[test]
fn metadata_survives_a_second_writing() {
    let first = walk(&to_bytes(&small_model())).unwrap();
    let mut w = Writer::new();
    for (key, value) in first.metadata().iter() {
        w.set(key, value).unwrap();
    }
    let second = walk(&to_bytes(&w)).unwrap();
    assert!(first.metadata().iter().eq(second.metadata().iter()));
    assert_eq!(first.metadata().len(), 16);
}

#[test]
fn version_2_is_read() {
    let mut bytes = to_bytes(&small_model());
    bytes[4] = 2;
    let model = walk(&bytes).unwrap();
    assert_eq!(model.version(), 2);
    check_same(&small_model(), &model);
}

#[test]
fn files_and_shards_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let w = small_model();
    let data = |t: &loadmaster::gguf::TensorSpec, out: &mut dyn Write| out.write_all(&pattern(&t.name, t.bytes.0));
    let whole = folder.path().join("whole.gguf");
    w.write_file(&whole, data).unwrap();
    check_same(&w, &Gguf::open(&whole).unwrap());
    assert_eq!(std::fs::read(&whole).unwrap(), to_bytes(&w));

    for count in [1, 2, 7, w.tensors().len()] {
        let paths = w.write_split(&folder.path().join("part"), count, data).unwrap();
        assert_eq!(paths.len(), count);
        let model = Gguf::open(paths.last().unwrap()).unwrap();
        assert_eq!(model.shards().len(), count);
        check_same(&w, &model);
        assert_eq!(model.metadata().str("general.architecture").unwrap(), Some("test"));
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| n.to_str().unwrap().ends_with(".gguf")), "{left:?}");
}

#[test]
fn shards_are_of_about_the_same_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut w = Writer::new();
    for i in 0..40 {
        w.add_tensor(&format!("t{i}"), DType::I8, shape(&[1000 + 10 * i])).unwrap();
    }
    let paths =
        w.write_split(&folder.path().join("p"), 4, |t, out| out.write_all(&pattern(&t.name, t.bytes.0))).unwrap();
    for path in paths {
        let size = std::fs::metadata(path).unwrap().len();
        assert!((10_000..16_000).contains(&size), "{size}");
    }
}

fn split_model(folder: &Path) -> Vec<std::path::PathBuf> {
    small_model().write_split(&folder.join("m"), 3, |t, out| out.write_all(&pattern(&t.name, t.bytes.0))).unwrap()
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let check = |change: &dyn Fn(&[std::path::PathBuf]), needed: &str| {
        let folder = tempfile::tempdir().unwrap();
        let paths = split_model(folder.path());
        change(&paths);
        let error = Gguf::open(&paths[0]).unwrap_err().to_string();
        let error = error.replace(&format!("{}/", folder.path().display()), "");
        assert!(error.starts_with(needed), "needed {needed:?}, found {error:?}");
    };
    let copy = |from: &Path, to: &Path| assert!(std::fs::copy(from, to).is_ok());
    check(&|p| std::fs::remove_file(&p[1]).unwrap(), "m-00002-of-00003.gguf: cannot open: No such file");
    check(&|p| copy(&p[2], &p[1]), "m-00002-of-00003.gguf: split.no is 2, needed 1");
    check(
        &|p| copy(&p[1], &p[0]),
        "m-00001-of-00003.gguf: shard 2 of 3 must be named like \"model-00002-of-00003.gguf\"",
    );
    let past = |p: &[std::path::PathBuf]| {
        let mut bytes = std::fs::read(&p[0]).unwrap();
        let at = bytes.windows(8).position(|w| w == b"split.no").unwrap();
        bytes[at + 12] = 3;
        std::fs::write(&p[0], bytes).unwrap();
    };
    check(&past, "m-00001-of-00003.gguf: split.no is 3, needed below split.count, 3");
    let whole = to_bytes(&small_model());
    check(&|p| std::fs::write(&p[2], &whole).unwrap(), "m-00003-of-00003.gguf: split.count is 1, needed 3");
    let twice = |p: &[std::path::PathBuf]| {
        let mut bytes = std::fs::read(&p[0]).unwrap();
        let at = bytes.windows(8).position(|w| w == b"split.no").unwrap();
        // The key, its type, then the number.
        bytes[at + 12] = 1;
        std::fs::write(&p[1], bytes).unwrap();
    };
    check(&twice, "m-00002-of-00003.gguf: tensor \"t.f16\" is there twice, first in m-00001-of-00003.gguf");
    let fewer = |p: &[std::path::PathBuf]| {
        let mut bytes = std::fs::read(&p[0]).unwrap();
        let key = b"split.tensors.count";
        let at = bytes.windows(key.len()).position(|w| w == key).unwrap();
        bytes[at + key.len() + 4] += 1;
        std::fs::write(&p[0], bytes).unwrap();
    };
    check(&fewer, "m-00001-of-00003.gguf: split.tensors.count is 35, needed the number of tensors in all shards, 34");
}

#[test]
fn a_shard_from_memory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(&split_model(folder.path())[0]).unwrap();
    let error = Gguf::from_bytes("bytes", bytes).unwrap_err();
    assert!(matches!(error, GgufError::Shards { .. }), "{error}");
    assert_eq!(error.to_string(), "bytes: split.count is 3, needed 1");
}

#[test]
fn what_cannot_be_written_is_refused() {
    let mut w = small_model();
    let check = |result: Result<(), WriteError>, needed: &str| assert_eq!(result.unwrap_err().to_string(), needed);
    check(w.set("u8", 1).map(drop), "metadata key \"u8\" is there twice");
    check(w.set("split.no", 1).map(drop), "metadata key \"split.no\" is set by the writer");
    check(w.set_alignment(24).map(drop), "an alignment of 24, needed a power of two");
    let mixed = MetaValue::Array(ValueType::U8, vec![1u8.into(), 1i8.into()]);
    check(w.set("m", mixed).map(drop), "the array \"m\" needs elements of type u8, found i8");
    let mut deep = MetaValue::from(vec![1u8]);
    for _ in 0..8 {
        deep = MetaValue::Array(ValueType::Array, vec![deep]);
    }
    check(w.set("deep", deep).map(drop), "the array \"deep\" is nested deeper than 8");
    check(w.add_tensor("t.f32", DType::F32, shape(&[1])).map(drop), "tensor \"t.f32\" is there twice");
    let size = "tensor \"q\" of type q4_0 and shape [33] needs rows of whole blocks, and 2^62 bytes in all at most";
    check(w.add_tensor("q", DType::Q4_0, shape(&[33])).map(drop), size);
    assert!(w.add_tensor("huge", DType::F32, shape(&[1 << 62])).is_err());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.gguf");
    let short = "tensor \"t.f32\" needs 4 bytes of data, was given 3";
    check(w.write_file(&path, |_, out| out.write_all(&[0; 3])), short);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a failed write leaves nothing");
    let many = w.write_split(&path, 99, |_, _| Ok(())).map(drop);
    check(many, "34 tensors do not make 99 shards, needed 1 to 34");
}
