//! The lanes of a session: how far each has come, and the threads that go along them. A step that has nothing to do at the
//! same time, while no other is under way, is gone along by the caller; any other by a thread a lane. So several steps of
//! a prompt are under way together, each on another device. Threads start when they are first needed and end with the session.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::ExecError;
use super::devices::Devices;
use super::flight::{Flight, Prepared, Step, locked};
use super::items::{LaneId, Placed, device_of};
use super::step::{Doing, Lane};
use crate::backend::BackendError;
use crate::graph::{Batch, RowDim};
use crate::index::{Id, IndexVec};
use crate::units::Tokens;

/// A lane that waits looks this often before it sleeps: a few microseconds, less than waking takes.
const LOOKS: u32 = 1000;

/// All lanes of a session.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Items that each lane has been given.
    given: IndexVec<LaneId, u64>,
}

/// What threads have in common.
struct Shared {
    devices: Arc<Devices>,
    lanes: IndexVec<LaneId, Mutex<Lane>>,
    /// Items that each lane has done since the session began.
    done: IndexVec<LaneId, AtomicU64>,
    /// Steps that were handed over since the session began.
    posted: AtomicU64,
    /// Who sleeps.
    asleep: AtomicU32,
    hall: Mutex<Hall>,
    changed: Condvar,
}

/// Steps handed over and not taken back.
#[derive(Default)]
struct Hall {
    flights: VecDeque<(u64, Arc<Flight>)>,
    closed: bool,
}

impl Lanes {
    /// Two lanes a device.
    pub fn new(devices: &Arc<Devices>) -> Lanes {
        let count = 2 * devices.all.len();
        let shared = Shared {
            devices: Arc::clone(devices),
            lanes: (0..count).map(|_| Mutex::default()).collect(),
            done: (0..count).map(|_| AtomicU64::new(0)).collect(),
            posted: AtomicU64::new(0),
            asleep: AtomicU32::new(0),
            hall: Mutex::new(Hall { flights: VecDeque::with_capacity(count), closed: false }),
            changed: Condvar::new(),
        };
        Lanes { shared: Arc::new(shared), threads: Vec::new(), given: (0..count).map(|_| 0).collect() }
    }

    /// Makes room for the copies of steps of `what`, whose batch is `batch`.
    pub fn reserve(&self, what: &Prepared, batch: Batch) {
        for (id, lane) in self.shared.lanes.iter_ids() {
            locked(lane).reserve(id, &what.bucket, batch);
        }
    }

    /// Begins a step behind all that were begun before.
    ///
    /// # Errors
    /// The system refuses the threads.
    pub fn post(&mut self, flight: &Arc<Flight>) -> Result<(), ExecError> {
        self.start()?;
        let number = self.shared.posted.load(Ordering::Relaxed);
        self.place(&mut flight.idle(), Some(number));
        let shared = &self.shared;
        let mut hall = locked(&shared.hall);
        hall.flights.push_back((number, Arc::clone(flight)));
        shared.posted.store(number + 1, Ordering::Release);
        drop(hall);
        shared.changed.notify_all();
        Ok(())
    }

    /// Returns when a step that was posted has ended, the oldest that was not taken back.
    pub fn take_back(&self, flight: &Flight) {
        let step = flight.step();
        for (lane, items) in step.what.items.lanes.iter_ids() {
            self.shared.reach(lane, step.base[lane] + items.len() as u64);
        }
        drop(step);
        locked(&self.shared.hall).flights.pop_front();
    }

    /// Goes along a whole step on this thread; no other is under way.
    pub fn along(&mut self, flight: &Flight) {
        self.place(&mut flight.idle(), None);
        let step = flight.step();
        for placed in &step.what.items.all {
            self.shared.perform(&step, placed, &mut locked(&self.shared.lanes[placed.lane]));
        }
    }

