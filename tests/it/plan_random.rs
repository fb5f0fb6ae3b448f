//! Random graphs, machines, homes and policies: what the planner may be given.

use loadmaster::device::{BackendKind, Bus, BusId, DeviceSpec, Link, Machine, MemoryId, MemorySpec, Rates, Types};
use loadmaster::graph::ops::{
    Activation, Attention, CacheWrite, Combine, Elementwise, Embed, Experts, Gating, Mask, MatMul, Moe, Norm, Route,
    Rows, Select,
};
use loadmaster::graph::{Batch, CacheHalf, Graph, GraphBuilder, Input, NodeId, Op, State, StateId, Weight, WeightId};
use loadmaster::index::IndexVec;
use loadmaster::plan::{Member, Offload, Plan, PlanError, Policy, partition, plan, shard};
use loadmaster::residency::{Axis, Home, Layout, Residency, Storage, WeightSlice};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, BytesPerSec, Nanos, OpsPerSec, Tokens};

/// Numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const WIDTHS: [u32; 4] = [32, 64, 96, 256];
const TYPES: [DType; 5] = [DType::F32, DType::F16, DType::Q4_0, DType::Q8_0, DType::Q5_1];

/// Grows a random graph: any op on any values that fit it, so that lifetimes overlap in every way.
struct Grower {
    random: Random,
    builder: GraphBuilder,
    values: Vec<(NodeId, u32)>,
    names: usize,
    layer: u32,
}

impl Grower {
    fn stack(&mut self, count: u32, rows: u32, cols: u32) -> WeightId {
        self.names += 1;
        let dtype = if rows == 1 { DType::F32 } else { self.random.of(&TYPES) };
        let name = format!("w{}", self.names);
        self.builder.weight(Weight { name, dtype, count, rows, cols, part: None }).unwrap()
    }

    fn weight(&mut self, rows: u32, cols: u32) -> WeightId {
        self.stack(1, rows, cols)
    }

    /// Biases, one row an expert.
    fn table(&mut self, rows: u32, cols: u32) -> WeightId {
        self.names += 1;
        let name = format!("w{}", self.names);
        self.builder.weight(Weight { name, dtype: DType::F32, count: 1, rows, cols, part: None }).unwrap()
    }

    fn state(&mut self, half: CacheHalf, heads: u32, head_dim: u32) -> StateId {
        self.names += 1;
        let (name, dtype, layer) = (format!("s{}", self.names), DType::F16, self.layer);
        let state = State { name, layer, half, dtype, heads, head_dim, cells: Tokens(64), window: None };
        self.builder.state(state).unwrap()
    }

    fn node(&mut self, op: Op) -> NodeId {
        self.names += 1;
        self.builder.node(format!("n{}", self.names), op).unwrap()
    }

    fn value(&mut self) -> (NodeId, u32) {
        let recent = self.values.len().min(1 + self.random.below(8));
        self.values[self.values.len() - 1 - self.random.below(recent)]
    }

    fn width(&mut self) -> u32 {
        self.random.of(&WIDTHS)
    }

    /// The last value of `cols` columns.
    fn last(&self, cols: u32) -> Option<NodeId> {
        self.values.iter().rev().find(|v| v.1 == cols).map(|v| v.0)
    }

    fn matmul(&mut self, x: NodeId, rows: u32, cols: u32, residual: Option<NodeId>) -> NodeId {
        let weight = self.weight(rows, cols);
        let bias = self.random.once_in(3).then(|| self.weight(1, rows));
        self.node(Op::MatMul(MatMul { x, weight, bias, residual }))
    }

    fn grow(&mut self) {
        if self.random.once_in(4) {
            self.layer += 1;
        }
        self.builder.set_layer(Some(self.layer));
        let (x, cols) = self.value();
        let other = self.last(cols).unwrap_or(x);
        let made = match self.random.below(7) {
            0 => {
                let weight = self.weight(1, cols);
                (self.node(Op::Norm(Norm { x, weight, eps: 1e-5, heads: 1, carried: 0 })), cols)
            }
            1 | 2 => {
                let rows = self.width();
                let residual = self.last(rows);
                (self.matmul(x, rows, cols, residual), rows)
            }
            3 => {
                let op = Elementwise::Gated { gate: x, up: other, activation: Activation::Silu };
                (self.node(Op::Elementwise(op)), cols)
            }
            4 | 5 => {
                let heads = cols / 32;
                let keys = self.state(CacheHalf::Keys, heads, 32);
                let values = self.state(CacheHalf::Values, heads, 32);
                let write = self.node(Op::Cache(CacheWrite { k: x, v: Some(other), keys, values: Some(values) }));
                let op = Attention { q: x, write, keys, values: values.into(), heads, scale: 0.2, mask: Mask::Causal };
                (self.node(Op::Attention(op)), cols)
            }
            _ => (self.experts(x, cols), cols),
        };
        self.values.push(made);
    }

