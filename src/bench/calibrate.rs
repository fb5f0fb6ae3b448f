//! A processor or an adapter → the rates that it attains, by measuring for a few seconds: reading memory, products through
//! its own backend, what nodes and splits cost, and the way between host and adapter. Medians; whatever else runs at the
//! time shows in them.

use std::collections::TryReserveError;
use std::hint::black_box;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::backend::{
    self, Args, Backend, BackendError, Bindings, BoundSlice, BufferKind, BufferSpan, CellTable, ProgramId, Queue,
    SplitWork,
};
use crate::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId, Rates, reads_layout};
use crate::graph::ops::{Embed, MatMul, Norm, Rows};
use crate::graph::{Batch, Graph, GraphBuilder, GraphError, Input, InputId, NodeId, Op, Weight, WeightId};
use crate::index::{Id, IndexVec};
use crate::plan::{PlanError, Policy, Span, plan};
use crate::residency::{Layout, Residency, Storage, weight_bytes};
use crate::tensor::DType;
use crate::tensor::panel::{PANEL_ROWS, pack, panel_supported};
use crate::tensor::quant::{QuantError, random_blocks};
use crate::units::{Bytes, BytesPerSec, Nanos, OpsPerSec, Tokens};

/// Memory that is read: several times what caches hold, but no more than a quarter of what is free.
const READ: Bytes = Bytes::mib(512);
/// The longest that one kind of measurement goes on, once it has a few rounds.
const PATIENCE: Duration = Duration::from_millis(400);
/// The fewest rounds, and the most.
const ROUNDS: (usize, usize) = (5, 301);
/// Rows and columns of the matrix that is multiplied with, and products in a row.
const WIDTH: u32 = 2048;
const PRODUCTS: u32 = 4;
/// Tokens of those products: compute hides all reading.
const TOKENS: u32 = 256;
/// Nodes and columns where only the nodes' own cost counts.
const NODES: u32 = 256;
const NARROW: u32 = 32;

/// Why nothing could be measured.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its cause")]
pub enum CalibrateError {
    #[error("the system refuses threads to read with: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    #[error("the system refuses memory to read: {0}")]
    Memory(#[from] TryReserveError),
    #[error(transparent)]
    Quant(#[from] QuantError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Measures this computer's processor with so many workers, of whose memory so much is free. `hides` cannot be told from
/// such short runs and stays as in `unmeasured`.
///
/// # Errors
/// The system refuses threads or memory.
pub fn calibrate(workers: u32, free: Bytes, unmeasured: &Rates) -> Result<Rates, CalibrateError> {
    let machine = Machine::single(BackendKind::Cpu, workers, Bytes(1 << 40));
    let spec = DeviceSpec { rates: *unmeasured, ..machine.devices[DeviceId::from_index(0)].clone() };
    rates(&spec, (TOKENS, PRODUCTS), reading(workers, free)?)
}

/// What an adapter attains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterRates {
    /// Of its kernels.
    pub rates: Rates,
    /// Bytes of the host to its memory.
    pub to: BytesPerSec,
    /// And back.
    pub from: BytesPerSec,
}

/// Measures an adapter through its backend, with less work where it computes on the processor.
///
/// # Errors
/// The adapter cannot be opened, or has no room for what is measured with.
pub fn calibrate_adapter(spec: &DeviceSpec, software: bool) -> Result<AdapterRates, CalibrateError> {
    let (size, rows, bytes) = if software { ((32, 1), 2048, 8 << 20) } else { ((TOKENS, 32), 1 << 16, 64 << 20) };
    let read = streaming(spec, rows)?;
    let (to, from) = ways(spec, Bytes(bytes))?;
    Ok(AdapterRates { rates: rates(spec, size, read)?, to, from })
}

/// The bytes that a product of one row reads, by the time that some take more than one does.
fn streaming(spec: &DeviceSpec, rows: u32) -> Result<BytesPerSec, CalibrateError> {
    let seconds = |products: u32| {
        let mut graph = Chain::new(1, WIDTH)?;
        let weight = graph.weight("matrix", DType::F16, rows)?;
        let x = graph.last;
        for i in 0..products {
            let residual = (i > 0).then_some(graph.last);
            graph.then(&format!("product.{i}"), |_| Op::MatMul(MatMul { x, weight, bias: None, residual }))?;
        }
        Prepared::new(spec, graph.finish()?)?.seconds()
    };
    let more = (seconds(1 + PRODUCTS)? - seconds(1)?).max(1e-9);
    Ok(BytesPerSec((2.0 * f64::from(WIDTH) * f64::from(rows) * f64::from(PRODUCTS) / more).round()))
}

/// Writing to a device's memory, and reading from it.
fn ways(spec: &DeviceSpec, len: Bytes) -> Result<(BytesPerSec, BytesPerSec), CalibrateError> {
    let backend = backend::open(spec)?;
    let buffer = backend.alloc(BufferKind::Device, len)?;
    let at = BufferSpan { buffer, span: Span { offset: Bytes::ZERO, len } };
    let mut bytes = vec![1; len.index()];
    let to = median_seconds(|| Ok(backend.wait(backend.write(Queue::Upload, at, &bytes, &[])?)?))?;
    let from = median_seconds(|| Ok(backend.read(Queue::Peer, at, &mut bytes, &[])?))?;
    let rate = |seconds: f64| BytesPerSec((len.0 as f64 / seconds).round());
    Ok((rate(to), rate(from)))
}

fn rates(spec: &DeviceSpec, size: (u32, u32), read: BytesPerSec) -> Result<Rates, CalibrateError> {
    let (one, many) = (overhead(spec, 1)?, overhead(spec, 1 + NODES)?);
    let node = (many - one) / f64::from(NODES);
    Ok(Rates {
        read,
        int8: products(spec, DType::Q4K, size)?,
        f16: products(spec, DType::F16, size)?,
        f32: products(spec, DType::F32, size)?,
        // A neighbour's work may have made the long run the shorter one.
        node: Nanos::of_seconds(node).max(Nanos(1)),
        split: Nanos::of_seconds(one - 2.0 * node).max(Nanos(1)),
        hides: spec.rates.hides,
    })
}

/// All workers read their own share of a large buffer.
fn reading(workers: u32, free: Bytes) -> Result<BytesPerSec, CalibrateError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers as usize).build()?;
    let words = READ.0.min(free.0 / 4).max(1 << 20) / 8 / u64::from(workers) + 1;
    let share = || -> Result<Vec<u64>, TryReserveError> {
        let mut share = Vec::new();
        share.try_reserve_exact(words as usize)?;
        share.resize(words as usize, 1);
        Ok(share)
    };
    // Each is written by the thread that will read it, which puts it near that thread's core.
    let shares = pool.broadcast(|_| share()).into_iter().collect::<Result<Vec<_>, _>>()?;
    let sum = |share: &[u64]| share.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    let round = || -> Result<(), CalibrateError> {
        black_box(pool.broadcast(|thread| sum(&shares[thread.index()])));
        Ok(())
    };
    let bytes = 8 * words * u64::from(workers);
    Ok(BytesPerSec((bytes as f64 / median_seconds(round)?).round()))
}

