//! What every backend that computes must do with cells of caches between steps: one attention layer whose rows come from
//! tables, so that any row can be written to any cell at any position, and compared with what was moved or turned there.

use std::collections::BTreeMap;

use loadmaster::backend::cpu::CpuBackend;
use loadmaster::backend::cpu::simd::Isa;
use loadmaster::backend::{
    self, Args, Backend, Bindings, BoundSlice, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTable,
    CellTurn, Event, ProgramId, Queue, SplitWork,
};
use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId};
use loadmaster::graph::ops::{self, Attention, CacheWrite, Embed, Mask, Rope, RopeStyle, Scaling, Select, Values};
use loadmaster::graph::{
    Batch, CacheHalf, Graph, GraphBuilder, Input, InputId, NodeId, Op, State, StateId, Weight, WeightId,
};
use loadmaster::index::IndexVec;
use loadmaster::plan::{Plan, Policy, Span, SplitId, plan};
use loadmaster::residency::{Axis, Layout, Residency, Storage, WeightSlice};
use loadmaster::tensor::{DType, quant};
use loadmaster::units::{Bytes, Tokens};

use crate::cards;

/// Rows of the tables.
const VOCAB: u32 = 128;

/// Most tokens of a step.
const STEP: u32 = 32;

/// Cells that most tests fill; the page behind them is for queries.
const FIELD: u32 = 96;

/// Cells of which a sequence may have more than two tiles.
const WIDE: u32 = 640;

/// All cells.
const CELLS: u32 = WIDE + 32;

/// How keys and queries are rotated.
#[derive(Clone, Copy)]
struct Rotated {
    style: RopeStyle,
    offset: u32,
    rotary: u32,
    yarn: bool,
    factors: bool,
}

#[derive(Clone, Copy)]
enum Kept {
    /// V rows of so many elements a head, in a cache of this type.
    Own(u32, DType),
    /// The first elements of the keys.
    Prefix(u32),
}

#[derive(Clone, Copy)]
struct Layer {
    heads: u32,
    group: u32,
    key_dim: u32,
    keys: DType,
    values: Kept,
    rope: Option<Rotated>,
    mask: Mask,
    /// The window that its cache keeps.
    kept: Option<u32>,
}

const PLAIN: Layer = Layer {
    heads: 2,
    group: 2,
    key_dim: 64,
    keys: DType::F32,
    values: Kept::Own(32, DType::F32),
    rope: None,
    mask: Mask::Causal,
    kept: None,
};

/// One row of 96 elements, of which the first 64 are the values and the last 32 are rotated.
const LATENT: Layer = Layer {
    heads: 1,
    group: 4,
    key_dim: 96,
    keys: DType::F32,
    values: Kept::Prefix(64),
    rope: Some(Rotated { style: RopeStyle::Interleaved, offset: 64, rotary: 32, yarn: true, factors: false }),
    mask: Mask::Causal,
    kept: None,
};

/// Types of caches, and how far a key that was turned may be from one that was made there: by the rounding of angles in
/// single precision and twice that of the type, which for blocks is that of numbers spread evenly below the largest.
const TYPES: [(DType, f64); 5] =
    [(DType::F32, 1e-10), (DType::F16, 5e-7), (DType::Bf16, 5e-5), (DType::Q8_0, 2e-4), (DType::Q4_0, 5e-2)];

impl Layer {
    fn of(self, dtype: DType) -> Layer {
        let values = match self.values {
            Kept::Own(dim, _) => Kept::Own(dim, dtype),
            Kept::Prefix(dim) => Kept::Prefix(dim),
        };
        Layer { keys: dtype, values, ..self }
    }
}

fn layers() -> Vec<Layer> {
    let mut all: Vec<Layer> = TYPES.iter().flat_map(|&(dtype, _)| [PLAIN.of(dtype), LATENT.of(dtype)]).collect();
    // Types apart, and heads that are no whole vectors.
    all.push(Layer { values: Kept::Own(96, DType::Q4_0), ..PLAIN.of(DType::F16) });
    all.push(Layer { key_dim: 24, values: Kept::Own(20, DType::F16), ..PLAIN.of(DType::Bf16) });
    all
}

/// What row `id` of a table has at `i`: numbers around 0, and not of one size.
fn element(seed: u32, id: u32, i: u32) -> f32 {
    let mut x = (seed * 31 + id).wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b);
    x = (x ^ x >> 15).wrapping_mul(0x2c1b_3c6d);
    x = (x ^ x >> 12).wrapping_mul(0x297a_2d39);
    ((x ^ x >> 15) as f32 / 4e9 - 0.5) * (1.0 + (id % 7) as f32)
}