    /// An expert layer on `x`: routing, gate and up, down, and the weighted sum.
    fn experts(&mut self, x: NodeId, cols: u32) -> NodeId {
        let (count, inner) = (2 + self.random.below(7) as u32, self.random.of(&WIDTHS[..3]));
        let logits = self.matmul(x, count, cols, None);
        let used = 1 + self.random.below(count as usize) as u32;
        let (gating, normalize, scale) = (Gating::Softmax, true, 1.0);
        let routing =
            self.node(Op::Moe(Moe::Route(Route { logits, used, gating, bias: None, groups: None, normalize, scale })));
        let product = |g: &mut Grower, x, rows, cols, slotted| {
            let weight = g.stack(count, rows, cols);
            let bias = g.random.once_in(3).then(|| g.table(count, rows));
            g.node(Op::Moe(Moe::Experts(Experts { x, routing, weight, bias, slotted, part: None })))
        };
        let (gate, up) = (product(self, x, inner, cols, false), product(self, x, inner, cols, false));
        let gated = self.node(Op::Elementwise(Elementwise::Gated { gate, up, activation: Activation::Silu }));
        let down = product(self, gated, cols, inner, true);
        let shared = self.random.once_in(2).then_some(x);
        let residual = self.random.once_in(2).then(|| self.last(cols)).flatten();
        self.node(Op::Moe(Moe::Combine(Combine { x: down, routing, shared, residual, part: None })))
    }
}

pub fn random_graph(seed: u64, steps: usize, tokens: u32, outputs: u32) -> Graph {
    let builder = GraphBuilder::new(Batch { tokens: Tokens(tokens), outputs: Tokens(outputs) });
    let mut g = Grower { random: Random(seed), builder, values: Vec::new(), names: 0, layer: 0 };
    let (ids, rows) = (g.builder.input(Input::TokenIds), g.builder.input(Input::OutputRows));
    let width = g.width();
    let weight = g.weight(100, width);
    let embedded = g.node(Op::Rows(Rows::Embed(Embed { weight, ids, scale: 1.0 })));
    g.values.push((embedded, width));
    for _ in 0..steps {
        g.grow();
    }
    g.builder.set_layer(None);
    let (x, _) = *g.values.last().unwrap();
    let output = g.node(Op::Rows(Rows::Select(Select { x, rows })));
    g.builder.finish(output).unwrap()
}

/// Processors with memories of their own, a host with accelerators, one of them in the host's memory.
pub fn random_machine(r: &mut Random) -> Machine {
    let budget = if r.once_in(8) { Bytes(1 << (16 + r.below(8))) } else { Bytes(1 << 40) };
    match r.below(4) {
        0 => Machine::single(BackendKind::Cpu, 1 + r.below(4) as u32, budget),
        1 => Machine::isolated(BackendKind::Cpu, 2 + r.below(3) as u32, 2, budget),
        _ => with_accelerators(r, budget),
    }
}

/// A host with one to three accelerators; what the host links may be cut, or shared.
pub fn with_accelerators(r: &mut Random, budget: Bytes) -> Machine {
    let mut machine = Machine::single(BackendKind::Cpu, 2, budget);
    let host = MemoryId(0);
    machine.buses.push(Bus { name: "root".into(), rate: BytesPerSec(30e9) });
    for i in 0..1 + r.below(3) {
        let shares = r.once_in(4);
        let memory = if shares { host } else { accelerator_memory(r, &mut machine, i, budget) };
        let (name, uid) = (format!("cuda:{i}"), format!("{:02x}:00.0", 200 - i));
        let types = if r.once_in(40) { Types::Kernels } else { Types::All };
        machine.devices.push(DeviceSpec {
            name,
            uid,
            kind: r.of(&[BackendKind::Cuda, BackendKind::Vulkan]),
            memory,
            workers: 0,
            alignment: r.of(&[64, 128, 256]),
            overhead: Bytes(if r.once_in(3) { 1000 } else { 0 }),
            types,
            rates: random_rates(r),
            accelerator: None,
            overlaps: r.once_in(2),
        });
    }
    machine
}