/// Products of many rows with one matrix of a type, over and over.
fn products(spec: &DeviceSpec, dtype: DType, (tokens, products): (u32, u32)) -> Result<OpsPerSec, CalibrateError> {
    let mut graph = Chain::new(tokens, WIDTH)?;
    let weight = graph.weight("matrix", dtype, WIDTH)?;
    for i in 0..products {
        graph.then(&format!("product.{i}"), |x| Op::MatMul(MatMul { x, weight, bias: None, residual: None }))?;
    }
    let seconds = Prepared::new(spec, graph.finish()?)?.seconds()?;
    let ops = 2.0 * f64::from(WIDTH).powi(2) * f64::from(tokens) * f64::from(products);
    Ok(OpsPerSec((ops / seconds / 1e6).round() * 1e6))
}

/// Seconds of a split of so many small nodes behind the first.
fn overhead(spec: &DeviceSpec, nodes: u32) -> Result<f64, CalibrateError> {
    let mut graph = Chain::new(1, NARROW)?;
    let weight = graph.weight("norm", DType::F32, 1)?;
    for i in 0..nodes {
        graph.then(&format!("norm.{i}"), |x| Op::Norm(Norm { x, weight, eps: 1e-5, heads: 1, carried: 0 }))?;
    }
    Prepared::new(spec, graph.finish()?)?.seconds()
}

/// A graph in which every node reads the one before it; the first is an embedding.
struct Chain {
    builder: GraphBuilder,
    width: u32,
    last: NodeId,
}

impl Chain {
    fn new(tokens: u32, width: u32) -> Result<Chain, GraphError> {
        let mut builder = GraphBuilder::new(Batch { tokens: Tokens(tokens), outputs: Tokens(tokens) });
        let ids = builder.input(Input::TokenIds);
        let table = Weight { name: "table".into(), dtype: DType::F32, count: 1, rows: TOKENS, cols: width, part: None };
        let weight = builder.weight(table)?;
        let last = builder.node("rows", Op::Rows(Rows::Embed(Embed { weight, ids, scale: 1.0 })))?;
        Ok(Chain { builder, width, last })
    }

    fn weight(&mut self, name: &str, dtype: DType, rows: u32) -> Result<WeightId, GraphError> {
        self.builder.weight(Weight { name: name.into(), dtype, count: 1, rows, cols: self.width, part: None })
    }

    fn then(&mut self, name: &str, op: impl FnOnce(NodeId) -> Op) -> Result<(), GraphError> {
        self.last = self.builder.node(name, op(self.last))?;
        Ok(())
    }

