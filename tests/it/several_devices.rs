//! Plans over several devices give the logits of one: several CPUs, each over a memory of its own, stand for cards.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use loadmaster::backend::{
    self, Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTable,
    CellTurn, Event, HostBytes, ProgramId, Queue, SplitWork,
};
use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use loadmaster::exec::{ExecError, GraphSource, Session, SessionLimits, Setup, StepInput, dealt, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph, StateId};
use loadmaster::index::CacheClassId;
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{Offload, Policy};
use loadmaster::residency::{Axis, Home, Residency, WeightSlice};
use loadmaster::synth::{ModelShape, Synth, named, names};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

use crate::hooked::{Fuse, burn, faulty, pass_on};
use crate::reference::nmse;

const WHOLE: CacheClassId = CacheClassId::WHOLE;

/// Graphs of one model with one kind of cache.
pub struct Source {
    pub model: Model,
    pub cache: CacheSpec,
}

impl GraphSource for Source {
    fn graph(&self, batch: Batch) -> Result<Graph, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.model.graph(batch, self.cache)?)
    }
}

pub fn tiny() -> Vec<&'static str> {
    let tiny: Vec<&str> = names().filter(|n| n.ends_with("-tiny")).collect();
    assert!(tiny.len() >= 6, "{tiny:?}");
    tiny
}

/// A tiny model with two more layers than it has, so that there is something to deal.
pub fn deeper(shape: &str) -> ModelShape {
    let shape = named(shape).unwrap();
    ModelShape { layers: shape.layers + 2, rope_factors: shape.arch == "llama", ..shape }
}

pub fn made(shape: &ModelShape, dtype: DType) -> Arc<Gguf> {
    let bytes = Synth::new(shape, dtype, 3).unwrap().to_bytes().unwrap();
    Arc::new(Gguf::from_bytes(&shape.name, bytes).unwrap())
}

const TOKENS: u32 = 40;

pub fn setup(machine: Machine) -> Setup<'static> {
    Setup::new(machine, SessionLimits { tokens: Tokens(TOKENS), outputs: Tokens(TOKENS) })
}

pub fn open(
    gguf: &Arc<Gguf>,
    cache: DType,
    setup: Setup<'_>,
    homes: impl FnOnce(&Graph, &Machine) -> Residency,
) -> Result<Session, ExecError> {
    open_with(gguf, CacheSpec { cells: Tokens(48), keys: cache, values: cache, sliding: None }, setup, homes)
}

/// A session with any cache.
pub fn open_with(
    gguf: &Arc<Gguf>,
    cache: CacheSpec,
    setup: Setup<'_>,
    homes: impl FnOnce(&Graph, &Machine) -> Residency,
) -> Result<Session, ExecError> {
    let source = Source { model: Model::from_gguf(gguf).unwrap(), cache };
    Session::open(Box::new(source), gguf, setup, homes, &|_, _| {})
}

/// The logits of all tokens of a sequence, `batch` at a time, from a session whose cache it has for itself.
pub fn logits(session: &mut Session, batch: u32) -> Result<Vec<f32>, ExecError> {
    let mut all = Vec::new();
    for first in (0..TOKENS).step_by(batch as usize) {
        let places: Vec<u32> = (first..TOKENS.min(first + batch)).collect();
        let ids: Vec<u32> = places.iter().map(|i| i * 37 % 500).collect();
        let (rows, length) = (places.len() as u32, Tokens(first + places.len() as u32));
        let wanted: Vec<u32> = (0..rows).collect();
        // Pages of the cache in an order of their own.
        let pages = [2, 0, 1];
        let cells: Vec<u32> = places.iter().map(|&i| pages[i as usize / 16] * 16 + i % 16).collect();
        let step = StepInput {
            ids: &ids,
            positions: &places,
            output_rows: &wanted,
            tables: &[CellTable::single(&cells, length, &pages[..length.pages() as usize])],
        };
        all.extend_from_slice(session.step(&step)?);
    }
    Ok(all)
}

pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

pub fn single() -> Machine {
    Machine::single(BackendKind::Cpu, 2, Bytes(1 << 32))
}

