//! What scattered cells cost a decode step: 4,110 live cells, two in nearly every page of a cache of 32,768, and the same
//! cells brought together. Prints pages and bytes that a step reads, counted, and the middle time of a step, measured.

use std::time::{Duration, Instant};

use loadmaster::engine::{CHUNK, Engine, EngineOptions};
use loadmaster::gguf::Gguf;
use loadmaster::kv::{Depth, KvLayout, SequenceId};
use loadmaster::plan::Offload;
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

const CELLS: u32 = 32_768;
const LIVE_OF_PAGE: u32 = 2;
const RUNS: usize = 41;

fn main() {
    let shape = ModelShape { layers: 4, ..named("llama-1b").expect("a known shape") };
    let bytes = Synth::new(&shape, DType::Q4K, 1).expect("a known shape").to_bytes().expect("fits memory");
    let options = EngineOptions {
        // A page more, for the tokens of the steps.
        context: Tokens(CELLS + Tokens::PAGE.0),
        step: Tokens(512),
        outputs: Tokens(1),
        threads: 2,
        cache_keys: DType::F16,
        cache_values: DType::F16,
        keep_mapping: false,
        budget: Bytes(1 << 34),
        together: 1,
        layout: KvLayout::default(),
        sequences: 1,
        gpu_layers: None,
        fitted: false,
        offload: Offload::Auto,
    };
    let gguf = Gguf::from_bytes("llama-1b, four layers", bytes).expect("just made");
    let mut engine = Engine::open(gguf, options, &|_, _| {}).expect("fits memory");
    let sequence = scattered(&mut engine);
    report("scattered", &mut engine, sequence);
    let start = Instant::now();
    let moved = engine.compact(Depth::Cells, CHUNK).expect("a device that works");
    println!("compaction: {} moves, {} in {} chunks, {:.2?}", moved.moves, moved.bytes, moved.chunks, start.elapsed());
    report("together", &mut engine, sequence);
}

/// A sequence of which each page keeps its first cells.
fn scattered(engine: &mut Engine) -> SequenceId {
    let sequence = engine.start();
    for step in 0..CELLS / 512 {
        let ids: Vec<u32> = (0..512).map(|i| (step * 512 + i) * 37 % 30_000).collect();
        engine.feed(sequence, &ids).expect("the cache has room");
        // The last page stays whole, so that the next token does not go on within it.
        let last = (step + 1) * 512 - Tokens::PAGE.0;
        for page in ((step * 512).saturating_sub(Tokens::PAGE.0)..last).step_by(Tokens::PAGE.index()) {
            engine.remove(sequence, page + LIVE_OF_PAGE, page + Tokens::PAGE.0).expect("nothing is set aside");
        }
    }
    sequence
}

fn report(what: &str, engine: &mut Engine, sequence: SequenceId) {
    let live = engine.length(sequence).expect("it runs");
    let (pages, bytes) = engine.reads();
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            engine.feed(sequence, &[7]).expect("the cache has room");
            let time = start.elapsed();
            engine.truncate(sequence, Tokens(CELLS)).expect("it runs");
            time
        })
        .collect();
    times.sort();
    let ideal = live.pages();
    println!("{what}: {live} in {pages} pages ({ideal} at least), {bytes} read a step, {:.2?} a step", times[RUNS / 2]);
}