fn accelerator_memory(r: &mut Random, machine: &mut Machine, i: usize, budget: Bytes) -> MemoryId {
    let spec =
        MemorySpec { name: format!("cuda:{i}"), total: budget, free: budget, reserve: Bytes(r.below(100) as u64) };
    let memory = machine.memories.push(spec);
    let rate = BytesPerSec(r.of(&[4e9, 12e9, 50e9]));
    let bus = r.once_in(2).then_some(BusId(0));
    let link = |a, bus| Link { a, b: memory, rate, pageable: rate, latency: Nanos(10_000), bus };
    if !r.once_in(16) {
        machine.links.push(link(MemoryId(0), bus));
    }
    let others: Vec<MemoryId> = machine.memories.ids().filter(|&m| m != MemoryId(0) && m != memory).collect();
    for other in others {
        if r.once_in(2) {
            machine.links.push(link(other, None));
        }
    }
    memory
}

fn random_rates(r: &mut Random) -> Rates {
    let ops = OpsPerSec(r.of(&[1e12, 2e13, 2e14]));
    Rates {
        read: BytesPerSec(r.of(&[1e11, 9e11])),
        int8: ops,
        f16: ops,
        f32: OpsPerSec(ops.0 / 4.0),
        node: Nanos(r.below(5_000) as u64),
        split: Nanos(r.below(20_000) as u64),
        hides: r.of(&[0.0, 0.5, 1.0]),
    }
}

/// Homes near each other by layer: whole, in runs of experts, or the same in several memories.
pub fn random_homes(r: &mut Random, graph: &Graph, machine: &Machine) -> Residency {
    let memories: Vec<MemoryId> = machine.memories.ids().collect();
    // Most weights in the host's memory, so that much is streamed.
    let usual = if r.once_in(2) { vec![MemoryId(0)] } else { memories.clone() };
    let scattered = r.once_in(3);
    let weights = graph.weights().iter_ids().map(|(id, weight)| {
        let near = usual[id.0 as usize / 6 % usual.len()];
        let memory = if scattered || r.once_in(8) { r.of(&memories) } else { near };
        let replicated = r.once_in(if weight.rows == 1 { 2 } else { 20 });
        match (weight.count, replicated) {
            (_, true) => memories.iter().map(|&m| home(r, machine, id, weight, m, 0..weight.count)).collect(),
            (1, false) => vec![home(r, machine, id, weight, memory, 0..1)],
            (count, false) => runs(r, count)
                .map(|run| {
                    let memory = if r.once_in(3) { memory } else { r.of(&memories) };
                    home(r, machine, id, weight, memory, run)
                })
                .collect(),
        }
    });
    let weights: IndexVec<WeightId, Vec<Home>> = weights.collect();
    // Keys and values of a layer are one cache.
    let mut last = MemoryId(0);
    let states = graph.states().iter().map(|state| {
        if state.half == CacheHalf::Keys {
            last = r.of(&memories);
        }
        last
    });
    Residency { weights, states: states.collect(), lanes: IndexVec::new() }
}