fn row_of(seed: u32, id: u32, cols: u32) -> Vec<f32> {
    (0..cols).map(|i| element(seed, id, i)).collect()
}

fn rope(b: &mut GraphBuilder, x: NodeId, layer: &Layer, heads: u32, ids: (InputId, Option<WeightId>)) -> NodeId {
    let Some(Rotated { style, offset, rotary, yarn, factors: _ }) = layer.rope else { return x };
    let stretched = Scaling {
        freq_scale: 0.25,
        ext_factor: 1.0,
        attn_factor: 1.25,
        beta_fast: 32.0,
        beta_slow: 1.0,
        trained_context: 64,
    };
    let scaling =
        if yarn { stretched } else { Scaling { freq_scale: 1.0, ext_factor: 0.0, attn_factor: 1.0, ..stretched } };
    let rope = Rope {
        x,
        positions: ids.0,
        factors: ids.1,
        heads,
        head_dim: layer.key_dim,
        offset,
        rotary,
        style,
        base: 10000.0,
        scaling,
    };
    b.node(format!("rope{heads}"), Op::Rope(rope)).unwrap()
}

fn graph(layer: &Layer) -> Graph {
    let mut b = GraphBuilder::new(Batch { tokens: Tokens(STEP), outputs: Tokens(1) });
    let (ids, positions) = (b.input(Input::TokenIds), b.input(Input::Positions));
    let rows = b.input(Input::OutputRows);
    let queries = layer.heads * layer.group;
    let mut table = |name: &str, rows: u32, cols: u32| {
        b.weight(Weight { name: name.into(), dtype: DType::F32, count: 1, rows, cols, part: None }).unwrap()
    };
    let tables = [table("q", VOCAB, queries * layer.key_dim), table("k", VOCAB, layer.heads * layer.key_dim)];
    let factors = layer.rope.filter(|r| r.factors).map(|r| table("factors", 1, r.rotary / 2));
    let own = match layer.values {
        Kept::Own(dim, dtype) => Some((table("v", VOCAB, layer.heads * dim), dim, dtype)),
        Kept::Prefix(_) => None,
    };
    b.set_layer(Some(0));
    let embed = |b: &mut GraphBuilder, name: &str, weight: WeightId| {
        b.node(name, Op::Rows(ops::Rows::Embed(Embed { weight, ids, scale: 1.0 }))).unwrap()
    };
    let [q, k] = [("xq", tables[0]), ("xk", tables[1])].map(|(name, table)| embed(&mut b, name, table));
    let v = own.map(|(table, ..)| embed(&mut b, "xv", table));
    let q = rope(&mut b, q, layer, queries, (positions, factors));
    let k = rope(&mut b, k, layer, layer.heads, (positions, factors));
    let mut state = |half, dtype, head_dim| {
        let (name, heads, cells) = (format!("{half:?}"), layer.heads, Tokens(CELLS));
        let window = layer.kept.map(Tokens);
        b.state(State { name, layer: 0, half, dtype, heads, head_dim, cells, window }).unwrap()
    };
    let keys = state(CacheHalf::Keys, layer.keys, layer.key_dim);
    let own = own.map(|(_, dim, dtype)| state(CacheHalf::Values, dtype, dim));
    let values = match (layer.values, own) {
        (Kept::Prefix(prefix), _) => Values::Prefix { prefix },
        (Kept::Own(..), own) => own.unwrap().into(),
    };
    let write = b.node("write", Op::Cache(CacheWrite { k, v, keys, values: own })).unwrap();
    let scale = 1.0 / (layer.key_dim as f32).sqrt();
    let attention = Attention { q, write, keys, values, heads: queries, scale, mask: layer.mask };
    let x = b.node("attention", Op::Attention(attention)).unwrap();
    b.set_layer(None);
    let out = b.node("out", Op::Rows(ops::Rows::Select(Select { x, rows }))).unwrap();
    b.finish(out).unwrap()
}

fn factors(pairs: u32) -> Vec<f32> {
    (0..pairs).map(|i| 1.0 + i as f32 / 8.0).collect()
}

/// A device with the layer on it.
struct Rig {
    backend: Box<dyn Backend>,
    graph: Graph,
    made: Plan,
    bindings: Bindings,
    program: ProgramId,
    caches: CachesId,
}

