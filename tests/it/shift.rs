//! What is done to caches beside steps: a full context drops its middle, cells come together where neighbours are needed.

use loadmaster::engine::{CHUNK, Engine, EngineOptions, Piece, Wanted};
use loadmaster::gguf::Gguf;
use loadmaster::kv::{Depth, KvLayout};
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::Tokens;

use crate::batching::options;
use crate::reference::nmse;

fn open(shape: &ModelShape, options: EngineOptions) -> Engine {
    let bytes = Synth::new(shape, DType::F32, 9).unwrap().to_bytes().unwrap();
    Engine::open(Gguf::from_bytes(&shape.name, bytes).unwrap(), options, &|_, _| {}).unwrap()
}

/// In a model of one layer a cached row depends on its token and position alone: after a shift the sequence is the one
/// that never had what was dropped, but for the rounding of a rotation.
#[test]
fn a_shifted_sequence_is_the_one_that_never_had_what_was_dropped() {
    let ids: Vec<u32> = (0..90).map(|i| i * 37 % 500).collect();
    let types = [(DType::F32, 1e-9), (DType::F16, 1e-5), (DType::Bf16, 1e-3), (DType::Q8_0, 1e-3), (DType::Q4_0, 0.2)];
    for shape in ["llama-tiny", "qwen3-tiny", "deepseek2-lite-tiny"] {
        let shape = named(shape).unwrap();
        let shape = ModelShape { layers: 1, ..shape };
        for layout in [KvLayout::default(), KvLayout::Contiguous] {
            for (dtype, most) in types {
                let sizes =
                    EngineOptions { context: Tokens(512), cache_keys: dtype, cache_values: dtype, layout, ..options() };
                let mut engine = open(&shape, sizes);
                let sequence = engine.start();
                engine.feed(sequence, &ids[..80]).unwrap();
                let shifted = engine.shift(sequence, Tokens(16)).unwrap();
                assert_eq!((shifted.dropped, shifted.turned), (Tokens(32), Tokens(32)));
                let found = engine.feed(sequence, &ids[80..]).unwrap().to_vec();
                let fresh = engine.start();
                let rest = [&ids[..16], &ids[48..]].concat();
                let expected = engine.feed(fresh, &rest).unwrap();
                let error = nmse(&found, expected);
                assert!(error <= most, "{} {dtype} {layout:?}: {error:e}", shape.name);
                let whole = engine.start();
                let unshifted = nmse(engine.feed(whole, &ids).unwrap(), &found);
                assert!(unshifted > 1e-4, "{} {dtype}: {unshifted:e}", shape.name);
            }
        }
    }
}

#[test]
fn a_sequence_too_short_to_shift_is_refused_and_stays() {
    let mut engine = open(&named("llama-tiny").unwrap(), options());
    let sequence = engine.start();
    engine.feed(sequence, &[1; 30]).unwrap();
    let error = engine.shift(sequence, Tokens(8)).unwrap_err().to_string();
    assert!(error.starts_with("33 tokens do not fit the context of 32"), "{error}");
    assert_eq!(engine.length(sequence).unwrap(), Tokens(30));
    engine.feed(sequence, &[1; 30]).unwrap();
}

/// The seed's case: every other cell is taken, so no two neighbours are free. A step of several tokens brings the cells
/// together and succeeds; nobody else notices.
#[test]
fn a_step_that_finds_no_neighbours_brings_cells_together_and_succeeds() {
    let sizes = EngineOptions { context: Tokens(64), layout: KvLayout::Contiguous, ..options() };
    let mut engine = open(&named("llama-tiny").unwrap(), sizes);
    let all: Vec<_> = (0..64).map(|_| engine.start()).collect();
    for (i, &sequence) in (0..).zip(&all) {
        engine.feed(sequence, &[100 + i]).unwrap();
    }
    assert_eq!((engine.usage().used, engine.usage().free), (64, 0));
    for &sequence in all.iter().step_by(2) {
        engine.end(sequence).unwrap();
    }
    let long = engine.start();
    let ids: Vec<u32> = (0..20).collect();
    let found = engine.feed(long, &ids).unwrap().to_vec();
    let other = engine.feed(all[63], &[9]).unwrap().to_vec();
    let mut single = open(&named("llama-tiny").unwrap(), options());
    let [a, b] = [single.start(), single.start()];
    assert_eq!(single.feed(a, &ids).unwrap(), found);
    assert_eq!(single.feed(b, &[163, 9]).unwrap(), other);
}

/// Cells of a sequence that has ended stand in the middle of what is free: several pieces of one step find room all the
/// same, though each is placed where its sequence goes on.
#[test]
fn a_step_of_several_pieces_finds_neighbours_for_all() {
    let sizes = EngineOptions { context: Tokens(64), step: Tokens(64), layout: KvLayout::Contiguous, ..options() };
    let mut engine = open(&named("llama-tiny").unwrap(), sizes);
    let [b, x, y] = [engine.start(), engine.start(), engine.start()];
    let ids = |first: u32, count: u32| -> Vec<u32> { (first..first + count).collect() };
    engine.feed(b, &ids(1, 4)).unwrap();
    engine.feed(x, &ids(100, 28)).unwrap();
    engine.feed(y, &ids(200, 32)).unwrap();
    engine.end(x).unwrap();
    engine.end(y).unwrap();
    let (c, last) = (engine.start(), Wanted::Last);
    let (one, many) = (ids(5, 1), ids(300, 40));
    let pieces = [Piece { sequence: b, ids: &one, wanted: last }, Piece { sequence: c, ids: &many, wanted: last }];
    let found = engine.step(&pieces).unwrap().to_vec();
    let mut single = open(&named("llama-tiny").unwrap(), options());
    let [b, c] = [single.start(), single.start()];
    let mut expected = single.feed(b, &ids(1, 5)).unwrap().to_vec();
    expected.extend_from_slice(single.feed(c, &many).unwrap());
    assert_eq!(found, expected);
}

#[test]
fn a_sequence_with_holes_is_read_without_them_and_not_shifted() {
    let shape = ModelShape { layers: 1, rope_factors: false, ..named("llama-tiny").unwrap() };
    let mut engine = open(&shape, EngineOptions { cache_keys: DType::F32, cache_values: DType::F32, ..options() });
    let sequence = engine.start();
    engine.feed(sequence, &[7; 60]).unwrap();
    engine.remove(sequence, 10, 45).unwrap();
    assert_eq!(engine.length(sequence).unwrap(), Tokens(25));
    assert_eq!(engine.reads().0, 3, "a page between was given back whole");
    engine.feed(sequence, &[9]).unwrap();
    let error = engine.shift(sequence, Tokens(0)).unwrap_err().to_string();
    assert!(error.contains("has holes"), "{error}");
    engine.compact(Depth::Cells, CHUNK).unwrap();
    assert_eq!(engine.reads().0, 2);
}
