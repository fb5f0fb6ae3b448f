//! The workers of one CPU device: a region runs a number of stages on all of them, with a barrier after each.
//!
//! Worker 0 is the thread that calls `run`; the others are the threads of one rayon pool that wait in a loop of ours,
//! so that a region costs no allocation and a stage one barrier. Work inside a stage is taken, not dealt: workers
//! claim chunks from a shared counter, so a slow worker takes fewer. Spinning is bounded, then a waiter parks.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Waiters spin this often before they park: longer than any stage change takes, far shorter than a time slice.
const SPINS: u32 = 20_000;

/// Stack of a worker: kernels hold tiles of vectors, many times as large where nothing is optimised.
const STACK: usize = 16 << 20;

/// A pool of workers; dropping it ends them and waits until they have ended.
pub struct Pool {
    shared: Arc<Shared>,
    workers: usize,
    cores: Vec<usize>,
    /// Held while a region runs: worker 0 is whoever holds it.
    caller: Mutex<()>,
    threads: Option<Threads>,
}

/// One worker in one stage.
pub struct Worker<'a> {
    /// Its number, from 0.
    pub index: usize,
    claimed: &'a AtomicUsize,
    failed: &'a AtomicBool,
}

impl Worker<'_> {
    /// Claims chunks `0..chunks` of the stage until none is left, handing each to `chunk`. Call it once a stage.
    pub fn claim(&self, chunks: usize, mut chunk: impl FnMut(usize)) {
        loop {
            let next = self.claimed.fetch_add(1, Ordering::Relaxed);
            if next >= chunks || self.failed.load(Ordering::Relaxed) {
                return;
            }
            chunk(next);
        }
    }
}

