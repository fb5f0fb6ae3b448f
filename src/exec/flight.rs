//! A step under way: what it was given, how far each lane must have come before it begins, and what is known of it when it
//! ends. Its room is made once and used again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::StepInput;
use super::bucket::Bucket;
use super::chosen::Routed;
use super::items::{Item, Items, LaneId, Placed};
use crate::backend::{BackendError, CellTable, Event};
use crate::graph::{Batch, CacheClass};
use crate::index::{CacheClassId, IndexVec};
use crate::plan::{self, SplitId, TransferId, UploadId};
use crate::units::{Bytes, Nanos, Tokens};

/// A prepared bucket with its items.
pub(super) struct Prepared {
    pub batch: Batch,
    pub bucket: Bucket,
    pub items: Items,
}

/// A step, shared by the lanes.
pub(super) struct Flight {
    step: RwLock<Step>,
}

/// What a step is.
pub(super) struct Step {
    pub what: Arc<Prepared>,
    /// Its number among those that were handed over; none before it is, nor where the caller goes along it.
    pub number: Option<u64>,
    input: Rows,
    /// Items that each lane has done before the step's first.
    pub base: IndexVec<LaneId, u64>,
    /// The events of what was handed over.
    splits: IndexVec<SplitId, AtomicU64>,
    transfers: IndexVec<TransferId, AtomicU64>,
    uploads: IndexVec<UploadId, AtomicU64>,
    failed: AtomicBool,
    why: Mutex<Option<BackendError>>,
    /// The rows of logits, and how many floats they are.
    pub logits: Mutex<Vec<f32>>,
    pub floats: usize,
    /// Times are counted from here, if they are.
    pub clock: Option<Instant>,
    pub trace: Mutex<Vec<plan::Event>>,
}

/// A copy of what a step is given.
#[derive(Default)]
struct Rows {
    ids: Vec<u32>,
    positions: Vec<u32>,
    output_rows: Vec<u32>,
    tables: Vec<CellTable>,
}

impl Flight {
    /// Room for steps of at most `batch` over caches of `classes`.
    pub fn new(what: &Arc<Prepared>, batch: Batch, classes: &IndexVec<CacheClassId, CacheClass>) -> Flight {
        let rows = |most: Tokens| Vec::with_capacity(most.index());
        let table = |class: &CacheClass| {
            // A class without states has cells without end.
            let pages = if class.cells == Tokens(u32::MAX) { 0 } else { class.cells.pages() as usize };
            let sequences = Vec::with_capacity(batch.tokens.index());
            let (pages, live) = (Vec::with_capacity(pages), Vec::with_capacity(pages));
            CellTable { cells: rows(batch.tokens), sequences, pages, live }
        };
        let input = Rows {
            ids: rows(batch.tokens),
            positions: rows(batch.tokens),
            output_rows: rows(batch.outputs),
            tables: classes.iter().map(table).collect(),
        };
        let step = Step {
            what: Arc::clone(what),
            number: None,
            input,
            base: what.items.lanes.ids().map(|_| 0).collect(),
            splits: IndexVec::new(),
            transfers: IndexVec::new(),
            uploads: IndexVec::new(),
            failed: AtomicBool::new(false),
            why: Mutex::default(),
            logits: Mutex::default(),
            floats: 0,
            clock: None,
            trace: Mutex::default(),
        };
        Flight { step: RwLock::new(step) }
    }

    /// The step, while it is gone along.
    pub fn step(&self) -> RwLockReadGuard<'_, Step> {
        self.step.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The step, between two of them.
    pub fn idle(&self) -> RwLockWriteGuard<'_, Step> {
        self.step.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step {
    /// Makes it another step, with rows of logits that are so wide.
    pub fn set(&mut self, what: &Arc<Prepared>, input: &StepInput<'_>, width: usize) {
        self.what = Arc::clone(what);
        self.number = None;
        self.input.set(input);
        events(&mut self.splits, what.bucket.stages.len());
        events(&mut self.transfers, what.bucket.sends.len());
        events(&mut self.uploads, what.bucket.fetches.len());
        *self.failed.get_mut() = false;
        *unpoisoned(&mut self.why) = None;
        self.floats = input.output_rows.len() * width;
        let logits = unpoisoned(&mut self.logits);
        logits.resize(self.floats.max(logits.len()), 0.0);
        unpoisoned(&mut self.trace).clear();
    }

    /// What it was given.
    pub fn input(&self) -> StepInput<'_> {
        let Rows { ids, positions, output_rows, tables } = &self.input;
        StepInput { ids, positions, output_rows, tables }
    }