    /// Gives a step its place behind those before.
    fn place(&mut self, step: &mut Step, number: Option<u64>) {
        step.number = number;
        let Step { what, base, .. } = step;
        for (lane, items) in what.items.lanes.iter_ids() {
            base[lane] = self.given[lane];
            self.given[lane] += items.len() as u64;
        }
    }

    /// Starts a thread a lane, if there are none.
    fn start(&mut self) -> Result<(), ExecError> {
        let refused = |why: std::io::Error| ExecError::Threads(why.to_string());
        while self.threads.len() < self.shared.lanes.len() {
            let (shared, lane) = (Arc::clone(&self.shared), LaneId::from_index(self.threads.len()));
            let next = self.shared.posted.load(Ordering::Relaxed);
            let name = format!("lane {}", lane.0);
            let thread = std::thread::Builder::new().name(name).spawn(move || shared.follow(lane, next));
            self.threads.push(thread.map_err(refused)?);
        }
        Ok(())
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        locked(&self.shared.hall).closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // Items do not panic through; a thread that still died has nothing more to say.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Goes along one lane in every step from `next` on.
    fn follow(&self, lane: LaneId, mut next: u64) {
        while let Some((number, flight)) = self.flight(next) {
            let step = flight.step();
            next = number + 1;
            // Nobody waits for a lane that has nothing to do: by now it may be another step.
            if step.number != Some(number) {
                continue;
            }
            let mut own = locked(&self.lanes[lane]);
            for &at in &step.what.items.lanes[lane] {
                self.perform(&step, &step.what.items.all[at], &mut own);
            }
        }
    }

    /// The first step from that number on, once it is there; none where the session ends. One that was taken back had
    /// nothing to do for who looks for it.
    fn flight(&self, number: u64) -> Option<(u64, Arc<Flight>)> {
        self.look(|| self.posted.load(Ordering::Acquire) > number);
        let mut hall = locked(&self.hall);
        loop {
            if let Some((number, flight)) = hall.flights.iter().find(|(posted, _)| *posted >= number) {
                return Some((*number, Arc::clone(flight)));
            }
            if hall.closed {
                return None;
            }
            hall = self.changed.wait(hall).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does an item once what it needs is done. What goes wrong in it is the step's failure.
    fn perform(&self, step: &Step, placed: &Placed, lane: &mut Lane) {
        let idle = placed.outputs && step.input().rows(RowDim::Outputs) == Tokens(0);
        if let Some((needed, count)) = step.need(placed).filter(|_| !idle) {
            self.reach(needed, step.base[needed] + count);
        }
        let device = device_of(placed.lane);
        let mut doing = Doing { devices: &self.devices, step, lane, device };
        let done = catch_unwind(AssertUnwindSafe(|| match idle {
            true => {
                doing.pass(placed.item);
                Ok(())
            }
            false => doing.item(placed.item),
        }));
        let panicked = || {
            let (device, why) = (self.devices.all[device].backend.spec().name.clone(), "its backend panicked".into());
            Err(BackendError::Worker { device, why })
        };
        if let Err(why) = done.unwrap_or_else(|_| panicked()) {
            step.fail(why);
        }
        self.advance(placed.lane);
    }

    fn advance(&self, lane: LaneId) {
        self.done[lane].fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            // Whoever goes to sleep has looked while it held the hall.
            drop(locked(&self.hall));
            self.changed.notify_all();
        }
    }

    /// Returns when a lane has done so many items.
    fn reach(&self, lane: LaneId, count: u64) {
        let there = || self.done[lane].load(Ordering::SeqCst) >= count;
        if self.look(there) {
            return;
        }
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let mut hall = locked(&self.hall);
        while !there() {
            hall = self.changed.wait(hall).unwrap_or_else(PoisonError::into_inner);
        }
        drop(hall);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Looks for a while whether something is so.
    fn look(&self, there: impl Fn() -> bool) -> bool {
        (0..LOOKS).any(|_| {
            let so = there();
            if !so {
                std::hint::spin_loop();
            }
            so
        })
    }
}
