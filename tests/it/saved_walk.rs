//! Loads a saved session as far as anything does; the fuzz target runs the same. Any bytes are refused, and the engine is
//! as before, or they are loaded whole.

use std::hash::Hasher;
use std::io::Cursor;

use loadmaster::engine::{Engine, EngineOptions, Loaded};
use loadmaster::gguf::Gguf;
use loadmaster::kv::KvLayout;
use loadmaster::plan::Offload;
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::DType;
use loadmaster::text::TokenId;
use loadmaster::units::{Bytes, Tokens};
use twox_hash::XxHash64;

/// A model as small as there is, whose cells take few bytes.
pub fn least(layout: KvLayout) -> Engine {
    let shape = ModelShape { layers: 1, ..named("llama-tiny").unwrap() };
    let bytes = Synth::new(&shape, DType::F32, 9).unwrap().to_bytes().unwrap();
    let options = EngineOptions {
        context: Tokens(64),
        step: Tokens(16),
        outputs: Tokens(1),
        threads: 1,
        cache_keys: DType::Q4_0,
        cache_values: DType::Q4_0,
        keep_mapping: false,
        together: 1,
        layout,
        sequences: 1,
        gpu_layers: None,
        fitted: false,
        offload: Offload::Auto,
        budget: Bytes(1 << 30),
    };
    Engine::open(Gguf::from_bytes("least", bytes).unwrap(), options, &|_, _| {}).unwrap()
}

/// A sequence that was shifted, with tokens that follow, in that engine.
pub fn example(engine: &mut Engine) -> Vec<u8> {
    let sequence = engine.start();
    engine.feed(sequence, &(0..64).collect::<Vec<_>>()).unwrap();
    engine.shift(sequence, Tokens(16)).unwrap();
    let bytes = save(engine, &Loaded { sequence, tokens: Vec::new(), next: vec![TokenId(7), TokenId(8)] });
    engine.end(sequence).unwrap();
    bytes
}

pub fn save(engine: &mut Engine, loaded: &Loaded) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.save(loaded.sequence, &loaded.next, "bytes", &mut bytes).unwrap();
    bytes
}

/// The same with length and checksum made right, so that what is between them is read.
pub fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = bytes.len() as u64;
    if let (Some(head), true) = (bytes.get_mut(12..20), length >= 28) {
        head.copy_from_slice(&length.to_le_bytes());
        let end = bytes.len() - 8;
        let mut hash = XxHash64::with_seed(0);
        hash.write(&bytes[..end]);
        bytes[end..].copy_from_slice(&hash.finish().to_le_bytes());
    }
    bytes
}

/// Loads a session into an engine that holds nothing, goes on with it, and gives all back.
///
/// # Errors
/// The message of the refusal.
pub fn walk(engine: &mut Engine, bytes: &[u8]) -> Result<(), String> {
    let before = engine.usage();
    assert_eq!(before.used, 0);
    let loaded = engine.load("bytes", &mut Cursor::new(bytes)).map_err(|why| {
        assert_eq!(engine.usage(), before);
        why.to_string()
    })?;
    assert_eq!(engine.length(loaded.sequence).unwrap().index(), loaded.tokens.len());
    // Runs that go on from each other are written as one, and what was owed to keys is paid.
    let again = save(engine, &loaded);
    assert!(again.len() <= bytes.len());
    engine.end(loaded.sequence).unwrap();
    let loaded = engine.load("again", &mut Cursor::new(&again)).unwrap();
    assert!(save(engine, &loaded) == again);
    let _ = engine.feed(loaded.sequence, &[3]);
    engine.end(loaded.sequence).unwrap();
    assert_eq!(engine.usage().used, 0);
    Ok(())
}