pub fn isolated(count: u32) -> Machine {
    Machine::isolated(BackendKind::Cpu, count, 2, Bytes(1 << 32))
}

/// The logits of one device.
pub fn of_one(gguf: &Arc<Gguf>, cache: DType) -> Vec<f32> {
    let mut one = open(gguf, cache, setup(single()), |graph, _| homes(graph, gguf, MemoryId(0), false)).unwrap();
    let all = logits(&mut one, TOKENS).unwrap();
    assert!(all.iter().all(|x| x.is_finite()) && all.iter().any(|&x| x != all[0]));
    all
}

#[test]
fn layers_dealt_over_three_devices_give_the_bits_of_one() {
    for (i, shape) in tiny().into_iter().enumerate() {
        let dtype = [DType::Q4K, DType::F16, DType::Q5_1][i % 3];
        let gguf = made(&deeper(shape), dtype);
        let expected = bits(&of_one(&gguf, DType::F16));
        for budgets in [[1, 1, 1], [1, 4, 2]] {
            let mut machine = isolated(3);
            for (memory, share) in machine.memories.ids().zip(budgets) {
                machine.memories[memory].free = Bytes(share << 30);
            }
            let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, i % 2 == 1);
            let mut several = open(&gguf, DType::F16, setup(machine), deal).unwrap();
            assert!(several.memories().iter().all(|m| m.arenas > Bytes::ZERO), "{shape}: a device has nothing to do");
            for batch in [TOKENS, 1, 7] {
                let found = bits(&logits(&mut several, batch).unwrap());
                assert!(found == expected, "{shape} {dtype}: {budgets:?}, {batch} tokens at a time");
            }
        }
    }
}

/// Everything in the first memory but the experts, which are cut at `cuts` into runs in the memories `of`.
pub fn experts_apart(graph: &Graph, gguf: &Gguf, cuts: &[u32], of: &[MemoryId]) -> Residency {
    let mut residency = homes(graph, gguf, MemoryId(0), false);
    for (id, weight) in graph.weights().iter_ids().filter(|(_, w)| w.name.contains("_exps")) {
        let ends: Vec<u32> = cuts.iter().copied().chain([weight.count]).collect();
        let whole = residency.weights[id][0].clone();
        let run = |i: usize| {
            let range = if i == 0 { 0 } else { ends[i - 1] }..ends[i];
            Home { slice: WeightSlice { range, ..whole.slice.clone() }, memory: of[i], ..whole.clone() }
        };
        residency.weights[id] = (0..ends.len()).map(run).collect();
    }
    residency
}

/// Cutting changes only the order in which a row's weighted expert outputs are added: of at most four terms and a sum a
/// device, each addition rounds by 2^-24 of what it adds, so a layer changes a row by a few of those. In single precision
/// throughout, four layers keep the mean square of the difference far below 1e-10 of that of the logits. Where products
/// quantise activations to 8 bits, or the cache rounds to 11, a changed last bit may move an element by a whole step of
/// those, and a router near a tie may choose another expert: 2e-3, as between two engines (see `oracle`).
const EXPERT_CASES: [(&str, DType, DType, f64); 5] = [
    ("mixtral-tiny", DType::F32, DType::F32, 1e-10),
    ("qwen3moe-tiny", DType::F32, DType::F32, 1e-10),
    ("deepseek2-tiny", DType::F32, DType::F32, 1e-10),
    ("qwen3moe-tiny", DType::Q4K, DType::F16, 2e-3),
    ("deepseek2-lite-tiny", DType::Q5_1, DType::F16, 2e-3),
];

