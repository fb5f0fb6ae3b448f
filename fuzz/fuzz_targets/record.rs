//! Any text is refused or read whole, never a panic: `cargo fuzz run -s none record`.
#![no_main]

#[path = "../../tests/it/json_walk.rs"]
#[allow(dead_code, reason = "other targets read other kinds")]
mod json_walk;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = json_walk::record(text);
});