/// One to four runs of `count` experts.
fn runs(r: &mut Random, count: u32) -> std::vec::IntoIter<std::ops::Range<u32>> {
    let mut cuts: Vec<u32> = (0..r.below(4)).map(|_| r.below(count as usize) as u32).chain([0, count]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let runs: Vec<_> = cuts.windows(2).map(|w| w[0]..w[1]).collect();
    runs.into_iter()
}

fn home(
    r: &mut Random,
    machine: &Machine,
    weight: WeightId,
    info: &Weight,
    memory: MemoryId,
    range: std::ops::Range<u32>,
) -> Home {
    let layout = if info.rows > 1 && r.once_in(2) { Layout::Panel16 } else { Layout::Gguf };
    let storage = if machine.is_host(memory) && r.once_in(3) { Storage::Mapped } else { Storage::Allocated };
    Home { slice: WeightSlice { weight, axis: Axis::Expert, range }, memory, layout, storage }
}

pub fn random_policy(r: &mut Random) -> Policy {
    let offload = match r.below(3) {
        0 => Offload::Never,
        1 => Offload::AtLeast(Tokens(r.of(&[1, 32, 200]))),
        _ => Offload::Auto,
    };
    let chunk = Bytes(1 << (6 + r.below(20)));
    Policy { offload, chunk, context: Tokens(1 + r.below(4096) as u32), chosen_experts: r.once_in(2) }
}

/// All that a plan is made from.
pub struct Case {
    pub graph: Graph,
    pub residency: Residency,
    pub machine: Machine,
    pub policy: Policy,
}

impl Case {
    pub fn random(seed: u64, steps: usize, tokens: u32, outputs: u32) -> Case {
        let mut r = Random(!seed);
        let machine = random_machine(&mut r);
        Case::on(machine, r, seed, steps, Batch { tokens: Tokens(tokens), outputs: Tokens(outputs) })
    }

    /// A case that streams whatever it can, in small chunks, on a host with accelerators.
    pub fn streaming(seed: u64) -> Case {
        let mut r = Random(!seed);
        let machine = with_accelerators(&mut r, Bytes(1 << 40));
        let mut case = Case::on(machine, r, seed, 30, Batch { tokens: Tokens(64), outputs: Tokens(64) });
        case.policy = Policy { offload: Offload::AtLeast(Tokens(1)), chunk: Bytes(1 << 12), ..case.policy };
        case
    }

    /// A case whose layers are cut over two or three memories, some of them, with some experts elsewhere.
    pub fn together(seed: u64, steps: usize, tokens: u32) -> Case {
        let mut r = Random(!seed);
        let machine = with_accelerators(&mut r, Bytes(1 << 40));
        let batch = Batch { tokens: Tokens(tokens), outputs: Tokens(1) };
        let graph = random_graph(seed, steps, batch.tokens.0, batch.outputs.0);
        let mut residency = random_homes(&mut r, &graph, &machine);
        let cards: Vec<MemoryId> = machine.memories.ids().rev().collect();
        let group = &cards[..cards.len().min(2 + r.below(2))];
        for (_, node) in graph.nodes().filter(|(_, node)| node.layer.is_some_and(|l| l % 4 != 3)) {
            let is_bound = !matches!(node.op, Op::Moe(_)) || r.once_in(2);
            for w in node.op.weight_operands().into_iter().filter(|_| is_bound) {
                residency.weights[w] = vec![Home::of_matrices(w, 0..graph.weights()[w].count, r.of(group))];
            }
            node.op.states().for_each(|s| residency.states[s] = group[0]);
        }
        let member = |&memory| Member { memory, share: [1.0, 2.0][r.below(2)] };
        let cut = shard(&graph, &residency, &[group.iter().map(member).collect()]).unwrap();
        let policy = random_policy(&mut r);
        Case { graph: cut.graph, residency: cut.residency, machine, policy }
    }

    fn on(machine: Machine, mut r: Random, seed: u64, steps: usize, batch: Batch) -> Case {
        let graph = random_graph(seed, steps, batch.tokens.0, batch.outputs.0);
        let (residency, policy) = (random_homes(&mut r, &graph, &machine), random_policy(&mut r));
        let graph = partition(&graph, &residency).unwrap();
        Case { graph, residency, machine, policy }
    }

    pub fn plan(&self) -> Result<Plan, PlanError> {
        plan(&self.graph, &self.residency, &self.machine, &self.policy)
    }

    /// Whether there is a reason for `error` in what the case was made of.
    pub fn allows(&self, error: &PlanError) -> bool {
        let machine = &self.machine;
        match error {
            PlanError::OverBudget { need, budget, .. } => {
                need > budget && machine.memories.iter().any(|m| m.free < Bytes(1 << 40))
            }
            PlanError::NoLink { .. } => {
                let all = || machine.memories.ids();
                all().any(|a| all().any(|b| a != b && machine.way(a, b).is_none()))
            }
            PlanError::Unsupported(_) => {
                machine.devices.iter().any(|d| d.kind.is_accelerator() && d.types == Types::Kernels)
            }
            PlanError::NoDevice { .. }
            | PlanError::Torn { .. }
            | PlanError::Apart { .. }
            | PlanError::Partition(_)
            | PlanError::Shard(_)
            | PlanError::Homes { .. } => false,
        }
    }
}