impl Rig {
    fn new(backend: Box<dyn Backend>, layer: &Layer) -> Rig {
        let graph = graph(layer);
        let machine = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 40));
        let homes = Residency::in_one(&graph, MemoryId(0), |_, _| (Layout::Gguf, Storage::Allocated));
        let made = plan(&graph, &homes, &machine, &Policy::default()).unwrap();
        let bindings = bind(&graph, &made, &*backend);
        let mut divisors = BTreeMap::new();
        for (id, weight) in graph.weights().iter_ids() {
            let data = match weight.name.as_str() {
                "factors" => factors(weight.cols),
                name => (0..VOCAB).flat_map(|row| row_of(name.as_bytes()[0].into(), row, weight.cols)).collect(),
            };
            let at = bindings.weights[id][0].at;
            let loaded = backend.write(Queue::Upload, at, bytemuck::cast_slice(&data), &[]).unwrap();
            backend.wait(loaded).unwrap();
            if weight.name == "factors" {
                divisors.insert(id, data);
            }
        }
        let inputs = made.view(DeviceId(0), graph.inputs().len()).inputs;
        let split = &made.splits[SplitId(0)];
        let work = SplitWork { graph: &graph, split, values: &made.values, inputs: &inputs, bindings: &bindings };
        let program = backend.prepare(&work).unwrap();
        let work = CacheWork { graph: &graph, states: &bindings.states, factors: &divisors };
        let caches = backend.prepare_caches(&work).unwrap();
        Rig { backend, graph, made, bindings, program, caches }
    }

    /// Runs a step of rows, each a row of the tables, a position and a cell; the attention of the last over `length` cells
    /// in pages 0, 1, 2 and so on.
    fn step(&self, rows: &[(u32, u32, u32)], length: u32) -> Vec<f32> {
        let pages: Vec<u32> = (0..Tokens(length).pages()).collect();
        self.step_of(rows, length, (&pages, &[]), rows.len() as u32 - 1)
    }

    /// The same over the cells of any table and their masks, of any of the rows.
    fn step_of(&self, rows: &[(u32, u32, u32)], length: u32, (pages, live): (&[u32], &[u16]), row: u32) -> Vec<f32> {
        let cells: Vec<u32> = rows.iter().map(|row| row.2).collect();
        self.step_over(rows, CellTable { live: live.to_vec(), ..CellTable::single(&cells, Tokens(length), pages) }, row)
    }

    /// The same over any table of the step's class.
    fn step_over(&self, rows: &[(u32, u32, u32)], table: CellTable, row: u32) -> Vec<f32> {
        let count = rows.len() as u32;
        let inputs = self.made.view(DeviceId(0), self.graph.inputs().len()).inputs;
        let put = |input: u32, data: &[u32]| {
            let span = Span { len: Bytes::of_len(4 * data.len()), ..inputs[InputId(input)] };
            let at = BufferSpan { buffer: self.bindings.arena, span };
            self.backend.write(Queue::Compute, at, bytemuck::cast_slice(data), &[]).unwrap();
        };
        put(0, &rows.iter().map(|row| row.0).collect::<Vec<_>>());
        put(1, &rows.iter().map(|row| row.1).collect::<Vec<_>>());
        put(2, &[row]);
        // Without caches that keep all, their table is one of no pages.
        let whole = CellTable::single(&table.cells, Tokens(count), &vec![0; Tokens(count).pages() as usize]);
        let tables = if self.graph.classes().len() > 1 { vec![whole, table] } else { vec![table] };
        let args = Args { tokens: Tokens(count), outputs: Tokens(1), tables: &tables };
        let done = self.backend.submit(self.program, &args, &[]).unwrap();
        let span = self.made.values[self.graph.output()];
        let mut out = vec![0f32; span.len.index() / 4];
        let at = BufferSpan { buffer: self.bindings.arena, span };
        self.backend.read(Queue::Compute, at, bytemuck::cast_slice_mut(&mut out), &[done]).unwrap();
        out
    }

    /// Writes rows of the tables, at their positions, to cells 0, 1, 2 and so on.
    fn fill(&self, rows: &[(u32, u32)]) {
        let rows: Vec<(u32, u32, u32)> = (0..).zip(rows).map(|(cell, &(id, position))| (id, position, cell)).collect();
        rows.chunks(STEP as usize).for_each(|rows| _ = self.step(rows, rows.len() as u32));
    }

    /// What a query attends to in all cells that are filled, and its own.
    fn attend(&self, position: u32) -> Vec<f32> {
        self.step(&[(VOCAB - 1, position, FIELD)], FIELD + 1)
    }

    fn read(&self, state: StateId, cells: &[u32]) -> Vec<u8> {
        let mut rows = vec![0; self.graph.states()[state].row_bytes().index() * cells.len()];
        self.backend.read_cells(self.caches, state, cells, &mut rows, &[]).unwrap();
        rows
    }

    /// The rows of all filled cells, state by state.
    fn rows(&self) -> Vec<Vec<u8>> {
        let cells: Vec<u32> = (0..FIELD).collect();
        self.graph.states().ids().map(|state| self.read(state, &cells)).collect()
    }

    /// The keys of all filled cells as numbers.
    fn keys(&self) -> Vec<f32> {
        let state = &self.graph.states()[StateId(0)];
        let rows = self.read(StateId(0), &(0..FIELD).collect::<Vec<_>>());
        let mut keys = vec![0.0; (state.heads * state.head_dim * FIELD) as usize];
        quant::decode(state.dtype, &rows, &mut keys).unwrap();
        keys
    }
}

