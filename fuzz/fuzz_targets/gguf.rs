//! Any bytes are refused or read whole, never a panic: `cargo fuzz run -s none gguf`.
#![no_main]

#[path = "../../tests/it/gguf_walk.rs"]
mod gguf_walk;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = gguf_walk::walk(bytes);
});
