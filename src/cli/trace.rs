//! `run --trace`: what a session noted of its devices, and a queue of its steps → one trace.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use super::steps::Steps;
use crate::exec::Session;
use crate::sim::{Planned, measured, trace_document};

/// Writes what the devices did since noting began, and the steps of a queue if there was one.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(mut file: File, session: &mut Session, steps: Steps) -> Result<()> {
    let traced = session.traced();
    let mut planned = BTreeMap::new();
    for batch in traced.iter().map(|step| step.batch) {
        if let Entry::Vacant(new) = planned.entry(batch) {
            let (graph, plan) = session.planned(batch)?;
            new.insert((format!("up to {}", batch.tokens), graph, plan));
        }
    }
    let mut rows = Vec::with_capacity(traced.len());
    for step in &traced {
        let (name, graph, plan) = &planned[&step.batch];
        rows.push((name.as_str(), Planned { graph, plan }, step.events.as_slice()));
    }
    let mut events: Vec<Value> = measured(session.machine(), rows.into_iter());
    events.extend(steps.events());
    file.write_all(trace_document(&events).as_bytes()).context("cannot write the trace")
}
