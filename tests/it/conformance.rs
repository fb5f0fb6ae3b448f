//! Every op family, type and class of shape on every backend that is not the CPU, against the CPU with all weights in
//! single precision: there its kernels multiply what blocks stand for without rounding activations. Where a backend rounds
//! them too, the CPU has the blocks and rounds the same. A backend that is not there is reported as skipped; `REQUIRE_BACKENDS` makes that a failure.

use loadmaster::backend::cpu::CpuBackend;
use loadmaster::backend::vulkan::{Caps, adapters};
use loadmaster::backend::{Args, Backend, BufferSpan, CellTable, Queue, SequenceRows, SplitWork};
use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId};
use loadmaster::graph::ops::{
    self, Activation, Attention, CacheWrite, Combine, Elementwise, Embed, ExpertGroups, ExpertPart, Experts, Gating,
    HeadMatMul, Mask, MatMul, Moe, Norm, Rope, RopeStyle, Route, Scaling, Select, Values,
};
use loadmaster::graph::{Batch, CacheHalf, Graph, GraphBuilder, Input, NodeId, Op, State, Weight, WeightId};
use loadmaster::plan::{Policy, Span, SplitId, plan};
use loadmaster::residency::{Layout, Residency, Storage};
use loadmaster::tensor::{DType, quant};
use loadmaster::units::{Bytes, Tokens};

use crate::plan::{bind, inputs_of};
use crate::reference::nmse;
use crate::{cards, vulkan};

/// Less than a device allows, so that weights and buffers are in pieces, and steps too.
const WINDOWS: Caps = Caps { buffer: 192 << 10, binding: 64 << 10, work: 1 << 12, dots: true, ..SHARED };

/// What an adapter has that has neither subgroups of one size nor products of bytes.
const SHARED: Caps = Caps { subgroups: false, dots: false, ..Caps::DEVICE };

/// Types whose products multiply bytes on Vulkan, where a device may.
const CODED: [DType; 8] =
    [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q4K, DType::Q5K, DType::Q6K];

/// Rows of the tables that values come from.
const VOCAB: u32 = 64;

/// Types that weights may have.
fn types() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|&dtype| quant::can_decode(dtype))
}

/// What weights of a graph are.
#[derive(Clone, Copy)]
enum Weights {
    /// Of their types.
    Blocks,
    /// Only those whose products multiply bytes are of their types, the others the same numbers in single precision.
    Coded(fn(DType) -> bool),
}

/// A graph that is grown twice: with weights of their types, and with what is expected of them.
struct Grown {
    b: GraphBuilder,
    weights: Weights,
    ids: loadmaster::graph::InputId,
    positions: loadmaster::graph::InputId,
}

impl Grown {
    fn weight(&mut self, name: &str, dtype: DType, (count, rows, cols): (u32, u32, u32)) -> WeightId {
        // Its type is part of the name, by which it is filled.
        let name = format!("{name} {dtype}");
        let kept = match self.weights {
            Weights::Blocks => true,
            Weights::Coded(coded) => coded(dtype),
        };
        let dtype = if kept { dtype } else { DType::F32 };
        self.b.weight(Weight { name, dtype, count, rows, cols, part: None }).unwrap()
    }

    fn node(&mut self, name: &str, op: Op) -> NodeId {
        self.b.node(name, op).unwrap()
    }

    /// Rows of numbers, `cols` wide.
    fn value(&mut self, name: &str, cols: u32) -> NodeId {
        let (weight, ids) = (self.weight(&format!("{name} table"), DType::F32, (1, VOCAB, cols)), self.ids);
        self.node(name, Op::Rows(ops::Rows::Embed(Embed { weight, ids, scale: 1.0 })))
    }
}

/// What grows the graph of a case, up to the value that is compared.
type Grow = dyn Fn(&mut Grown) -> NodeId;

/// What a case is, and how far results may be apart.
struct Case<'a> {
    name: String,
    tokens: u32,
    bound: f64,
    grow: &'a Grow,
}

