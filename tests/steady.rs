//! After warm-up a decode step allocates nothing. A binary of its own, because it counts every allocation there is.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loadmaster::backend::{CellMove, CellTable, CellTurn};
use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId};
use loadmaster::engine::{Engine, EngineOptions, Queue, QueueLimits, Request};
use loadmaster::exec::{GraphSource, Session, SessionLimits, Setup, StepInput, dealt, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph};
use loadmaster::index::CacheClassId;
use loadmaster::kv::{Depth, KvLayout, PagedKv, Writes};
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{Offload, Policy};
use loadmaster::sample::{SampleOptions, Sampler};
use loadmaster::synth::{Synth, named};
use loadmaster::tensor::DType;
use loadmaster::text::TokenId;
use loadmaster::units::{Bytes, Tokens};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are allocated.
static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn made(shape: &str, dtype: DType) -> Gguf {
    Gguf::from_bytes(shape, Synth::new(&named(shape).unwrap(), dtype, 1).unwrap().to_bytes().unwrap()).unwrap()
}

/// Allocations of 100 calls of `step`, after two to warm up.
fn allocations(mut step: impl FnMut(u32)) -> usize {
    (0..2).for_each(&mut step);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (2..102).for_each(&mut step);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

fn options() -> EngineOptions {
    EngineOptions {
        context: Tokens(256),
        step: Tokens(32),
        outputs: Tokens(1),
        threads: 2,
        cache_keys: DType::F16,
        cache_values: DType::F16,
        keep_mapping: false,
        together: 1,
        layout: KvLayout::default(),
        sequences: 1,
        gpu_layers: None,
        fitted: false,
        offload: Offload::Auto,
        budget: Bytes(1 << 32),
    }
}

/// Layers on one device, or dealt over two.
fn on_devices(gguf: Gguf, devices: u32) -> usize {
    let machine = Machine::isolated(BackendKind::Cpu, devices, 2, Bytes(1 << 32));
    let mut engine = Engine::open_on(machine, gguf, options(), &|_, _| {}).unwrap();
    let sequence = engine.start();
    engine.feed(sequence, &[1, 2, 3, 4, 5]).unwrap();
    allocations(|id| _ = engine.feed(sequence, &[id]).unwrap())
}

/// Sixteen requests that generate side by side, greedy and drawn.
fn batched() -> usize {
    let bytes = include_bytes!("../graphs/shipped/stories-1m.gguf");
    let options = EngineOptions { context: Tokens(16 * 160), outputs: Tokens(16), ..options() };
    let mut engine = Engine::open(Gguf::from_static("shipped", bytes).unwrap(), options, &|_, _| {}).unwrap();
    let mut queue = Queue::new(&mut engine, QueueLimits { sequences: 16, length: Tokens(160) }).unwrap();
    for i in 0..16 {
        let temperature = if i % 2 == 0 { 0.0 } else { 0.8 };
        let sampler = Sampler::new(SampleOptions { temperature, ..SampleOptions::default() }).unwrap();
        let prompt = (0..3 + i).map(TokenId).collect();
        queue
            .submit(Request { sequence: None, prompt, most: Some(130), sampler, ignore_end: true, shift: None })
            .unwrap();
    }
    (0..20).for_each(|_| _ = queue.step(&mut |_, _| true).unwrap());
    let allocated = allocations(|_| _ = queue.step(&mut |_, _| true).unwrap());
    assert_eq!(queue.load(), (0, 16));
    allocated
}

/// Bytes by which memory has grown after requests have come and gone for a long time, over what it was after a short one.
fn grown() -> isize {
    let bytes = include_bytes!("../graphs/shipped/stories-1m.gguf");
    let options = EngineOptions { context: Tokens(1024), outputs: Tokens(16), ..options() };
    let mut engine = Engine::open(Gguf::from_static("shipped", bytes).unwrap(), options, &|_, _| {}).unwrap();
    let mut queue = Queue::new(&mut engine, QueueLimits { sequences: 16, length: Tokens(64) }).unwrap();
    let mut after = |steps: u32| {
        for i in 0..steps {
            if i % 2 == 0 && queue.load().0 < 4 {
                let sampler = Sampler::new(SampleOptions::default()).unwrap();
                let prompt = (0..1 + i % 23).map(TokenId).collect();
                let (most, shift) = (Some((i % 90) as usize), (i % 3 == 0).then_some(Tokens(16)));
                let most = most.filter(|_| shift.is_some()).or(Some((i % 40) as usize));
                queue.submit(Request { sequence: None, prompt, most, sampler, ignore_end: true, shift }).unwrap();
            }
            queue.step(&mut |_, _| true).unwrap();
            while queue.finished().is_some() {}
        }
        while queue.step(&mut |_, _| true).unwrap() {}
        while queue.finished().is_some() {}
        LIVE.load(Ordering::Relaxed) as isize
    };
    let short = after(300);
    after(1500) - short
}

struct Source(Model);

impl GraphSource for Source {
    fn graph(&self, batch: Batch) -> Result<Graph, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self
            .0
            .graph(batch, CacheSpec { cells: Tokens(128), keys: DType::F16, values: DType::F16, sliding: None })?)
    }
}