type Job<'a> = &'a (dyn Fn(&Worker<'_>, usize) + Sync);

/// A region's stages and function; the reference is valid until the region's last barrier.
#[derive(Clone, Copy)]
struct Region {
    stages: usize,
    job: Job<'static>,
}

#[derive(Default)]
struct Shared {
    /// Changes when a region starts.
    start: Gate,
    /// Changes when all workers have finished a stage.
    stage: Gate,
    arrived: AtomicUsize,
    /// Next unclaimed chunk; two counters, so that one is cleared while the other is in use.
    claims: [AtomicUsize; 2],
    failed: AtomicBool,
    stop: AtomicBool,
    region: Mutex<Option<Region>>,
}

impl Pool {
    /// A pool of `workers`, pinned to one core each where there are as many.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(workers: usize) -> Result<Pool, rayon::ThreadPoolBuildError> {
        let workers = workers.max(1);
        let cores = Some(allowed_cores()).filter(|c| c.len() >= workers).unwrap_or_default();
        let shared = Arc::new(Shared::default());
        let threads = (workers > 1).then(|| start_threads(&shared, workers, &cores)).transpose()?;
        Ok(Pool { shared, workers, cores, caller: Mutex::new(()), threads })
    }

    /// Runs `job(worker, stage)` on every worker for each of `stages`, all workers finishing a stage before the next.
    /// Returns `false` if a worker panicked; the rest of the region is then skipped.
    pub fn run(&self, stages: usize, job: Job<'_>) -> bool {
        // A region without a barrier would not tell when the others have seen it.
        if stages == 0 {
            return true;
        }
        let _caller = relock(self.caller.lock());
        self.shared.failed.store(false, Ordering::Relaxed);
        let known = self.shared.stage.value();
        // SAFETY: only the lifetime changes. Workers call `job` before the region's last barrier, this thread leaves
        // the function after it, and a worker takes the reference anew from the mutex for every region.
        let job = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        let region = Region { stages, job };
        *relock(self.shared.region.lock()) = Some(region);
        let pinned = self.cores.first().map(|&core| Pinned::to(core));
        self.shared.start.open();
        work(&self.shared, region, 0, self.workers, known);
        drop(pinned);
        *relock(self.shared.region.lock()) = None;
        !self.shared.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.start.open();
        if let Some(Threads { pool, handles }) = self.threads.take() {
            drop(pool);
            for handle in handles {
                // A worker's panics end in `work`; one that still died has nothing more to say.
                let _ = handle.join();
            }
        }
    }
}

/// Takes one worker through a region. `known` is the stage gate's value at its start.
fn work(shared: &Shared, region: Region, index: usize, workers: usize, known: u32) {
    for stage in 0..region.stages {
        let known = known.wrapping_add(stage as u32);
        let claimed = &shared.claims[(known & 1) as usize];
        if !shared.failed.load(Ordering::Relaxed) {
            let worker = Worker { index, claimed, failed: &shared.failed };
            if catch_unwind(AssertUnwindSafe(|| (region.job)(&worker, stage))).is_err() {
                shared.failed.store(true, Ordering::SeqCst);
            }
        }
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == workers {
            shared.arrived.store(0, Ordering::Relaxed);
            claimed.store(0, Ordering::Relaxed);
            shared.stage.open();
        } else {
            shared.stage.wait(known);
        }
    }
}

/// The workers beside the caller.
struct Threads {
    pool: rayon::ThreadPool,
    handles: Vec<std::thread::JoinHandle<()>>,
}

/// Starts the workers beside the caller; each waits for regions until the pool is dropped.
fn start_threads(
    shared: &Arc<Shared>,
    workers: usize,
    cores: &[usize],
) -> Result<Threads, rayon::ThreadPoolBuildError> {
    let mut handles = Vec::with_capacity(workers - 1);
    let builder = rayon::ThreadPoolBuilder::new().num_threads(workers - 1).spawn_handler(|thread| {
        let name = format!("cpu-worker-{}", thread.index() + 1);
        handles.push(std::thread::Builder::new().name(name).stack_size(STACK).spawn(|| thread.run())?);
        Ok(())
    });
    let pool = builder.build()?;
    let known = shared.start.value();
    let (shared, cores) = (Arc::clone(shared), cores.to_vec());
    pool.spawn_broadcast(move |context| {
        let index = context.index() + 1;
        // The affinity holds for the thread's whole life.
        let _pinned = cores.get(index).map(|&core| Pinned::to(core));
        serve(&shared, index, workers, known);
    });
    Ok(Threads { pool, handles })
}

fn serve(shared: &Shared, index: usize, workers: usize, mut known: u32) {
    // Regions cannot start before this worker has left the last one, so the gate is one ahead at most.
    let mut stage = 0u32;
    loop {
        shared.start.wait(known);
        known = known.wrapping_add(1);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let region = *relock(shared.region.lock());
        if let Some(region) = region {
            work(shared, region, index, workers, stage);
            stage = stage.wrapping_add(region.stages as u32);
        }
    }
}

/// A number that only grows; waiters wait until it leaves the value they know.
#[derive(Default)]
struct Gate {
    value: AtomicU32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Gate {
    fn value(&self) -> u32 {
        self.value.load(Ordering::Acquire)
    }

    fn wait(&self, known: u32) {
        for _ in 0..SPINS {
            if self.value() != known {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = relock(self.lock.lock());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.value.load(Ordering::SeqCst) == known {
            guard = relock(self.wake.wait(guard));
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn open(&self) {
        self.value.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // A sleeper counts itself under the lock and then checks the value, so taking the lock here means it
            // either saw the new value or waits on the condition already.
            drop(relock(self.lock.lock()));
            self.wake.notify_all();
        }
    }
}

fn relock<'a, T>(guard: Result<MutexGuard<'a, T>, PoisonError<MutexGuard<'a, T>>>) -> MutexGuard<'a, T> {
    guard.unwrap_or_else(PoisonError::into_inner)
}

/// Binds the current thread to one core; gives its former cores back when dropped.
struct Pinned {
    before: Option<libc::cpu_set_t>,
}

impl Pinned {
    fn to(core: usize) -> Pinned {
        let before = affinity();
        // SAFETY: an all-zero cpu_set_t is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `core` came out of a cpu_set_t, so it is in range; both calls only touch `set`. A refusal leaves
        // the thread where it was, which is slower and not wrong.
        unsafe {
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
        Pinned { before }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(set) = &self.before {
            // SAFETY: `set` is a set that the system gave out for this thread.
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) };
        }
    }
}

/// The cores that this process may use, ascending; empty where the system does not say.
fn allowed_cores() -> Vec<usize> {
    let Some(set) = affinity() else { return Vec::new() };
    // SAFETY: every index below CPU_SETSIZE is in range of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

fn affinity() -> Option<libc::cpu_set_t> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes at most the size it is given into `set`.
    let rc = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    (rc == 0).then_some(set)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::Pool;

    #[test]
    fn every_chunk_of_every_stage_is_claimed_once_and_stages_do_not_mix() {
        for workers in [1, 2, 3, 8] {
            let pool = Pool::new(workers).unwrap();
            for round in 0..200 {
                let chunks = 1 + round % 17;
                let counts: Vec<AtomicUsize> = (0..5 * chunks).map(|_| AtomicUsize::new(0)).collect();
                let done = AtomicUsize::new(0);
                let ok = pool.run(5, &|worker, stage| {
                    worker.claim(chunks, |chunk| {
                        assert!(done.load(Ordering::SeqCst) >= stage * chunks, "stage {stage} began too early");
                        counts[stage * chunks + chunk].fetch_add(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                });
                assert!(ok && counts.iter().all(|c| c.load(Ordering::SeqCst) == 1));
            }
        }
    }

    #[test]
    fn a_slow_worker_takes_few_chunks() {
        let pool = Pool::new(4).unwrap();
        let taken: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        pool.run(1, &|worker, _| {
            worker.claim(400, |_| {
                // The throttled worker holds each chunk for as long as a hundred others take.
                std::thread::sleep(Duration::from_micros(if worker.index == 1 { 20_000 } else { 200 }));
                taken[worker.index].fetch_add(1, Ordering::SeqCst);
            });
        });
        let taken: Vec<usize> = taken.iter().map(|t| t.load(Ordering::SeqCst)).collect();
        assert_eq!(taken.iter().sum::<usize>(), 400);
        assert!(taken[1] < 40, "{taken:?}");
    }

    #[test]
    fn a_panic_in_a_worker_ends_the_region_and_not_the_pool() {
        let pool = Pool::new(3).unwrap();
        for guilty in 0..3 {
            let ok = pool.run(4, &|worker, stage| assert!(stage != 1 || worker.index != guilty, "on purpose"));
            assert!(!ok);
            assert!(pool.run(4, &|worker, _| worker.claim(10, |_| {})));
        }
    }
}