#[test]
fn runs_of_experts_on_several_devices_give_the_logits_of_one_but_for_rounding() {
    for (shape, dtype, cache, bound) in EXPERT_CASES {
        let gguf = made(&deeper(shape), dtype);
        let expected = of_one(&gguf, cache);
        for (cuts, memories) in [(&[2][..], &[0, 1][..]), (&[1, 3], &[2, 0, 1]), (&[1, 2], &[1, 0, 1])] {
            let what = format!("{shape} {dtype}: cut at {cuts:?}");
            let run = |machine: Machine, of: &[u32]| {
                let of: Vec<MemoryId> = of.iter().map(|&m| MemoryId(m)).collect();
                let apart = |graph: &Graph, _: &Machine| experts_apart(graph, &gguf, cuts, &of);
                let mut session = open(&gguf, cache, setup(machine), apart).unwrap();
                let all = logits(&mut session, TOKENS).unwrap();
                for batch in [TOKENS, 1] {
                    assert!(bits(&logits(&mut session, batch).unwrap()) == bits(&all), "{what}: {batch} at a time");
                }
                all
            };
            let several = run(isolated(3), memories);
            let error = nmse(&several, &expected);
            eprintln!("{what}: nmse {error:.3e}");
            assert!(error <= bound, "{what}: {error:.3e}");
            // The same runs on one device add in the same order.
            assert!(bits(&run(single(), &[0, 0, 0])) == bits(&several), "{what}: on one device");
        }
    }
}

/// Two devices, of which the second is one that weights are streamed to.
pub fn with_accelerator() -> Machine {
    let mut machine = isolated(2);
    machine.devices[DeviceId(1)].accelerator = Some(true);
    machine
}

pub fn streaming(offload: Offload, chunk: u64) -> Policy {
    Policy { offload, chunk: Bytes(chunk), ..Policy::default() }
}

/// Weights with the first device; the cache with the second.
pub fn cache_away(graph: &Graph, gguf: &Gguf, keep_mapping: bool) -> Residency {
    let mut residency = homes(graph, gguf, MemoryId(0), keep_mapping);
    graph.states().iter_ids().for_each(|(id, _)| residency.states[id] = MemoryId(1));
    residency
}

#[test]
fn weights_streamed_to_a_device_give_the_bits_of_one() {
    for (i, shape) in tiny().into_iter().enumerate() {
        let dtype = [DType::Q4K, DType::Q5_1, DType::F16][i % 3];
        let gguf = made(&deeper(shape), dtype);
        let expected = bits(&of_one(&gguf, DType::F16));
        for (keep_mapping, least, chunk) in [(false, 1, 1), (true, 1, 200 << 10), (false, 8, 1 << 20)] {
            let policy = streaming(Offload::AtLeast(Tokens(least)), chunk);
            let setup = Setup { policy, ..setup(with_accelerator()) };
            let away = |graph: &Graph, _: &Machine| cache_away(graph, &gguf, keep_mapping);
            let mut session = open(&gguf, DType::F16, setup, away).unwrap();
            let (ring, all) = (session.memories()[MemoryId(1)].rings, gguf.tensors().iter().map(|t| t.bytes).sum());
            assert!(ring > Bytes::ZERO && (chunk > 1 || ring < all), "{shape}: a ring of {ring} for {all}");
            for batch in [TOKENS, 1, 7, TOKENS] {
                let found = bits(&logits(&mut session, batch).unwrap());
                assert!(found == expected, "{shape} {dtype}: chunks of {chunk}, {batch} tokens at a time");
            }
        }
    }
}

/// The run-time arguments of a split that has not run yet.
struct Kept {
    tokens: Tokens,
    outputs: Tokens,
    tables: Vec<CellTable>,
}

enum Late {
    Write(BufferSpan, Vec<u8>),
    Split(ProgramId, Kept),
    Move(CachesId, Vec<CellMove>),
    Turn(CachesId, Vec<CellTurn>),
    Rows(CachesId, StateId, Vec<u32>, Vec<u8>),
}

/// Work that was asked for; taken once it is done.
struct Asked {
    queue: Queue,
    todo: Option<(Vec<Event>, Late)>,
}

/// A device that does nothing before somebody waits for it, and then what was waited for first and what stands before it
/// in its queue last. What is not waited for as it must be comes out wrong.
struct Lazy {
    inner: Box<dyn Backend>,
    asked: Mutex<Vec<Asked>>,
    /// Splits that are taken before one is refused.
    fuse: Fuse,
}

impl Lazy {
    fn ask(&self, queue: Queue, waits: &[Event], what: Late) -> Event {
        let mut asked = self.asked.lock().unwrap();
        assert!(waits.iter().all(|w| w.0 <= asked.len() as u64), "an event of the future");
        asked.push(Asked { queue, todo: Some((waits.to_vec(), what)) });
        Event(asked.len() as u64)
    }