fn bind(graph: &Graph, made: &Plan, backend: &dyn Backend) -> Bindings {
    let whole = |len: Bytes| {
        let buffer = backend.alloc(BufferKind::Device, len).unwrap();
        BufferSpan { buffer, span: Span { offset: Bytes::ZERO, len } }
    };
    let weights = graph.weights().iter_ids().map(|(weight, of)| {
        let slice = WeightSlice { weight, axis: Axis::Expert, range: 0..1 };
        vec![BoundSlice { slice, layout: Layout::Gguf, at: whole(of.bytes()) }]
    });
    let arena = whole(made.arenas[DeviceId(0)].bytes).buffer;
    let states: IndexVec<StateId, _> = graph.states().iter().map(|state| Some(whole(state.bytes()))).collect();
    Bindings { arena, weights: weights.collect(), states }
}

/// Opens a backend that computes.
type Open = Box<dyn Fn() -> Box<dyn Backend>>;

/// Every backend that computes on this machine, and the CPU's with each instruction set.
fn computing() -> Vec<(String, Open)> {
    let spec = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 40)).devices[DeviceId(0)].clone();
    let isas = Isa::ALL.into_iter().filter(|isa| isa.available()).map(|isa| {
        let spec = spec.clone();
        let open: Open = Box::new(move || Box::new(CpuBackend::with_isa(spec.clone(), isa).unwrap()));
        (format!("cpu {isa}"), open)
    });
    let cards = cards::present().into_iter().map(|card| {
        let name = card.kind.name().to_owned();
        let open: Open = Box::new(move || card.backend());
        (name, open)
    });
    isas.chain(cards).collect()
}

/// Backends of one kind make the same bits.
fn kind_of(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Moves of every shape: within a page, over pages, overlapping both ways, whole pages; then any.
fn moves() -> Vec<CellMove> {
    let shapes = [
        (3, 9, 4),
        (2, 5, 8),
        (9, 6, 7),
        (4, 4, 9),
        (16, 48, 16),
        (0, 16, 64),
        (32, 16, 48),
        (16, 19, 0),
        (5, 21, 30),
        (40, 33, 40),
        (1, 2, 94),
        (7, 0, 89),
        (95, 0, 1),
        (0, 80, 16),
        (0, 0, 96),
    ];
    let mut x = 12345u32;
    let mut next = |below: u32| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) % below
    };
    let any = (0..60).map(|_| {
        let len = next(FIELD) / (1 + next(5));
        (next(FIELD - len), next(FIELD - len), len)
    });
    shapes.into_iter().chain(any).map(|(src, dst, len)| CellMove { src, dst, len }).collect()
}

/// The rows that the first cells hold: each of another id, at its position.
fn filled() -> Vec<(u32, u32)> {
    (0..FIELD).map(|id| (id, id + 20)).collect()
}

#[test]
fn rows_move_as_in_a_plain_array_and_are_attended_to_where_they_are() {
    let mut known = BTreeMap::new();
    for (name, open) in computing() {
        for (i, layer) in layers().into_iter().enumerate() {
            let rig = Rig::new(open(), &layer);
            let (mut held, moves) = (filled(), moves());
            rig.fill(&held);
            let mut rows = rig.rows();
            for moves in moves.chunks(4) {
                let done = rig.backend.rearrange(rig.caches, moves, &[]).unwrap();
                rig.backend.wait(done).unwrap();
                for &CellMove { src, dst, len } in moves {
                    let range = |from: u32, row: usize| from as usize * row..(from + len) as usize * row;
                    held.copy_within(range(src, 1), dst as usize);
                    for rows in &mut rows {
                        let row = rows.len() / FIELD as usize;
                        rows.copy_within(range(src, row), dst as usize * row);
                    }
                }
                assert!(rig.rows() == rows, "{name} layer {i}: {moves:?}");
            }
            assert!(held != filled() && held.iter().any(|row| *row != held[0]));
            let fresh = Rig::new(open(), &layer);
            fresh.fill(&held);
            let (moved, written) = (rig.attend(200), fresh.attend(200));
            assert!(written.iter().all(|x| x.is_finite()) && written.iter().any(|&x| x != 0.0));
            assert!(bits(&moved) == bits(&written), "{name} layer {i}");
            let first = known.entry((kind_of(&name).to_owned(), i)).or_insert_with(|| bits(&moved));
            assert!(*first == bits(&moved), "{name} layer {i}: other bits than with another instruction set");
        }
    }
}

