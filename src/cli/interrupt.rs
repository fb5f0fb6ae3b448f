//! Ctrl-C: the first ends an answer, a second ends the program, and so does one while nothing is being written.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether text is being generated.
static BUSY: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// What shells give a program that Ctrl-C ended.
const ENDED: i32 = 130;

/// Listens from now on.
pub(super) fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let second = ASKED.swap(true, Ordering::Relaxed);
        if second || !BUSY.load(Ordering::Relaxed) {
            process::exit(ENDED);
        }
    })?;
    Ok(())
}

/// Generation starts.
pub(super) fn begin() {
    ASKED.store(false, Ordering::Relaxed);
    BUSY.store(true, Ordering::Relaxed);
}

/// Generation has ended; says whether because of Ctrl-C.
pub(super) fn end() -> bool {
    BUSY.store(false, Ordering::Relaxed);
    ASKED.swap(false, Ordering::Relaxed)
}

/// Whether generation shall end.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
