//! A test run once more with everything noted → how long each split, transfer and upload of its usual step took, beside
//! what the plan's timeline gave it. Noting waits for each piece of work, so sums are more than a step takes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spread::Spread;
use super::timing::{Test, tokens};
use crate::engine::{Engine, EngineError};
use crate::exec::{Session, Traced};
use crate::graph::Batch;
use crate::plan::{Activity, Lane, timeline};

/// Steps of generation that are noted.
const STEPS: u32 = 8;

/// What a piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    /// Nodes that one device computes.
    Split,
    /// A value that crosses to another device.
    Transfer,
    /// A part of a weight that is streamed.
    Upload,
}

/// A piece of work of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityTime {
    /// What it is.
    pub kind: ActivityKind,
    /// Its number in the plan.
    pub id: u32,
    /// The device that computes, or takes in.
    pub device: String,
    /// From its beginning to its end in the plan's timeline.
    pub predicted_ns: u64,
    /// The same as it was, the median of all steps.
    pub measured_ns: u64,
}

/// Notes a test, which must have run before; `vocab` bounds the random tokens.
///
/// # Errors
/// The engine cannot do it.
pub fn time_activities(engine: &mut Engine, test: Test, vocab: u32) -> Result<Vec<ActivityTime>, EngineError> {
    let ids: Vec<u32> = tokens(vocab).take(test.tokens() as usize).collect();
    let sequence = engine.start();
    engine.session().trace();
    let fed = match test {
        Test::Prompt(_) => engine.feed(sequence, &ids).map(drop),
        Test::Generate(_) => ids.chunks(1).take(STEPS as usize).try_for_each(|id| engine.feed(sequence, id).map(drop)),
    };
    let traced = engine.session().traced();
    engine.end(sequence)?;
    fed?;
    let Some(batch) = traced.iter().map(|step| step.batch).max_by_key(|batch| batch.tokens) else {
        return Ok(Vec::new());
    };
    beside(engine.session(), batch, &traced)
}

/// Medians of the steps of one bucket beside its timeline.
fn beside(session: &Session, batch: Batch, traced: &[Traced]) -> Result<Vec<ActivityTime>, EngineError> {
    let (graph, plan) = session.planned(batch)?;
    let mut measured: BTreeMap<Activity, Vec<u64>> = BTreeMap::new();
    for event in traced.iter().filter(|step| step.batch == batch).flat_map(|step| &step.events) {
        measured.entry(event.what).or_default().push(event.end.saturating_sub(event.start).0);
    }
    let predicted = timeline(&graph, session.machine(), session.policy(), &plan, 1);
    let times = predicted.events.iter().filter_map(|event| {
        let spread = Spread::of(measured.get(&event.what)?)?;
        let ((kind, id), Lane { device, .. }) = (named(event.what), event.lane);
        let device = session.machine().devices[device].name.clone();
        let predicted_ns = event.end.saturating_sub(event.start).0;
        Some(ActivityTime { kind, id, device, predicted_ns, measured_ns: spread.median })
    });
    let mut times: Vec<ActivityTime> = times.collect();
    times.sort_by_key(|time| (time.kind, time.id));
    Ok(times)
}

fn named(what: Activity) -> (ActivityKind, u32) {
    match what {
        Activity::Split(id) => (ActivityKind::Split, id.0),
        Activity::Transfer(id) => (ActivityKind::Transfer, id.0),
        Activity::Upload(id) => (ActivityKind::Upload, id.0),
    }
}