/// A table of pages that are there twice, in pieces: of each cell at most one, of some none.
fn holes() -> (Vec<u32>, Vec<u16>) {
    let mut x = 99u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 16) as u16
    };
    let there: Vec<u16> = (0..WIDE / 16).map(|page| if page % 5 == 0 { u16::MAX } else { next() | next() }).collect();
    // Of every fourth page all cells come at once.
    let pieces = there.iter().enumerate().map(|(page, mask)| if page % 4 == 0 { *mask } else { mask & next() });
    let first: Vec<u16> = pieces.collect();
    let pages = (0..WIDE / 16).map(|i| i * 7 % (WIDE / 16));
    let early = pages.clone().map(|page| (page, first[page as usize]));
    let late = pages.map(|page| (page, there[page as usize] & !first[page as usize]));
    early.chain(late).unzip()
}

/// Holes change no bit, wherever they are: of the cells of more than two tiles, for one row and for several, with all
/// cells in reach or some.
#[test]
fn holes_are_as_if_they_were_not_there() {
    for (name, open) in computing() {
        let windowed = |n| Layer { mask: Mask::Window(n), ..PLAIN.of(DType::F16) };
        let odd = Layer { key_dim: 24, values: Kept::Own(20, DType::F16), ..PLAIN };
        let layers = [PLAIN, windowed(20), windowed(300), odd, LATENT.of(DType::Q4_0), PLAIN.of(DType::Q8_0)];
        for (i, layer) in layers.into_iter().enumerate() {
            let (rig, dense) = (Rig::new(open(), &layer), Rig::new(open(), &layer));
            let rows: Vec<(u32, u32)> = (0..WIDE).map(|cell| (cell * 7 % 127, cell)).collect();
            rig.fill(&rows);
            let (mut pages, mut live) = holes();
            let cells = pages.iter().zip(&live).flat_map(|(page, mask)| {
                (0..16).filter(move |lane| mask >> lane & 1 == 1).map(move |lane| page * 16 + lane)
            });
            let held: Vec<(u32, u32)> = cells.map(|cell| rows[cell as usize]).collect();
            let count = held.len() as u32;
            assert!(count > 400 && count < WIDE - 100 && !count.is_multiple_of(16), "{count}");
            dense.fill(&held);
            // The step's own rows lie behind them all.
            pages.extend([WIDE / 16, WIDE / 16 + 1]);
            live.extend([u16::MAX, 0xf]);
            let all: Vec<u32> = (0..Tokens(count + 20).pages()).collect();
            let rows = |first: u32| (0..20).map(|i| (i * 3 + 1, 700 + i, first + i)).collect::<Vec<_>>();
            for row in [0, 7, 19] {
                let found = rig.step_of(&rows(WIDE), count + 20, (&pages, &live), row);
                let expected = dense.step_of(&rows(count), count + 20, (&all, &[]), row);
                assert!(found.iter().any(|&x| x != 0.0) && found.iter().all(|x| x.is_finite()));
                assert!(bits(&found) == bits(&expected), "{name} layer {i}, row {row}");
            }
            *live.last_mut().unwrap() = 1;
            let one = [(5, 800, WIDE + 16)];
            let found = rig.step_of(&one, count + 17, (&pages, &live), 0);
            let expected = dense.step_of(&[(5, 800, count + 16)], count + 17, (&all, &[]), 0);
            assert!(bits(&found) == bits(&expected), "{name} layer {i}");
        }
    }
}

