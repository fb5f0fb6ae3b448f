//! The steps of a session that are under way, oldest first, and what came of them: begun one behind the other, ended all
//! together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::devices::Devices;
use super::flight::{Flight, Prepared, unpoisoned};
use super::lanes::Lanes;
use super::{ExecError, StepInput, Traced};
use crate::backend::BackendError;
use crate::graph::{Batch, CacheClass};
use crate::index::{CacheClassId, IndexVec};

/// The steps of a session.
pub(super) struct Flights {
    lanes: Lanes,
    /// What the largest step may be.
    largest: Batch,
    classes: IndexVec<CacheClassId, CacheClass>,
    /// Elements of a row of logits.
    width: usize,
    under: VecDeque<Arc<Flight>>,
    idle: Vec<Arc<Flight>>,
    /// Steps that may be under way together.
    most: usize,
    failed: Option<BackendError>,
    /// Rows of the last step, and how many floats they are.
    logits: Vec<f32>,
    floats: usize,
    clock: Option<Instant>,
    traced: Vec<Traced>,
}

impl Flights {
    /// None yet.
    pub fn new(
        devices: &Arc<Devices>,
        largest: Batch,
        classes: &IndexVec<CacheClassId, CacheClass>,
        width: usize,
    ) -> Flights {
        // One a device, and one that is made ready meanwhile.
        let most = devices.all.len() + 1;
        Flights {
            lanes: Lanes::new(devices),
            largest,
            classes: classes.clone(),
            width,
            under: VecDeque::with_capacity(most),
            idle: Vec::with_capacity(most),
            most,
            failed: None,
            logits: Vec::new(),
            floats: 0,
            clock: None,
            traced: Vec::new(),
        }
    }

    /// Makes room for steps of a bucket.
    pub fn reserve(&self, what: &Prepared, batch: Batch) {
        self.lanes.reserve(what, batch);
    }

    /// Begins a step behind those under way; waits for the oldest where there are many.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn begin(&mut self, what: &Arc<Prepared>, input: &StepInput<'_>) -> Result<(), ExecError> {
        if self.under.len() == self.most {
            self.land();
        }
        let flight = self.set(what, input);
        self.lanes.post(&flight)?;
        self.under.push_back(flight);
        Ok(())
    }

    /// Runs a step, behind those under way.
    ///
    /// # Errors
    /// A device failed, in this step or in one under way; or the system refuses threads.
    pub fn run(&mut self, what: &Arc<Prepared>, input: &StepInput<'_>) -> Result<&[f32], ExecError> {
        if what.items.serial && self.under.is_empty() {
            let flight = self.set(what, input);
            self.lanes.along(&flight);
            self.collect(flight);
        } else {
            self.begin(what, input)?;
        }
        self.finish()
    }

    /// Returns when nothing is under way.
    pub fn settle(&mut self) {
        while !self.under.is_empty() {
            self.land();
        }
    }

    /// Ends all that is under way.
    ///
    /// # Errors
    /// A device failed in one of the steps that ended since the last call.
    pub fn finish(&mut self) -> Result<&[f32], ExecError> {
        self.settle();
        match self.failed.take() {
            Some(why) => Err(why.into()),
            None => Ok(self.logits()),
        }
    }

    /// The logits of the last step that succeeded, if it was the last that ended.
    pub fn logits(&self) -> &[f32] {
        &self.logits[..self.floats]
    }

    /// Notes from now on what every step does and when; it then waits for each thing that it begins.
    pub fn trace(&mut self) {
        self.settle();
        self.clock = Some(Instant::now());
        self.traced.clear();
    }

    /// Whether it is noted.
    pub fn traces(&self) -> bool {
        self.clock.is_some()
    }

    /// What was noted; nothing is any more.
    pub fn traced(&mut self) -> Vec<Traced> {
        self.settle();
        self.clock = None;
        std::mem::take(&mut self.traced)
    }

    /// A flight that is to be this step.
    fn set(&mut self, what: &Arc<Prepared>, input: &StepInput<'_>) -> Arc<Flight> {
        let new = || Arc::new(Flight::new(what, self.largest, &self.classes));
        let flight = self.idle.pop().unwrap_or_else(new);
        let mut step = flight.idle();
        step.set(what, input, self.width);
        step.clock = self.clock;
        drop(step);
        flight
    }

    /// Waits for the oldest step under way.
    fn land(&mut self) {
        if let Some(flight) = self.under.pop_front() {
            self.lanes.take_back(&flight);
            self.collect(flight);
        }
    }

    /// What came of a step that has ended.
    fn collect(&mut self, flight: Arc<Flight>) {
        let mut step = flight.idle();
        let failed = step.failure();
        self.floats = if failed.is_some() { 0 } else { step.floats };
        std::mem::swap(&mut self.logits, unpoisoned(&mut step.logits));
        if step.clock.is_some() {
            self.traced.push(Traced { batch: step.what.batch, events: step.events() });
        }
        drop(step);
        self.failed = self.failed.take().or(failed);
        self.idle.push(flight);
    }
}
