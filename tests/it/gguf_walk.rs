//! Reads all that a model file offers; shared by tests and the fuzz target. A file is either refused or read without
//! a panic.

use loadmaster::gguf::{Gguf, GgufError, Metadata, TensorInfo, Value};
use loadmaster::tensor::quant;

/// Opens `bytes` and touches every key, value and tensor.
pub fn walk(bytes: &[u8]) -> Result<Gguf, GgufError> {
    let model = Gguf::from_bytes("bytes", bytes.to_vec())?;
    walk_metadata(model.metadata());
    for t in model.tensors() {
        walk_tensor(&model, t);
    }
    Ok(model)
}

fn walk_metadata(metadata: &Metadata) {
    for (key, value) in metadata.iter() {
        assert_eq!(metadata.get(key).map(|v| v.kind()), Some(value.kind()), "{key:?} is found by its key");
        assert!(!value.to_string().contains('\n'), "{key:?} shows as one line");
        walk_value(value);
        // Right types convert, wrong ones are errors that name the key.
        let errors = [
            metadata.bool(key).err(),
            metadata.u32(key).err(),
            metadata.u64(key).err(),
            metadata.f32(key).err(),
            metadata.str(key).err(),
            metadata.strs(key).err(),
            metadata.f32s(key).err(),
            metadata.i32s(key).err(),
            metadata.u32s(key).err(),
            metadata.bools(key).err(),
        ];
        for error in errors.into_iter().flatten() {
            assert!(error.to_string().contains(&format!("{key:?}")), "{error}");
        }
    }
}

fn walk_value(value: Value<'_>) {
    let Value::Array(array) = value else { return };
    assert_eq!(array.iter().map(walk_value).count(), array.len());
    if let Some(strings) = array.strings() {
        assert!(strings.iter().enumerate().all(|(i, s)| strings.get(i) == Some(s)));
        assert_eq!(strings.get(strings.len()), None);
    }
}

fn walk_tensor(model: &Gguf, t: &TensorInfo) {
    const DECODED: u64 = 1 << 16;
    assert_eq!(model.tensor(&t.name), Some(t));
    let bytes = model.bytes(t);
    assert_eq!(bytes.len() as u64, t.bytes.0);
    if quant::can_decode(t.dtype) && t.shape.elements() <= DECODED {
        let mut out = vec![0.0; t.shape.elements() as usize];
        quant::decode(t.dtype, bytes, &mut out).expect("a whole tensor of a known type decodes");
    }
    model.release(t);
}
