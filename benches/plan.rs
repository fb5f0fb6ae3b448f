//! How long planning takes: a model of 61 layers with 384 experts on ten cards, its experts with the processor, with the
//! cards, or dealt to all memories. Prints the best and the middle of several runs; the bound is 50 ms in all.

use std::time::{Duration, Instant};

use loadmaster::device::{Machine, MemoryId};
use loadmaster::fit::{Wishes, propose, teams};
use loadmaster::graph::ops::Moe;
use loadmaster::graph::{Batch, Graph, Op};
use loadmaster::models::{CacheSpec, Model, ShapeFile};
use loadmaster::plan::{Policy, partition, plan, shard};
use loadmaster::residency::{Home, Residency, WeightSlice};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

const RUNS: usize = 21;

fn main() {
    let shape = ShapeFile::shipped("kimi-k2.5-ud-iq3_xxs").expect("shipped").expect("read by tests");
    let model = Model::from_shape(&shape).expect("built by tests");
    let mut machine = Machine::shipped("ten-gpu").expect("shipped");
    let memories: Vec<MemoryId> = machine.memories.ids().collect();
    for &memory in &memories {
        machine.memories[memory].free = Bytes(1 << 45);
    }
    let cache = CacheSpec { cells: Tokens(4096), keys: DType::F16, values: DType::F16, sliding: None };
    for tokens in [1, 512] {
        let batch = Batch { tokens: Tokens(tokens), outputs: Tokens(1) };
        let graph = model.graph(batch, cache).expect("built by tests");
        for experts_on_host in [true, false] {
            let host_moe_layers = if experts_on_host { u32::MAX } else { 0 };
            let wishes = Wishes { gpu_layers: Some(62), host_moe_layers, ..Wishes::default() };
            let residency = propose(&graph, &machine, &wishes).expect("the memories have room");
            let place = if experts_on_host { "with the processor" } else { "with the cards" };
            report(&format!("{tokens} tokens, experts {place}"), &graph, &residency, &machine);
            if !experts_on_host {
                let dealt = dealt(&graph, residency.clone(), &memories);
                report(&format!("{tokens} tokens, experts dealt to all memories"), &graph, &dealt, &machine);
                in_pairs(tokens, &graph, &residency, &machine);
            }
        }
    }
}

/// The homes with the experts of every layer in runs, one a memory.
fn dealt(graph: &Graph, mut residency: Residency, memories: &[MemoryId]) -> Residency {
    for (_, node) in graph.nodes() {
        let Op::Moe(Moe::Experts(op)) = &node.op else { continue };
        let count = graph.weights()[op.weight].count;
        let home = residency.weights[op.weight][0].clone();
        let share = count.div_ceil(memories.len() as u32);
        let parts = (0..).zip(memories).map(|(i, &memory)| {
            let slice = WeightSlice { range: i * share..((i + 1) * share).min(count), ..home.slice.clone() };
            Home { slice, memory, ..home.clone() }
        });
        residency.weights[op.weight] = parts.collect();
    }
    residency
}

/// Times cutting the graph along the homes and planning it.
fn report(what: &str, graph: &Graph, residency: &Residency, machine: &Machine) {
    timed(what, || {
        let graph = partition(graph, residency).expect("cut by tests");
        plan(&graph, residency, machine, &Policy::default()).is_ok()
    });
}

/// Times cutting every layer over a pair of cards and planning that.
fn in_pairs(tokens: u32, graph: &Graph, residency: &Residency, machine: &Machine) {
    let teams = teams(machine, 2);
    timed(&format!("{tokens} tokens, layers cut over pairs of cards"), || {
        let cut = shard(graph, residency, &teams).expect("cut by tests");
        plan(&cut.graph, &cut.residency, machine, &Policy::default()).is_ok()
    });
}

fn timed(what: &str, job: impl Fn() -> bool) {
    let run = |_| {
        let start = Instant::now();
        assert!(job());
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..RUNS).map(run).collect();
    times.sort_unstable();
    println!("{what}: best {:.1?}, middle {:.1?}", times[0], times[RUNS / 2]);
}