    fn finish(self) -> Result<Graph, GraphError> {
        self.builder.finish(self.last)
    }
}

/// A graph that is ready to run on a device.
struct Prepared {
    backend: Box<dyn Backend>,
    programs: Vec<ProgramId>,
    tokens: Tokens,
}

impl Prepared {
    fn new(spec: &DeviceSpec, graph: Graph) -> Result<Prepared, CalibrateError> {
        let (device, memory) = (DeviceId::from_index(0), MemoryId::from_index(0));
        let machine = Machine::linked([(spec.clone(), Bytes(1 << 40))]);
        // Vectors and the table stay as they are; matrices are repacked, as for a model.
        let panels = reads_layout(spec, Layout::Panel16);
        let residency = Residency::in_one(&graph, memory, |_, weight| {
            let packed = panels && weight.name == "matrix" && panel_supported(weight.dtype);
            (if packed { Layout::Panel16 } else { Layout::Gguf }, Storage::Allocated)
        });
        let plan = plan(&graph, &residency, &machine, &Policy::default())?;
        let backend = backend::open(&machine.devices[device])?;
        let bindings = Bindings {
            arena: backend.alloc(BufferKind::Device, plan.arenas[device].bytes)?,
            weights: random_weights(&graph, &residency, &*backend)?,
            states: IndexVec::new(),
        };
        let view = plan.view(device, graph.inputs().len());
        let tokens = graph.batch().tokens;
        let ids: Vec<u32> = (0..tokens.0).collect();
        let at = BufferSpan { buffer: bindings.arena, span: view.inputs[InputId::from_index(0)] };
        backend.write(Queue::Compute, at, bytemuck::cast_slice(&ids), &[])?;
        let mut programs = Vec::new();
        for split in plan.splits.iter() {
            let (values, inputs) = (&view.values, &view.inputs);
            programs.push(backend.prepare(&SplitWork { graph: &graph, split, values, inputs, bindings: &bindings })?);
        }
        Ok(Prepared { backend, programs, tokens })
    }

    /// The median time of a run.
    fn seconds(&self) -> Result<f64, CalibrateError> {
        let rows: Vec<u32> = (0..self.tokens.0).collect();
        let pages: Vec<u32> = (0..self.tokens.pages()).collect();
        let tokens = self.tokens;
        let tables = [CellTable::single(&rows, tokens, &pages)];
        let args = Args { tokens, outputs: tokens, tables: &tables };
        median_seconds(|| {
            for &program in &self.programs {
                let done = self.backend.submit(program, &args, &[])?;
                self.backend.wait(done)?;
            }
            Ok(())
        })
    }
}

/// Weights that keep the size of what they multiply.
fn random_weights(
    graph: &Graph,
    residency: &Residency,
    backend: &dyn Backend,
) -> Result<IndexVec<WeightId, Vec<BoundSlice>>, CalibrateError> {
    let mut state = 1u64;
    let mut random = || {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bound = IndexVec::new();
    for (id, weight) in graph.weights().iter_ids() {
        let mut bytes = vec![0; weight.bytes().index()];
        random_blocks(weight.dtype, f64::from(weight.cols).sqrt().recip() as f32, &mut random, &mut bytes)?;
        let mut slices = Vec::new();
        for home in &residency.weights[id] {
            let len = weight_bytes(weight, home.layout);
            let at =
                BufferSpan { buffer: backend.alloc(BufferKind::Device, len)?, span: Span { offset: Bytes::ZERO, len } };
            backend.write(Queue::Upload, at, &arranged(weight, home.layout, &bytes), &[])?;
            slices.push(BoundSlice { slice: home.slice.clone(), layout: home.layout, at });
        }
        bound.push(slices);
    }
    Ok(bound)
}

fn arranged(weight: &Weight, layout: Layout, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; weight_bytes(weight, layout).index()];
    match layout {
        Layout::Gguf => out.copy_from_slice(bytes),
        Layout::Panel16 => {
            let panel = bytes.len() / weight.rows as usize * PANEL_ROWS;
            let pairs = bytes.chunks(panel).zip(out.chunks_exact_mut(panel));
            pairs.for_each(|(rows, panel)| pack(weight.dtype, weight.cols as usize, rows, panel));
        }
    }
    out
}

/// The median of some rounds, after one that does not count.
fn median_seconds(mut round: impl FnMut() -> Result<(), CalibrateError>) -> Result<f64, CalibrateError> {
    round()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < ROUNDS.0 || times.len() < ROUNDS.1 && start.elapsed() < PATIENCE {
        let before = Instant::now();
        round()?;
        times.push(before.elapsed());
    }
    times.sort_unstable();
    // A clock that did not move still gives a rate.
    Ok(times[times.len() / 2].max(Duration::from_nanos(1)).as_secs_f64())
}