fn graph(case: &Case<'_>, weights: Weights) -> Graph {
    let tokens = Tokens(case.tokens);
    let mut b = GraphBuilder::new(Batch { tokens, outputs: tokens });
    let (ids, positions) = (b.input(Input::TokenIds), b.input(Input::Positions));
    let rows = b.input(Input::OutputRows);
    b.set_layer(Some(0));
    let mut grown = Grown { b, weights, ids, positions };
    let x = (case.grow)(&mut grown);
    grown.b.set_layer(None);
    let out = grown.node("out", Op::Rows(ops::Rows::Select(Select { x, rows })));
    grown.b.finish(out).unwrap()
}

/// Bytes of a weight by its name: blocks of its type, or the numbers that they stand for.
fn bytes_of(weight: &Weight) -> Vec<u8> {
    let dtype = DType::from_name(weight.name.rsplit(' ').next().unwrap()).unwrap();
    let elements = (weight.count * weight.rows * weight.cols) as usize;
    let mut seed =
        weight.name.bytes().fold(88_172_645_463_325_252u64, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
    let mut rng = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut blocks = vec![0; dtype.row_bytes(elements as u64).unwrap().index()];
    quant::random_blocks(dtype, 1.0, &mut rng, &mut blocks).unwrap();
    if weight.name.starts_with("factors") {
        let numbers: Vec<f32> = (0..elements).map(|i| 1.0 + i as f32 / 7.0).collect();
        return bytemuck::cast_slice(&numbers).to_vec();
    }
    if weight.dtype == dtype {
        return blocks;
    }
    let mut numbers = vec![0f32; elements];
    quant::decode(dtype, &blocks, &mut numbers).unwrap();
    bytemuck::cast_slice(&numbers).to_vec()
}

/// A step over two sequences whose pages lie in any order, or one of a single row.
fn run(graph: &Graph, kind: BackendKind, backend: &dyn Backend) -> Vec<f32> {
    let machine = Machine::single(kind, 2, Bytes(1 << 40));
    let homes = Residency::in_one(graph, MemoryId(0), |_, _| (Layout::Gguf, Storage::Allocated));
    let made = plan(graph, &homes, &machine, &Policy::default()).unwrap();
    let bindings = bind(graph, &homes, &made, backend);
    let mut loaded = None;
    for (id, weight) in graph.weights().iter_ids() {
        loaded = Some(backend.write(Queue::Upload, bindings.weights[id][0].at, &bytes_of(weight), &[]).unwrap());
    }
    let inputs = inputs_of(graph, &made);
    let (split, values) = (&made.splits[SplitId(0)], &made.values);
    let work = SplitWork { graph, split, values, inputs: &inputs, bindings: &bindings };
    let program = backend.prepare(&work).unwrap();
    let tokens = graph.batch().tokens;
    for (id, input) in graph.inputs().iter_ids().filter(|&(id, _)| inputs[id].len > Bytes::ZERO) {
        let data: Vec<u32> = match input {
            Input::TokenIds => (0..tokens.0).map(|i| (i * 7 + 3) % VOCAB).collect(),
            Input::Positions => (0..tokens.0).map(|i| i * i * 331).collect(),
            Input::OutputRows => (0..tokens.0).collect(),
        };
        let at = BufferSpan { buffer: bindings.arena, span: Span { len: Bytes(4 * data.len() as u64), ..inputs[id] } };
        backend.write(Queue::Compute, at, bytemuck::cast_slice(&data), &[]).unwrap();
    }
    let first = tokens.0 * 2 / 3;
    let (own, rest) = (Tokens(first).pages(), tokens.0 - first);
    let mut table: Vec<u32> = [3, 0, 5, 1, 7, 2, 6, 4, 8].to_vec();
    table.truncate((own + Tokens(rest).pages()) as usize);
    let sequences = [
        SequenceRows { first: 0, rows: first, length: Tokens(first), behind: Tokens(0), pages: 0..own },
        SequenceRows {
            first,
            rows: rest,
            length: Tokens(rest),
            behind: Tokens(0),
            pages: own..own + Tokens(rest).pages(),
        },
    ];
    let cell = |i: u32| match i < first {
        true => table[i as usize / 16] * 16 + i % 16,
        false => table[(own + (i - first) / 16) as usize] * 16 + (i - first) % 16,
    };
    let cells: Vec<u32> = (0..tokens.0).map(cell).collect();
    let tables =
        [CellTable { cells: cells.to_vec(), sequences: sequences.to_vec(), pages: table.to_vec(), live: Vec::new() }];
    let args = Args { tokens, outputs: tokens, tables: &tables };
    let done = backend.submit(program, &args, loaded.as_slice()).unwrap();
    let span = made.values[graph.output()];
    let mut out = vec![0f32; span.len.index() / 4];
    let at = BufferSpan { buffer: bindings.arena, span };
    backend.read(Queue::Compute, at, bytemuck::cast_slice_mut(&mut out), &[done]).unwrap();
    assert!(backend.allocated() >= made.arenas[DeviceId(0)].bytes);
    out
}

/// A present backend that computes.
struct Present {
    name: String,
    kind: BackendKind,
    backend: Box<dyn Backend>,
    /// Types whose products multiply bytes.
    coded: fn(DType) -> bool,
}

impl Present {
    /// How far results may be apart where a case says so: tensor cores multiply halves.
    fn bound(&self, bound: f64) -> f64 {
        match self.kind {
            BackendKind::Null | BackendKind::Cpu | BackendKind::Vulkan => bound,
            BackendKind::Cuda => bound.max(HALVES),
        }
    }
}

/// Vulkan, using no more of a device than `caps`; and CUDA, which is asked once, where all is used.
fn present(caps: Caps) -> Vec<Present> {
    let vulkan = vulkan::device_with(caps).map(|gpu| Present {
        name: format!("vulkan, {} B seen, subgroups {}, bytes {}", caps.binding, caps.subgroups, caps.dots),
        kind: BackendKind::Vulkan,
        backend: Box::new(vulkan::backend_over(&gpu)),
        coded: if caps.dots { |dtype| CODED.contains(&dtype) } else { |_| false },
    });
    let cuda = if caps == Caps::DEVICE { cards::cuda_card() } else { None };
    let cuda = cuda.map(|card| Present {
        name: "cuda".into(),
        kind: BackendKind::Cuda,
        backend: card.backend(),
        coded: |dtype| dtype.block().elements > 1,
    });
    vulkan.into_iter().chain(cuda).collect()
}

fn check(cases: &[Case<'_>], caps: Caps) {
    let cpu =
        CpuBackend::new(Machine::single(BackendKind::Cpu, 2, Bytes(1 << 40)).devices[DeviceId(0)].clone()).unwrap();
    let mut failed = Vec::new();
    for present in present(caps) {
        let Present { name, kind, backend, coded } = &present;
        for case in cases {
            let expected = run(&graph(case, Weights::Coded(*coded)), BackendKind::Cpu, &cpu);
            let found = run(&graph(case, Weights::Blocks), *kind, &**backend);
            let (error, bound) = (nmse(&found, &expected), present.bound(case.bound));
            eprintln!("{name}: {:40} {:3} rows  nmse {error:.1e}", case.name, case.tokens);
            assert!(expected.iter().all(|x| x.is_finite()) && expected.iter().any(|&x| x != 0.0), "{}", case.name);
            if error.is_nan() || error > bound {
                failed.push(format!("{name}: {} of {} rows: {error:.1e} > {bound:.0e}", case.name, case.tokens));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Sums of single precision in another order, and functions that a driver may round by a few units.
const FLOAT: f64 = 1e-11;

/// Products of numbers that were rounded to halves.
const HALVES: f64 = 1e-6;

/// A product of every type for a row, for several, for one tile that is not full, and for many rows with a weight of more
/// columns, with bias and residual.
fn products(many: &[(u32, u32)], case: impl FnOnce(&[Case<'_>])) {
    let mut grows: Vec<(String, u32, Box<Grow>)> = Vec::new();
    for dtype in types() {
        let block = dtype.block().elements;
        let odd = if block == 1 { 67 } else { block };
        let few = [(37, odd, 1, false), (5, 3 * odd, 7, true), (66, odd, 13, true)];
        let many = many.iter().map(|&(rows, tokens)| (rows, 512, tokens, true));
        for (rows, cols, tokens, whole) in few.into_iter().chain(many) {
            let grow = move |g: &mut Grown| {
                let (x, weight) = (g.value("x", cols), g.weight("w", dtype, (1, rows, cols)));
                let bias = whole.then(|| g.weight("bias", DType::F32, (1, 1, rows)));
                let residual = whole.then(|| g.value("r", rows));
                g.node("product", Op::MatMul(MatMul { x, weight, bias, residual }))
            };
            grows.push((format!("matmul {dtype} {rows}x{cols}"), tokens, Box::new(grow)));
        }
        let table = move |g: &mut Grown| {
            let (weight, ids) = (g.weight("table", dtype, (1, VOCAB, 2 * odd)), g.ids);
            g.node("embedded", Op::Rows(ops::Rows::Embed(Embed { weight, ids, scale: 1.5 })))
        };
        grows.push((format!("rows {dtype}"), 9, Box::new(table)));
    }
    let cases =
        grows.iter().map(|(name, tokens, grow)| Case { name: name.clone(), tokens: *tokens, bound: FLOAT, grow });
    case(&cases.collect::<Vec<_>>());
}

#[test]
fn products_with_every_type_are_those_of_the_numbers_that_blocks_stand_for() {
    products(&[(70, 130)], |cases| check(cases, Caps::DEVICE));
    products(&[(70, 10)], |cases| check(cases, SHARED));
}

/// Weights and buffers larger than what a kernel sees or a device allows.
#[test]
fn products_over_windows_and_over_several_buffers_are_the_same() {
    products(&[(900, 12), (70, 30)], |cases| check(cases, WINDOWS));
}

/// Drivers of Vulkan hardware are not held to it: one may contract a product and a sum in the kernel of one row and not in
/// that of several. CUDA is told not to.
#[test]
fn a_row_of_a_product_has_the_same_bits_in_every_batch() {
    let software = adapters().first().is_none_or(|adapter| adapter.software);
    for (caps, types) in [(Caps::DEVICE, types().collect::<Vec<_>>()), (SHARED, vec![DType::Bf16, DType::Q4K])] {
        let held = present(caps).into_iter().filter(|present| software || present.kind == BackendKind::Cuda);
        for Present { name, kind, backend, .. } in held {
            for &dtype in &types {
                let grow = move |g: &mut Grown| {
                    let (x, weight) = (g.value("x", 512), g.weight("w", dtype, (1, 33, 512)));
                    g.node("product", Op::MatMul(MatMul { x, weight, bias: None, residual: None }))
                };
                let bits = |tokens| -> Vec<u32> {
                    let case = Case { name: "product".into(), tokens, bound: 0.0, grow: &grow };
                    run(&graph(&case, Weights::Blocks), kind, &*backend).iter().map(|x| x.to_bits()).collect()
                };
                let all = bits(70);
                assert_eq!(all.len(), 70 * 33);
                for tokens in [1, 7, 8, 9, 32, 40] {
                    assert_eq!(bits(tokens), all[..33 * tokens as usize], "{name}: {dtype}, {tokens} rows");
                }
            }
        }
    }
}

#[test]
fn norms_rotations_and_elements_are_those_of_the_cpu() {
    let norm = |heads: u32, cols: u32, carried: u32| {
        move |g: &mut Grown| {
            let x = g.value("x", heads * (cols + carried));
            let weight = g.weight("w", DType::F32, (1, 1, cols));
            g.node("norm", Op::Norm(Norm { x, weight, eps: 1e-5, heads, carried }))
        }
    };
    let rope = |style: RopeStyle, (offset, rotary): (u32, u32), yarn: bool, divided: bool| {
        move |g: &mut Grown| {
            let x = g.value("x", 3 * 72);
            let factors = divided.then(|| g.weight("factors", DType::F32, (1, 1, rotary / 2)));
            let scaling = Scaling {
                freq_scale: if yarn { 0.25 } else { 1.0 },
                ext_factor: if yarn { 1.0 } else { 0.0 },
                attn_factor: 1.125,
                beta_fast: 32.0,
                beta_slow: 1.0,
                trained_context: 4096,
            };
            let (positions, base) = (g.positions, 10000.0);
            let op = Rope { x, positions, factors, heads: 3, head_dim: 72, offset, rotary, style, base, scaling };
            g.node("rope", Op::Rope(op))
        }
    };
    let gated = |activation: Activation| {
        move |g: &mut Grown| {
            let (gate, up) = (g.value("gate", 77), g.value("up", 77));
            g.node("gated", Op::Elementwise(Elementwise::Gated { gate, up, activation }))
        }
    };
    let add = |g: &mut Grown| {
        let (a, b) = (g.value("a", 77), g.value("b", 77));
        g.node("sum", Op::Elementwise(Elementwise::Add { a, b }))
    };
    let heads = |dtype: DType, carried: u32| {
        move |g: &mut Grown| {
            let (x, weight) = (g.value("x", 3 * (64 + carried)), g.weight("w", dtype, (3, 33, 64)));
            g.node("heads", Op::HeadMatMul(HeadMatMul { x, weight, carried }))
        }
    };
    let (whole, parts, apart) = (norm(1, 45, 0), norm(4, 45, 0), norm(3, 45, 7));
    let (wide, widely) = (norm(1, 1100, 0), norm(2, 1030, 300));
    let halves = rope(RopeStyle::Halves, (0, 72), false, false);
    let pairs = rope(RopeStyle::Interleaved, (4, 40), true, true);
    let (silu, gelu) = (gated(Activation::Silu), gated(Activation::Gelu));
    let (plain, carrying) = (heads(DType::Q8_0, 0), heads(DType::F16, 5));
    let all: [(&str, &Grow); 12] = [
        ("norm", &whole),
        ("norm of many", &wide),
        ("norm of parts that are wide", &widely),
        ("norm of heads", &parts),
        ("norm of parts of heads", &apart),
        ("rope of halves", &halves),
        ("rope of pairs", &pairs),
        ("silu", &silu),
        ("gelu", &gelu),
        ("add", &add),
        ("head_matmul", &plain),
        ("head_matmul that carries", &carrying),
    ];
    let case = |tokens| move |(name, grow): (&str, _)| Case { name: name.into(), tokens, bound: FLOAT, grow };
    let cases: Vec<Case<'_>> = all.into_iter().map(case(1)).chain(all.into_iter().map(case(33))).collect();
    check(&cases, Caps::DEVICE);
    check(&cases, SHARED);
}

#[test]
fn experts_are_chosen_and_summed_as_on_the_cpu() {
    struct Layer {
        gating: Gating,
        groups: Option<ExpertGroups>,
        bias: bool,
        part: Option<ExpertPart>,
        dtype: DType,
    }
    let layer = |l: Layer| {
        move |g: &mut Grown| {
            let (count, used) = (12, 3);
            let x = g.value("x", 320);
            let logits = g.value("logits", count);
            let bias = l.bias.then(|| g.weight("bias", DType::F32, (1, 1, count)));
            let (gating, groups) = (l.gating, l.groups);
            let op = Route { logits, used, gating, bias, groups, normalize: l.bias, scale: 1.5 };
            let routing = g.node("route", Op::Moe(Moe::Route(op)));
            let up = g.weight("up", l.dtype, (count, 96, 320));
            let rows = g.weight("rows", DType::F32, (1, count, 96));
            let op = Experts { x, routing, weight: up, bias: Some(rows), slotted: false, part: l.part };
            let inner = g.node("up", Op::Moe(Moe::Experts(op)));
            let down = g.weight("down", l.dtype, (count, 48, 96));
            let op = Experts { x: inner, routing, weight: down, bias: None, slotted: true, part: l.part };
            let x = g.node("down", Op::Moe(Moe::Experts(op)));
            let (shared, residual) = (l.bias.then(|| g.value("shared", 48)), Some(g.value("r", 48)));
            g.node("sum", Op::Moe(Moe::Combine(Combine { x, routing, shared, residual, part: l.part })))
        }
    };
    let (softmax, part) = (Gating::Softmax, Some(ExpertPart { first: 4, count: 5 }));
    let groups = Some(ExpertGroups { count: 4, used: 2 });
    let plain = layer(Layer { gating: softmax, groups: None, bias: false, part: None, dtype: DType::Q8_0 });
    let grouped = layer(Layer { gating: Gating::Sigmoid, groups, bias: true, part: None, dtype: DType::F16 });
    let parted = layer(Layer { gating: softmax, groups: None, bias: true, part, dtype: DType::F32 });
    let all: [(&str, &Grow); 3] = [("softmax", &plain), ("groups of sigmoids", &grouped), ("a part", &parted)];
    let case = |tokens| move |(name, grow): (&str, _)| Case { name: name.into(), tokens, bound: FLOAT, grow };
    let cases: Vec<Case<'_>> = all.into_iter().map(case(1)).chain(all.into_iter().map(case(41))).collect();
    check(&cases, Caps::DEVICE);
    let many: Vec<Case<'_>> = all.into_iter().map(case(70)).collect();
    check(&many, Caps { dots: true, ..SHARED });
    let parts: Vec<Case<'_>> = all.into_iter().map(case(17)).collect();
    check(&parts, Caps { buffer: 192 << 10, binding: 32 << 10, ..SHARED });
}

/// Attention of so many heads of caches, query heads for each of them and elements, over caches of so many cells; values
/// are those of a cache of their own or the first elements of the keys.
fn attend(
    dtype: DType,
    (heads, group, dim): (u32, u32, u32),
    prefix: Option<u32>,
    mask: Mask,
    cells: u32,
) -> impl Fn(&mut Grown) -> NodeId {
    move |g: &mut Grown| {
        let (q, k) = (g.value("q", heads * group * dim), g.value("k", heads * dim));
        let mut state = |half, head_dim| {
            let (name, cells) = (format!("{half:?}"), Tokens(cells));
            g.b.state(State { name, layer: 0, half, dtype, heads, head_dim, cells, window: None }).unwrap()
        };
        let keys = state(CacheHalf::Keys, dim);
        let own = prefix.is_none().then(|| state(CacheHalf::Values, dim));
        let v = prefix.is_none().then(|| g.value("v", heads * dim));
        let write = g.node("write", Op::Cache(CacheWrite { k, v, keys, values: own }));
        let values = own.map_or(Values::Prefix { prefix: prefix.unwrap_or(0) }, Values::State);
        let scale = 1.0 / (dim as f32).sqrt();
        let op = Attention { q, write, keys, values, heads: heads * group, scale, mask };
        g.node("attention", Op::Attention(op))
    }
}

/// What steps of so many rows give, one behind the other over the same caches, whose pages lie backwards.
fn steps(grow: &Grow, kind: BackendKind, backend: &dyn Backend, sizes: &[u32]) -> Vec<f32> {
    let machine = Machine::single(kind, 2, Bytes(1 << 40));
    let (mut past, mut states, mut all) = (0, None, Vec::new());
    for &tokens in sizes {
        let graph = graph(&Case { name: "steps".into(), tokens, bound: 0.0, grow }, Weights::Blocks);
        let homes = Residency::in_one(&graph, MemoryId(0), |_, _| (Layout::Gguf, Storage::Allocated));
        let made = plan(&graph, &homes, &machine, &Policy::default()).unwrap();
        let mut bindings = bind(&graph, &homes, &made, backend);
        bindings.states = states.get_or_insert_with(|| bindings.states.clone()).clone();
        let mut loaded = None;
        for (id, weight) in graph.weights().iter_ids() {
            loaded = Some(backend.write(Queue::Upload, bindings.weights[id][0].at, &bytes_of(weight), &[]).unwrap());
        }
        let inputs = inputs_of(&graph, &made);
        let work = SplitWork {
            graph: &graph,
            split: &made.splits[SplitId(0)],
            values: &made.values,
            inputs: &inputs,
            bindings: &bindings,
        };
        let program = backend.prepare(&work).unwrap();
        for (id, input) in graph.inputs().iter_ids().filter(|&(id, _)| inputs[id].len > Bytes::ZERO) {
            let data: Vec<u32> = match input {
                Input::TokenIds => (past..past + tokens).map(|i| (i * 7 + 3) % VOCAB).collect(),
                Input::Positions | Input::OutputRows => (0..tokens).collect(),
            };
            let span = Span { len: Bytes(4 * data.len() as u64), ..inputs[id] };
            let at = BufferSpan { buffer: bindings.arena, span };
            backend.write(Queue::Compute, at, bytemuck::cast_slice(&data), &[]).unwrap();
        }
        let length = Tokens(past + tokens);
        let pages: Vec<u32> = (0..length.pages()).map(|page| 39 - page).collect();
        let cells: Vec<u32> = (past..length.0).map(|i| pages[i as usize / 16] * 16 + i % 16).collect();
        let tables = [CellTable::single(&cells, length, &pages)];
        let args = Args { tokens: Tokens(tokens), outputs: Tokens(tokens), tables: &tables };
        let done = backend.submit(program, &args, loaded.as_slice()).unwrap();
        let span = made.values[graph.output()];
        let mut out = vec![0f32; span.len.index() / 4];
        let at = BufferSpan { buffer: bindings.arena, span };
        backend.read(Queue::Compute, at, bytemuck::cast_slice_mut(&mut out), &[done]).unwrap();
        all.extend(out);
        past += tokens;
    }
    all
}

/// Few rows over a long sequence, whose parts have teams of their own, and many, whose teams sum all parts.
#[test]
fn rows_attend_to_long_sequences_as_on_the_cpu_however_many_they_are() {
    let software = adapters().first().is_none_or(|adapter| adapter.software);
    let cpu =
        CpuBackend::new(Machine::single(BackendKind::Cpu, 2, Bytes(1 << 40)).devices[DeviceId(0)].clone()).unwrap();
    for (dtype, mask, caps) in [
        (DType::F32, Mask::Causal, Caps::DEVICE),
        (DType::Q8_0, Mask::Window(300), Caps::DEVICE),
        (DType::F32, Mask::Window(260), SHARED),
    ] {
        let grow = attend(dtype, (2, 2, 64), None, mask, 640);
        let expected = steps(&grow, BackendKind::Cpu, &cpu, &[590]);
        for present in present(caps) {
            let Present { name, kind, backend, .. } = &present;
            let few = steps(&grow, *kind, &**backend, &[250, 8, 255, 1, 70, 6]);
            let many = steps(&grow, *kind, &**backend, &[590]);
            let (error, apart, bound) = (nmse(&few, &expected), nmse(&many, &expected), present.bound(FLOAT));
            eprintln!("{name}: {dtype} {mask:?}: nmse {error:.1e}, {apart:.1e}");
            assert!(error <= bound && apart <= bound, "{name}: {dtype} {mask:?}: {error:e}, {apart:e}");
            if software || *kind == BackendKind::Cuda {
                assert!(few.iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: {dtype} {mask:?}");
            }
        }
    }
}

/// Attention over caches of every type. Over f16, the CPU rounds queries and sums of the first cells to that type, too;
/// over blocks, both choose the same codes but where a sum that is rotated or multiplied elsewhere lies between two.
#[test]
fn attention_over_every_type_of_cache_is_that_of_the_cpu() {
    let bound = |dtype: DType| if dtype == DType::F16 { 2e-6 } else { FLOAT };
    let mut grows: Vec<(String, f64, Box<Grow>)> = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0, DType::Q4_0] {
        let grow = attend(dtype, (2, 3, 64), None, Mask::Causal, 128);
        grows.push((format!("attention {dtype}"), bound(dtype), Box::new(grow)));
        let grow = attend(dtype, (1, 4, 96), Some(64), Mask::Window(9), 128);
        grows.push((format!("latent windows {dtype}"), bound(dtype), Box::new(grow)));
    }
    grows.push(("odd heads".into(), FLOAT, Box::new(attend(DType::Bf16, (3, 1, 21), None, Mask::Causal, 128))));
    for tokens in [1, 50, 96] {
        let cases = grows.iter().map(|(name, bound, grow)| Case { name: name.clone(), tokens, bound: *bound, grow });
        check(&cases.collect::<Vec<_>>(), if tokens == 50 { SHARED } else { Caps::DEVICE });
    }
}