/// What lies behind a window may be left out of the table, and changes no bit: with holes and without, for rows that begin
/// anywhere in a page. More of it is refused.
#[test]
fn cells_behind_a_window_may_be_left_out() {
    for (name, open) in computing() {
        for (window, dtype) in [(1, DType::F32), (20, DType::F16), (300, DType::F16), (300, DType::Q8_0)] {
            let layer = Layer { mask: Mask::Window(window), kept: Some(window), ..PLAIN.of(dtype) };
            let rig = Rig::new(open(), &layer);
            rig.fill(&(0..WIDE).map(|cell| (cell * 7 % 127, cell)).collect::<Vec<_>>());
            for (before, count) in [(600, 1), (607, 20), (320, 3), (WIDE - 20, 20)] {
                let rows: Vec<_> = (0..count).map(|i| (i * 3 + 1, before + i, before + i)).collect();
                let cells: Vec<u32> = rows.iter().map(|row| row.2).collect();
                let length = Tokens(before + count);
                let pages: Vec<u32> = (0..length.pages()).collect();
                let full = CellTable::single(&cells, length, &pages);
                let most = (before + 1).saturating_sub(window);
                let left_out = |behind: u32, live: bool| {
                    let first = behind / 16;
                    let mut table = CellTable::single(&cells, length, &pages[first as usize..]);
                    table.sequences[0].behind = Tokens(behind);
                    if live {
                        table.live = (first..length.pages()).map(|_| u16::MAX).collect();
                        table.live[0] <<= behind % 16;
                        *table.live.last_mut().unwrap() &= u16::MAX >> ((16 - length.0 % 16) % 16);
                    }
                    table
                };
                let row = count - 1;
                let expected = bits(&rig.step_over(&rows, full, row));
                for behind in [16, most / 32 * 16, most / 16 * 16] {
                    assert!(bits(&rig.step_over(&rows, left_out(behind, false), row)) == expected, "{name} {behind}");
                }
                for behind in [1, most / 2, most] {
                    assert!(bits(&rig.step_over(&rows, left_out(behind, true), row)) == expected, "{name} {behind}");
                }
                let refused = |table: CellTable, why: &str| {
                    let whole =
                        CellTable::single(&table.cells, Tokens(count), &vec![0; Tokens(count).pages() as usize]);
                    let args = Args { tokens: Tokens(count), outputs: Tokens(1), tables: &[whole, table] };
                    let error = rig.backend.submit(rig.program, &args, &[]).unwrap_err().to_string();
                    assert!(error.contains(why), "{error}");
                };
                refused(left_out(most + 1, true), "cells behind the window of a sequence at most");
                if most % 16 != 0 {
                    refused(left_out(most, false), "cells behind the window beyond whole pages");
                }
            }
        }
    }
}

/// Types but f16, which rounds queries too, change what is kept and nothing of how it is attended to; on CUDA tensor cores
/// multiply halves of all.
#[test]
fn attention_over_rounded_rows_is_attention_over_the_numbers_that_they_stand_for() {
    for (name, open) in computing() {
        for dtype in [DType::Bf16, DType::Q8_0, DType::Q4_0] {
            for layer in [PLAIN, LATENT] {
                let (rounded, exact) = (Rig::new(open(), &layer.of(dtype)), Rig::new(open(), &layer));
                rounded.fill(&filled());
                let cells: Vec<u32> = (0..FIELD).collect();
                for (id, rows) in rounded.graph.states().ids().zip(rounded.rows()) {
                    let mut numbers = vec![0f32; exact.read(id, &cells).len() / 4];
                    quant::decode(dtype, &rows, &mut numbers).unwrap();
                    exact.backend.write_cells(exact.caches, id, &cells, bytemuck::cast_slice(&numbers), &[]).unwrap();
                }
                // The query's own row is none of those that it attends to.
                let [found, expected] = [&rounded, &exact].map(|rig| rig.step(&[(VOCAB - 1, 150, FIELD)], FIELD));
                let halves = kind_of(&name) == "cuda" && nmse(&found, &expected) < 1e-6;
                assert!(halves || bits(&found) == bits(&expected), "{name} {dtype}");
            }
        }
    }
}

