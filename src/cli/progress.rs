//! Progress bars on stderr: shown only on a terminal and only for work that takes a while.

use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(400);
const BYTES: &str = "{msg} [{bar:32}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
const STEPS: &str = "{msg} [{bar:32}] {pos}/{len} {eta}";

/// A bar that appears when it is worth it.
pub(super) struct Bar {
    what: &'static str,
    template: &'static str,
    start: Instant,
    shown: bool,
    bar: OnceLock<ProgressBar>,
}

impl Bar {
    /// A bar that counts bytes.
    pub fn bytes(what: &'static str) -> Bar {
        Bar::new(what, BYTES)
    }

    /// A bar that counts steps.
    pub fn steps(what: &'static str) -> Bar {
        Bar::new(what, STEPS)
    }

    fn new(what: &'static str, template: &'static str) -> Bar {
        Bar { what, template, start: Instant::now(), shown: stderr().is_terminal(), bar: OnceLock::new() }
    }

    /// So much of the whole is done.
    pub fn at(&self, done: u64, total: u64) {
        if self.shown && (self.bar.get().is_some() || self.start.elapsed() > PATIENCE) {
            let bar = self.bar.get_or_init(|| self.make(total));
            bar.set_position(done);
        }
    }

    fn make(&self, total: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(self.template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.with_style(style).with_message(self.what)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