    fn force(&self, asked: &mut Vec<Asked>, event: Event) -> Result<(), BackendError> {
        let at = event.0 as usize - 1;
        let Some((waits, what)) = asked[at].todo.take() else { return Ok(()) };
        waits.into_iter().try_for_each(|wait| self.force(asked, wait))?;
        self.force_queue(asked, asked[at].queue, at)?;
        match what {
            Late::Write(dst, src) => self.inner.write(asked[at].queue, dst, &src, &[])?,
            Late::Split(program, Kept { tokens, outputs, tables }) => {
                let args = Args { tokens, outputs, tables: &tables };
                self.inner.submit(program, &args, &[])?
            }
            Late::Move(caches, moves) => self.inner.rearrange(caches, &moves, &[])?,
            Late::Turn(caches, turns) => self.inner.turn(caches, &turns, &[])?,
            Late::Rows(caches, state, cells, src) => self.inner.write_cells(caches, state, &cells, &src, &[])?,
        };
        Ok(())
    }

    /// Does what stands in a queue before `end`.
    fn force_queue(&self, asked: &mut Vec<Asked>, queue: Queue, end: usize) -> Result<(), BackendError> {
        let before = (0..end).filter(|&i| asked[i].queue == queue && asked[i].todo.is_some());
        let before: Vec<usize> = before.collect();
        before.into_iter().try_for_each(|i| self.force(asked, Event(i as u64 + 1)))
    }
}

impl Backend for Lazy {
    pass_on!(spec alloc adopt free allocated prepare discard prepare_caches);

    fn write(&self, queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
        Ok(self.ask(queue, waits, Late::Write(dst, src.to_vec())))
    }

    fn read(&self, queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError> {
        let asked = &mut *self.asked.lock().unwrap();
        waits.iter().try_for_each(|&wait| self.force(asked, wait))?;
        self.force_queue(asked, queue, asked.len())?;
        self.inner.read(queue, src, dst, &[])
    }

    fn copy(&self, queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError> {
        let mut bytes = vec![0; src.span.len.index()];
        self.read(queue, src, &mut bytes, waits)?;
        self.write(queue, dst, &bytes, &[])
    }

    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
        let Args { tokens, outputs, tables } = *args;
        let kept = Kept { tokens, outputs, tables: tables.to_vec() };
        burn(&self.fuse, self.spec())?;
        Ok(self.ask(Queue::Compute, waits, Late::Split(program, kept)))
    }

    fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError> {
        Ok(self.ask(Queue::Compute, waits, Late::Move(caches, moves.to_vec())))
    }

    fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError> {
        Ok(self.ask(Queue::Compute, waits, Late::Turn(caches, turns.to_vec())))
    }

    fn read_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), BackendError> {
        let asked = &mut *self.asked.lock().unwrap();
        waits.iter().try_for_each(|&wait| self.force(asked, wait))?;
        self.force_queue(asked, Queue::Compute, asked.len())?;
        self.inner.read_cells(caches, state, cells, dst, &[])
    }

    fn write_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        src: &[u8],
        waits: &[Event],
    ) -> Result<Event, BackendError> {
        Ok(self.ask(Queue::Compute, waits, Late::Rows(caches, state, cells.to_vec(), src.to_vec())))
    }

    fn wait(&self, event: Event) -> Result<(), BackendError> {
        self.force(&mut self.asked.lock().unwrap(), event)
    }
}

/// Every second layer's cache elsewhere: values cross back and forth over bytes that are used again.
fn by_turns(graph: &Graph, gguf: &Gguf) -> Residency {
    let mut residency = homes(graph, gguf, MemoryId(0), false);
    graph.states().iter_ids().for_each(|(id, state)| residency.states[id] = MemoryId(state.layer % 2));
    residency
}

/// A lazy device of `spec`.
pub fn lazy(spec: &DeviceSpec) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(Lazy { inner: backend::open(spec)?, asked: Mutex::default(), fuse: Arc::new(AtomicI64::new(-1)) }))
}