/// Weights with one device, streamed to the other that has the cache.
fn streamed(gguf: Gguf) -> usize {
    let mut machine = Machine::isolated(BackendKind::Cpu, 2, 2, Bytes(1 << 32));
    machine.devices[DeviceId(1)].accelerator = Some(true);
    let gguf = Arc::new(gguf);
    let policy = Policy { offload: Offload::AtLeast(Tokens(1)), chunk: Bytes(64 << 10), ..Policy::default() };
    let limits = SessionLimits { tokens: Tokens(32), outputs: Tokens(1) };
    let setup = Setup { policy, ..Setup::new(machine, limits) };
    let away = |graph: &Graph, _: &Machine| {
        let mut residency = homes(graph, &gguf, MemoryId(0), false);
        graph.states().iter_ids().for_each(|(id, _)| residency.states[id] = MemoryId(1));
        residency
    };
    let source = Box::new(Source(Model::from_gguf(&gguf).unwrap()));
    let mut session = Session::open(source, &gguf, setup, away, &|_, _| {}).unwrap();
    assert!(session.memory().rings > Bytes::ZERO);
    let mut table = CellTable::single(&[0], Tokens(1), &[0, 1, 2, 3, 4, 5, 6, 7]);
    allocations(|at| {
        table.cells[0] = at;
        table.sequences[0].length = Tokens(at + 1);
        let step = StepInput { ids: &[at], positions: &[at], output_rows: &[0], tables: std::slice::from_ref(&table) };
        session.step(&step).unwrap();
    })
}

/// Cells of caches on two devices: moved, turned, read and written, and attended to with holes between them.
fn rearranged(gguf: Gguf) -> usize {
    let machine = Machine::isolated(BackendKind::Cpu, 2, 2, Bytes(1 << 32));
    let gguf = Arc::new(gguf);
    let limits = SessionLimits { tokens: Tokens(8), outputs: Tokens(1) };
    let source = Box::new(Source(Model::from_gguf(&gguf).unwrap()));
    let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
    let mut session = Session::open(source, &gguf, Setup::new(machine, limits), deal, &|_, _| {}).unwrap();
    let all = CacheClassId::WHOLE;
    let mut rows = vec![0; 3 * session.cell_bytes(all).index()];
    let table = CellTable { live: vec![0xf0, 0x3], ..CellTable::single(&[17], Tokens(6), &[3, 1]) };
    allocations(|at| {
        let first = at % 50;
        session.rearrange(all, &[CellMove { src: first, dst: first + 17, len: 40 }]).unwrap();
        session.turn(all, &[CellTurn { first, len: 40, delta: -3 }]).unwrap();
        session.read_cells(all, &[first, 5, 90], &mut rows).unwrap();
        session.write_cells(all, &[6, first, 7], &rows).unwrap();
        let step = StepInput { ids: &[at], positions: &[at], output_rows: &[0], tables: std::slice::from_ref(&table) };
        session.step(&step).unwrap();
    })
}

/// A cache's books alone: two forks of a prompt grow, the first write of each copies the page that both end in.
fn booked(layout: KvLayout) -> usize {
    let mut kv = PagedKv::new(Tokens(1024), layout);
    let mut writes = Writes::with_room(Tokens(8));
    let one = kv.start();
    kv.append(one, &[9; 20], &mut Writes::default()).unwrap();
    let two = kv.fork(one).unwrap();
    let mut sum = 0;
    let mut step = |id| {
        writes.clear();
        for sequence in [one, two] {
            kv.append(sequence, &[id, id], &mut writes).unwrap();
            kv.written(sequence).unwrap();
            sum += kv.table(sequence).unwrap().pages.len() + kv.runs(sequence).unwrap().count();
            sum += kv.rotations().len() + kv.next_position(sequence).unwrap() as usize;
            sum += (kv.avoidable(Depth::Cells) + kv.reads() + kv.mark(sequence).unwrap().count.0) as usize;
        }
    };
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..100).for_each(&mut step);
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(sum > 0);
    allocated
}

/// One test, since all that runs beside it would be counted too.
#[test]
fn a_steady_decode_step_allocates_nothing() {
    // First what takes long: where the machine is busy, the harness allocates while the test has begun.
    let grown = grown();
    assert!(grown < 4096, "{grown} bytes more after 1500 steps of requests that come and go");
    for layout in [KvLayout::default(), KvLayout::Contiguous] {
        assert_eq!(booked(layout), 0, "{layout:?}: allocations of 100 steps in the books of the cache");
    }
    assert_eq!(batched(), 0, "allocations in 100 steps of sixteen sequences");
    for (shape, dtype) in [("llama-tiny", DType::Q4_0), ("qwen3moe-tiny", DType::Q4K), ("qwen2-tiny", DType::Q3K)] {
        for devices in [1, 2] {
            assert_eq!(
                on_devices(made(shape, dtype), devices),
                0,
                "{shape}: allocations in 100 steps on {devices} devices"
            );
        }
        assert_eq!(rearranged(made(shape, dtype)), 0, "{shape}: allocations in 100 rearrangements of cells");
        assert_eq!(streamed(made(shape, dtype)), 0, "{shape}: allocations in 100 steps with streamed weights");
    }
}
