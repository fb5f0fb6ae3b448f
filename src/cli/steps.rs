//! The steps of a queue → the Trace Event Format that Perfetto and Chrome read: a complete event a step, an instant where
//! a compaction was weighed, counters for pages. Times are microseconds from the first step.

use std::time::Instant;

use serde_json::{Value, json};

use crate::engine::{Compacted, StepReport};
use crate::kv::Price;

/// What was noted so far.
pub(super) struct Steps {
    start: Instant,
    /// The process that they are shown as.
    process: usize,
    events: Vec<Value>,
    moved: Compacted,
}

impl Steps {
    /// Nothing yet; time starts now. The processes before are those of `devices`.
    pub fn new(devices: usize) -> Steps {
        let process = devices + 1;
        let name = json!({ "ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": { "name": "steps" } });
        Steps { start: Instant::now(), process, events: vec![name], moved: Compacted::default() }
    }

    /// Notes a step that ended now and began at `since`.
    pub fn note(&mut self, since: Instant, report: StepReport) {
        let micros = |at: Instant| (at - self.start).as_secs_f64() * 1e6;
        let (from, to) = (micros(since), micros(Instant::now()));
        let StepReport { rows, sequences, prompts, waiting, pages, price, moved } = report;
        let event = |ph: &str, name: &str, ts: f64, args: Value| json!({ "ph": ph, "name": name, "pid": self.process, "tid": 1, "ts": ts, "args": args });
        let made = json!({
            "rows": rows, "sequences": sequences, "prompts": prompts, "waiting": waiting,
            "cell_moves": moved.moves - self.moved.moves, "moved_bytes": moved.bytes.saturating_sub(self.moved.bytes).0,
        });
        let mut step = event("X", "step", from, made);
        step["dur"] = json!(to - from);
        self.events.push(step);
        self.events.push(event("C", "pages", from, json!({ "held": pages })));
        if let Some(price) = price {
            let mut weighed = event("i", "compaction weighed", from, told(price));
            weighed["s"] = json!("t");
            self.events.push(weighed);
        }
        self.moved = moved;
    }

    /// What was noted.
    pub fn events(self) -> Vec<Value> {
        self.events
    }
}

fn told(price: Price) -> Value {
    let Price { reads, reads_after, moved, steps, saved } = price;
    json!({
        "pages_read": reads, "pages_read_after": reads_after, "bytes_moved": moved.0, "steps": steps.0,
        "bytes_saved": saved.0, "pays": price.pays(),
    })
}