/// Rows are those of the file formats, whatever pages look like, and come back bit for bit.
#[test]
fn rows_go_out_as_files_hold_them_and_come_back() {
    for (name, open) in computing() {
        for (i, layer) in layers().into_iter().enumerate() {
            let layer = Layer { rope: None, ..layer };
            let rig = Rig::new(open(), &layer);
            rig.fill(&filled());
            for (id, state) in rig.graph.states().iter_ids() {
                let (seed, cols) =
                    (if state.half == CacheHalf::Keys { b'k' } else { b'v' }, state.heads * state.head_dim);
                let mut expected = vec![0; state.row_bytes().index()];
                for cell in [0, 17, 95] {
                    quant::encode(state.dtype, &row_of(seed.into(), cell, cols), &mut expected).unwrap();
                    assert!(rig.read(id, &[cell]) == expected, "{name} layer {i}: {} of cell {cell}", state.name);
                }
            }
            // Every fifth cell, which leaves none of the 96 out.
            let from: Vec<u32> = (0..FIELD).map(|cell| cell * 5 % FIELD).collect();
            let to: Vec<u32> = (0..FIELD).map(|cell| (cell + 7) % FIELD).collect();
            let (copy, fresh) = (Rig::new(open(), &layer), Rig::new(open(), &layer));
            for state in rig.graph.states().ids() {
                let rows = rig.read(state, &from);
                let done = copy.backend.write_cells(copy.caches, state, &to, &rows, &[]).unwrap();
                copy.backend.wait(done).unwrap();
                assert!(copy.read(state, &to) == rows, "{name} layer {i}");
            }
            let mut held = filled();
            (0..FIELD as usize).for_each(|i| held[to[i] as usize] = filled()[from[i] as usize]);
            fresh.fill(&held);
            assert!(bits(&copy.attend(200)) == bits(&fresh.attend(200)), "{name} layer {i}");
        }
    }
}

fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(expected).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    difference / expected.iter().map(|&x| square(f64::from(x))).sum::<f64>()
}

/// Rotations of both styles, of a part of the head, with divisors, stretched by YaRN, and of the end of a latent row.
fn rotated() -> Vec<Layer> {
    let halves = Rotated { style: RopeStyle::Halves, offset: 0, rotary: 64, yarn: false, factors: false };
    let all = [
        halves,
        Rotated { style: RopeStyle::Interleaved, ..halves },
        Rotated { yarn: true, ..halves },
        Rotated { factors: true, yarn: true, style: RopeStyle::Interleaved, ..halves },
        Rotated { rotary: 40, offset: 8, ..halves },
    ];
    all.into_iter().map(|rope| Layer { rope: Some(rope), ..PLAIN }).chain([LATENT]).collect()
}

/// Cells 0 to 89 in three runs; what is behind them is left as it is.
const TURNS: [CellTurn; 4] = [
    CellTurn { first: 0, len: 37, delta: 5 },
    CellTurn { first: 37, len: 1, delta: -20 },
    CellTurn { first: 38, len: 52, delta: 11 },
    CellTurn { first: 90, len: 6, delta: 0 },
];

#[test]
fn turned_keys_are_those_of_other_positions() {
    let mut known: BTreeMap<(String, usize, DType), Vec<Vec<u8>>> = BTreeMap::new();
    for (name, open) in computing() {
        for (i, layer) in rotated().into_iter().enumerate() {
            for (dtype, bound) in TYPES {
                let what = format!("{name} layer {i} {dtype}");
                let layer = layer.of(dtype);
                let (rig, fresh) = (Rig::new(open(), &layer), Rig::new(open(), &layer));
                rig.fill(&filled());
                let before = (rig.rows(), rig.keys());
                let done = rig.backend.turn(rig.caches, &TURNS, &[]).unwrap();
                rig.backend.wait(done).unwrap();
                let mut held = filled();
                for CellTurn { first, len, delta } in TURNS {
                    let turned = &mut held[first as usize..(first + len) as usize];
                    turned.iter_mut().for_each(|row| row.1 = row.1.wrapping_add_signed(delta));
                }
                fresh.fill(&held);
                let (found, expected) = (rig.keys(), fresh.keys());
                let (error, apart) = (nmse(&found, &expected), nmse(&before.1, &expected));
                let mixed = nmse(&rig.attend(150), &fresh.attend(150));
                eprintln!("{what}: keys {error:.1e}, before {apart:.1e}, attention {mixed:.1e}");
                assert!(error <= bound && apart > 2.0 * bound, "{what}: {error:e}, before {apart:e}");
                // Errors of scores are those of keys times some, and weights are their exponentials.
                let most = if dtype == DType::F32 { 1e-10 } else { 10.0 * bound };
                assert!(mixed <= most, "{what}: attention {mixed:e}");
                left_alone(&what, &rig, &before, &layer);
                let rows = rig.rows();
                let first = known.entry((kind_of(&name).to_owned(), i, dtype)).or_insert_with(|| rows.clone());
                assert!(*first == rows, "{what}: other bits than with another instruction set");
            }
        }
    }
}