    /// The event of a split that was handed over, or of the last before it that was.
    pub fn split(&self, id: SplitId) -> Option<Event> {
        begun(&self.splits[id])
    }

    /// The event of a transfer that was begun.
    pub fn transfer(&self, id: TransferId) -> Option<Event> {
        begun(&self.transfers[id])
    }

    /// The event of an upload, or of the last before it that brought anything.
    pub fn upload(&self, id: UploadId) -> Option<Event> {
        begun(&self.uploads[id])
    }

    /// What knows the experts of an upload, in a step that brings no others.
    pub fn routed(&self, id: UploadId) -> Option<&Routed> {
        self.what.bucket.fetches[id].routed.as_ref().filter(|routed| routed.decides(&self.input()))
    }

    /// What must be done before an item of this step.
    pub fn need(&self, placed: &Placed) -> Option<(LaneId, u64)> {
        let routed = match placed.item {
            Item::Fetch(upload) => self.routed(upload).and(placed.need_routed),
            Item::Input(_) | Item::Run(..) | Item::Offer | Item::Take(..) | Item::Taken => None,
            Item::Logits(_) | Item::End => None,
        };
        routed.or(placed.need)
    }

    /// A split was handed over.
    pub fn ran(&self, id: SplitId, event: Event) {
        self.splits[id].store(event.0, Ordering::Release);
    }

    /// A transfer was begun.
    pub fn took(&self, id: TransferId, event: Event) {
        self.transfers[id].store(event.0, Ordering::Release);
    }

    /// An upload was begun.
    pub fn fetched(&self, id: UploadId, event: Event) {
        self.uploads[id].store(event.0, Ordering::Release);
    }

    /// Notes why it failed; the first counts.
    pub fn fail(&self, why: BackendError) {
        locked(&self.why).get_or_insert(why);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether it has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Why it failed, if it did.
    pub fn failure(&mut self) -> Option<BackendError> {
        unpoisoned(&mut self.why).take()
    }

    /// Notes what a lane has done since `start`, if times are wanted.
    pub fn note(&self, lane: plan::Lane, what: plan::Activity, start: Option<Nanos>, bytes: Bytes) {
        if let (Some(start), Some(end)) = (start, self.now()) {
            let event = plan::Event { step: 0, lane, what, start, end, bytes };
            locked(&self.trace).push(event);
        }
    }

    /// What was noted, in the order in which it began.
    pub fn events(&mut self) -> Vec<plan::Event> {
        let mut events = std::mem::take(unpoisoned(&mut self.trace));
        events.sort_by_key(|event| (event.start, event.end, event.lane));
        events
    }

    /// The time, if times are wanted.
    pub fn now(&self) -> Option<Nanos> {
        self.clock.map(|clock| Nanos(clock.elapsed().as_nanos() as u64))
    }
}

impl Rows {
    fn set(&mut self, input: &StepInput<'_>) {
        let StepInput { ids, positions, output_rows, tables } = *input;
        for (own, given) in
            [(&mut self.ids, ids), (&mut self.positions, positions), (&mut self.output_rows, output_rows)]
        {
            own.clear();
            own.extend_from_slice(given);
        }
        self.tables.truncate(tables.len());
        self.tables.resize_with(tables.len(), CellTable::default);
        for (own, given) in self.tables.iter_mut().zip(tables) {
            own.cells.clone_from(&given.cells);
            own.sequences.clone_from(&given.sequences);
            own.pages.clone_from(&given.pages);
            own.live.clone_from(&given.live);
        }
    }
}

/// Room for so many events, none of which has come.
fn events<I: crate::index::Id>(of: &mut IndexVec<I, AtomicU64>, count: usize) {
    of.ids().for_each(|id| *of[id].get_mut() = 0);
    while of.len() < count {
        of.push(AtomicU64::new(0));
    }
}

/// The event that was noted, if one was.
fn begun(noted: &AtomicU64) -> Option<Event> {
    let event = noted.load(Ordering::Acquire);
    (event > 0).then_some(Event(event))
}

/// What a mutex guards, also if somebody panicked with it.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same of one that nobody else has.
pub(super) fn unpoisoned<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}