#[test]
fn a_step_waits_for_all_that_it_needs_and_not_for_luck() {
    let gguf = made(&deeper("qwen3moe-tiny"), DType::Q4K);
    let expected = bits(&of_one(&gguf, DType::F16));
    let policy = streaming(Offload::AtLeast(Tokens(1)), 1);
    let same = |expected: &[u32], setup: Setup<'_>, homes: &dyn Fn(&Graph, &Machine) -> Residency| {
        let mut session = open(&gguf, DType::F16, Setup { open: &lazy, ..setup }, homes).unwrap();
        for batch in [TOKENS, 7] {
            assert!(bits(&logits(&mut session, batch).unwrap()) == expected, "{batch} tokens at a time");
        }
    };
    same(&expected, setup(isolated(3)), &|graph, machine| dealt(graph, &gguf, machine, false));
    same(&expected, Setup { policy, ..setup(with_accelerator()) }, &|graph, _| cache_away(graph, &gguf, false));
    same(&expected, setup(isolated(2)), &|graph, _| by_turns(graph, &gguf));
    // Devices that have work at the same time.
    let apart = |graph: &Graph, _: &Machine| {
        experts_apart(graph, &gguf, &[1, 3, 6], &[MemoryId(2), MemoryId(0), MemoryId(1), MemoryId(2)])
    };
    let mut eager = open(&gguf, DType::F16, setup(isolated(3)), apart).unwrap();
    let cut = bits(&logits(&mut eager, TOKENS).unwrap());
    same(&cut, setup(isolated(3)), &apart);
}

/// What a refused split leaves behind on devices that work late does not come into the next step: a value on its way, or
/// weights that are brought ahead.
#[test]
fn a_step_that_failed_leaves_nothing_under_way() {
    let gguf = made(&deeper("qwen3moe-tiny"), DType::Q4K);
    let expected = bits(&of_one(&gguf, DType::F16));
    let fuse: Fuse = Arc::new(AtomicI64::new(-1));
    let late = |spec: &DeviceSpec| -> Result<Box<dyn Backend>, BackendError> {
        Ok(Box::new(Lazy { inner: backend::open(spec)?, asked: Mutex::default(), fuse: Arc::clone(&fuse) }))
    };
    let check = |setup: Setup<'_>, homes: &dyn Fn(&Graph, &Machine) -> Residency| {
        let mut session = open(&gguf, DType::F16, Setup { open: &late, ..setup }, homes).unwrap();
        fuse.store(1 << 40, Ordering::SeqCst);
        logits(&mut session, TOKENS).unwrap();
        let splits = (1 << 40) - fuse.load(Ordering::SeqCst);
        assert!(splits > 2, "{splits}");
        for n in 0..splits {
            fuse.store(n, Ordering::SeqCst);
            logits(&mut session, TOKENS).expect_err("a fault");
            fuse.store(-1, Ordering::SeqCst);
            assert!(
                bits(&logits(&mut session, TOKENS).unwrap()) == expected,
                "after split {n} of {splits} was refused"
            );
        }
    };
    let policy = streaming(Offload::AtLeast(Tokens(1)), 100 << 10);
    check(Setup { policy, ..setup(with_accelerator()) }, &|graph, _| cache_away(graph, &gguf, false));
    check(setup(isolated(2)), &|graph, _| by_turns(graph, &gguf));
}

/// Whichever call of a step fails, on whichever device: the step says so, and the next one is right.
#[test]
fn a_fault_anywhere_in_a_step_is_an_error_and_the_next_step_is_right() {
    let gguf = made(&named("qwen3moe-tiny").unwrap(), DType::Q4K);
    let fuse: Fuse = Arc::new(AtomicI64::new(-1));
    let wrapped = faulty(&fuse);
    let policy = streaming(Offload::AtLeast(Tokens(1)), 100 << 10);
    let setup = Setup { policy, open: &*wrapped, ..setup(with_accelerator()) };
    let mut session = open(&gguf, DType::F16, setup, |graph, _| cache_away(graph, &gguf, false)).unwrap();
    let expected = bits(&logits(&mut session, TOKENS).unwrap());
    fuse.store(1 << 40, Ordering::SeqCst);
    logits(&mut session, TOKENS).unwrap();
    let calls = (1 << 40) - fuse.load(Ordering::SeqCst);
    assert!(calls > 40, "{calls} calls a step");
    for n in 0..calls {
        fuse.store(n, Ordering::SeqCst);
        let error = logits(&mut session, TOKENS).expect_err("a fault").to_string();
        assert!(error.contains("a worker failed: a fault") && error.starts_with("cpu:"), "{error}");
        fuse.store(-1, Ordering::SeqCst);
        assert!(bits(&logits(&mut session, TOKENS).unwrap()) == expected, "after a fault in call {n}");
    }
    // A bucket that cannot be prepared is tried again.
    fuse.store(0, Ordering::SeqCst);
    logits(&mut session, 3).expect_err("a fault in preparing");
    assert!(bits(&logits(&mut session, 3).unwrap()) == expected);
}

