//! After warm-up a decode step allocates nothing. A binary of its own, because it counts every allocation there is.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use loadmaster::engine::{Engine, EngineOptions};
use loadmaster::gguf::Gguf;
use loadmaster::synth::{Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_steady_decode_step_allocates_nothing() {
    for (shape, dtype) in [("llama-tiny", DType::Q4_0), ("qwen3moe-tiny", DType::Q4K), ("qwen2-tiny", DType::Q3K)] {
        let bytes = Synth::new(&named(shape).unwrap(), dtype, 1).unwrap().to_bytes().unwrap();
        let options = EngineOptions {
            context: Tokens(256),
            step: Tokens(32),
            outputs: Tokens(1),
            threads: 2,
            cache_keys: DType::F16,
            cache_values: DType::F16,
            keep_mapping: false,
            budget: Bytes(1 << 32),
        };
        let mut engine = Engine::open(Gguf::from_bytes(shape, bytes).unwrap(), options, &|_, _| {}).unwrap();
        let sequence = engine.start();
        engine.feed(sequence, &[1, 2, 3, 4, 5]).unwrap();
        engine.feed(sequence, &[6]).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for id in 0..100 {
            engine.feed(sequence, &[id]).unwrap();
        }
        let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(made, 0, "{shape}: {made} allocations in 100 steps");
    }
}
