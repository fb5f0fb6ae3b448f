//! Any bytes are refused or loaded whole, never a panic: `cargo fuzz run -s none saved`. Length and checksum are made right
//! first, so that what is between them is read.
#![no_main]

#[path = "../../tests/it/saved_walk.rs"]
#[allow(dead_code, reason = "tests make sessions too")]
mod saved_walk;

use std::cell::RefCell;

use loadmaster::engine::Engine;
use loadmaster::kv::KvLayout;

thread_local! {
    static ENGINE: RefCell<Engine> = RefCell::new(saved_walk::least(KvLayout::default()));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ENGINE.with_borrow_mut(|engine| {
        let _ = saved_walk::walk(engine, &saved_walk::sealed(bytes));
    });
});