/// Values, cells that did not turn and elements that are not rotated have the bits that they had.
fn left_alone(what: &str, rig: &Rig, before: &(Vec<Vec<u8>>, Vec<f32>), layer: &Layer) {
    let rows = rig.rows();
    assert!(rows[1..] == before.0[1..], "{what}: values");
    let behind = rows[0].len() / FIELD as usize * 90;
    assert!(rows[0][behind..] == before.0[0][behind..], "{what}: other cells");
    let Some(Rotated { offset, rotary, .. }) = layer.rope else { return };
    // Blocks of quantised types that the rotation reaches into are scaled anew.
    let block = layer.keys.block().elements;
    let plain = |i: usize| {
        let i = i as u32 % layer.key_dim;
        i < offset / block * block || i >= (offset + rotary).next_multiple_of(block)
    };
    let keys = rig.keys();
    let same = |(i, (a, b)): (usize, (&f32, &f32))| !plain(i) || a.to_bits() == b.to_bits();
    assert!(keys.iter().zip(&before.1).enumerate().all(same), "{what}: elements that are not rotated");
}

#[test]
fn keys_that_were_not_rotated_do_not_turn() {
    for (name, open) in computing() {
        let rig = Rig::new(open(), &PLAIN);
        rig.fill(&filled());
        let before = rig.rows();
        rig.backend.turn(rig.caches, &TURNS, &[]).unwrap();
        assert!(rig.rows() == before, "{name}");
    }
}

/// Backends refuse the same, with the same words, and change nothing.
#[test]
fn cells_that_there_are_not_are_refused_before_anything_changes() {
    let null: Open = Box::new(|| {
        let machine = Machine::single(BackendKind::Null, 2, Bytes(1 << 40));
        backend::open(&machine.devices[DeviceId(0)]).unwrap()
    });
    for (name, open) in computing().into_iter().chain([("null".to_owned(), null)]) {
        let rig = Rig::new(open(), &LATENT);
        rig.fill(&filled());
        let before = rig.rows();
        let Rig { backend, caches, .. } = &rig;
        let good = CellMove { src: 0, dst: 50, len: 9 };
        let refused = |result: Result<Event, backend::BackendError>, why: &str| {
            let error = result.expect_err(why).to_string();
            assert!(error.contains(why), "{name}: {error}");
        };
        let moved = |step: CellMove| backend.rearrange(*caches, &[good, step], &[]);
        refused(moved(CellMove { src: 664, ..good }), "the source of move 1: cells 664..673 leave a cache of 672");
        refused(moved(CellMove { dst: 664, ..good }), "the target of move 1: cells 664..673 leave a cache of 672");
        refused(moved(CellMove { len: u32::MAX, ..good }), "cells 0..4294967295 leave");
        refused(moved(CellMove { src: u32::MAX, ..good }), "cells 4294967295..4294967304 leave");
        let turn = CellTurn { first: 670, len: 3, delta: 1 };
        refused(backend.turn(*caches, &[TURNS[0], turn], &[]), "turn 1: cells 670..673 leave a cache of 672");
        let rows = vec![1; rig.graph.states()[StateId(0)].row_bytes().index() * 2];
        let written = |state, cells: &[u32], rows: &[u8]| backend.write_cells(*caches, state, cells, rows, &[]);
        refused(written(StateId(0), &[5, 672], &rows), "row 1: cells 672..673 leave a cache of 672");
        refused(written(StateId(0), &[5], &rows), "bytes of a range must be 384, found 768");
        refused(written(StateId(1), &[5], &rows), "s1 is not among the caches");
        refused(backend.rearrange(CachesId(7), &[], &[]), "caches c7 do not exist");
        refused(backend.rearrange(*caches, &[good], &[Event(1 << 40)]), "was never submitted");
        refused(backend.turn(*caches, &TURNS, &[Event(1 << 40)]), "was never submitted");
        let mut rows = rows;
        let error = backend.read_cells(*caches, StateId(0), &[672, 0], &mut rows, &[]).unwrap_err().to_string();
        assert!(error.contains("row 0: cells 672..673 leave a cache of 672"), "{name}: {error}");
        assert!(rig.rows() == before, "{name}: a refusal has changed something");
        backend.rearrange(*caches, &[CellMove { src: 96, dst: 0, len: 16 }], &[]).unwrap();
        let over = |live: &[u16]| {
            let table = CellTable { live: live.to_vec(), ..CellTable::single(&[0], Tokens(17), &[3, 3]) };
            let args = Args { tokens: Tokens(1), outputs: Tokens(1), tables: &[table] };
            backend.submit(rig.program, &args, &[])
        };
        refused(over(&[u16::MAX]), "masks, one a page, must be 2, found 1");
        refused(over(&[u16::MAX, 3]), "live cells of a sequence must be 17, found 18");
        over(&[u16::MAX, 8]).unwrap();
    }
}