/// Whichever call of work on cells fails, on whichever device: the session says so, and the next step is right.
#[test]
fn a_fault_in_work_on_cells_is_an_error_and_the_next_step_is_right() {
    let gguf = made(&deeper("llama-tiny"), DType::Q4K);
    let fuse: Fuse = Arc::new(AtomicI64::new(-1));
    let wrapped = faulty(&fuse);
    let setup = Setup { open: &*wrapped, ..setup(isolated(3)) };
    let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
    let mut session = open(&gguf, DType::F16, setup, deal).unwrap();
    let expected = bits(&logits(&mut session, TOKENS).unwrap());
    let mut row = vec![0; session.cell_bytes(WHOLE).index()];
    let mut work = |session: &mut Session| -> Result<(), ExecError> {
        session.rearrange(WHOLE, &[CellMove { src: 0, dst: 20, len: 9 }])?;
        session.turn(WHOLE, &[CellTurn { first: 3, len: 30, delta: 2 }])?;
        session.read_cells(WHOLE, &[4], &mut row)?;
        session.write_cells(WHOLE, &[5], &row)
    };
    fuse.store(1 << 40, Ordering::SeqCst);
    work(&mut session).unwrap();
    let calls = (1 << 40) - fuse.load(Ordering::SeqCst);
    assert!(calls >= 3 * 2 * 2 + 2, "{calls} calls");
    for n in 0..calls {
        fuse.store(n, Ordering::SeqCst);
        let error = work(&mut session).expect_err("a fault").to_string();
        assert!(error.contains("a worker failed: a fault"), "{error}");
        fuse.store(-1, Ordering::SeqCst);
        assert!(bits(&logits(&mut session, TOKENS).unwrap()) == expected, "after a fault in call {n}");
    }
}

#[test]
fn what_cannot_run_is_refused_with_names_and_bytes() {
    let gguf = made(&named("mixtral-tiny").unwrap(), DType::Q4K);
    let refused = |machine: Machine, homes: &dyn Fn(&Graph, &Machine) -> Residency| {
        open(&gguf, DType::F16, setup(machine), homes).err().unwrap().to_string()
    };
    let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
    let mut short = isolated(3);
    short.memories[MemoryId(1)].free = Bytes(1 << 20);
    let error = refused(short, &|graph, _| {
        let mut residency = deal(graph, &isolated(3));
        residency.weights.ids().for_each(|id| residency.weights[id][0].memory = MemoryId(1));
        residency
    });
    assert!(error.starts_with("cpu:1 needs ") && error.ends_with("its budget is 1.0 MiB"), "{error}");
    let mut shared = isolated(2);
    shared.devices[DeviceId(1)].memory = MemoryId(0);
    let error = refused(shared, &deal);
    assert_eq!(error, "cpu:0 and cpu:1 both compute from cpu:0, needed a memory for each");
    let error = refused(isolated(2), &|graph, machine| {
        let mut residency = deal(graph, machine);
        let experts = graph.weights().iter_ids().find(|(_, w)| w.name.contains("_exps")).unwrap().0;
        residency.weights[experts][0].slice.axis = Axis::Row;
        let whole = residency.weights[experts][0].clone();
        let slice = WeightSlice { axis: Axis::Expert, ..whole.slice.clone() };
        residency.weights[experts].push(Home { slice, ..whole });
        residency
    });
    assert!(error.contains("a home has Row 0..4, needed whole matrices of 4"), "{error}");
}
