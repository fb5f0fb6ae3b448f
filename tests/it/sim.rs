//! Simulated times against tables that people measured, and what must hold of every simulation.

use loadmaster::device::{DeviceId, Machine, MemoryId};
use loadmaster::graph::ops::Moe;
use loadmaster::graph::{Batch, Graph, Op};
use loadmaster::models::{CacheSpec, Model, ShapeFile};
use loadmaster::plan::{Offload, Policy, Split, Upload, node_time, partition, plan, timeline};
use loadmaster::residency::{Home, Residency, WeightSlice};
use loadmaster::sim::{CacheHome, Measurement, Overlap, Rows, Setting, Wish, homes, step_time};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, BytesPerSec, Nanos, Tokens};

/// A model of `graphs/models`.
pub fn shipped_model(name: &str) -> Model {
    let path = format!("{}/graphs/models/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    Model::from_shape(&ShapeFile::parse(&path, &text).unwrap()).unwrap()
}

pub fn graph(model: &Model, tokens: Tokens) -> Graph {
    let cache = CacheSpec { cells: Tokens(4096), keys: DType::F16, values: DType::F16 };
    model.graph(Batch { tokens, outputs: Tokens(1) }, cache).unwrap()
}

/// Calibrates a machine, and prints and returns what it predicts of each row against what was measured, as ratios of
/// rates.
fn calibrated(rows: &Rows, machine: &Machine, model: &Model) -> (Machine, Vec<(Measurement, f64)>) {
    let graph = |tokens| graph(model, tokens);
    let machine = rows.calibrate(machine, &graph).unwrap();
    let predicted = rows.predict(&machine, &graph).unwrap();
    let ratio = |(row, time): (&Measurement, Nanos)| {
        let measured = row.time().unwrap().seconds();
        println!("{}, {:?}, {:?}: {measured:.3} s, {:.3} s", row.tokens, row.homes, row.offload, time.seconds());
        (*row, measured / time.seconds())
    };
    let ratios = rows.rows.iter().zip(predicted).map(ratio).collect();
    (machine, ratios)
}

/// The file, the model and the machine of a report; how near the rows are that calibrated nothing.
fn streamed_prefill(file: &str, machine: &str, model: &str, near: f64) -> (f64, f64) {
    let (rows, model) = (Rows::parse(file).unwrap(), shipped_model(model));
    let (machine, ratios) = calibrated(&rows, &Machine::shipped(machine).unwrap(), &model);
    for (row, ratio) in ratios {
        let near = if row.solves.is_some() { 1e-4 } else { near };
        assert!((ratio - 1.0).abs() < near, "{row:?}: {ratio}");
    }
    let graph = graph(&model, Tokens(2048));
    let all_streamed = rows.rows.last().unwrap();
    assert_eq!(all_streamed.homes.layers, 0);
    let residency = homes(&graph, &machine, all_streamed.homes).unwrap();
    let policy = Policy { offload: Offload::AtLeast(Tokens(32)), context: Tokens(1024), ..Policy::default() };
    let setting = Setting { residency: &residency, machine: &machine, policy: &policy, overlap: Overlap::Spec };
    let time = step_time(&graph, &setting).unwrap().seconds();
    let (compute, link) = sums(&graph, &setting);
    println!("compute {compute:.3} s, link {link:.3} s, both at once {time:.3} s");
    (2048.0 / time, 2048.0 / compute.max(link))
}

/// What all splits of a plan take together, and what all uploads take that have their links alone.
fn sums(graph: &Graph, setting: &Setting<'_>) -> (f64, f64) {
    let Setting { residency, machine, policy, .. } = *setting;
    let plan = plan(graph, residency, machine, policy).unwrap();
    let nodes = |split: &Split| -> Nanos {
        split.nodes.iter().map(|&n| node_time(graph, policy, n, &machine.devices[split.device])).sum()
    };
    let upload = |u: &Upload| machine.way(u.from, machine.devices[u.to].memory).unwrap().time(u.span.len);
    let (compute, link): (Nanos, Nanos) = (plan.splits.iter().map(nodes).sum(), plan.uploads.iter().map(upload).sum());
    (compute.seconds(), link.seconds())
}

/// The report's rows and what its hardware could have done: `shared/data` of streamed prefill, ik_llama.cpp issue 255.
#[test]
fn streamed_prefill_is_predicted_and_overlap_reaches_its_bound() {
    let file = include_str!("rows/rtx4080.json");
    let (rate, bound) = streamed_prefill(file, "rtx4080", "qwen2.5-32b-q4_k_m", 0.02);
    assert!((bound / 1280.0 - 1.0).abs() < 0.02 && (rate / bound - 1.0).abs() < 0.02, "{rate} {bound}");
    let file = include_str!("rows/rtx4090.json");
    let (rate, bound) = streamed_prefill(file, "rtx4090", "qwen2.5-32b-q5_k_m", 0.01);
    assert!((bound / 2060.0 - 1.0).abs() < 0.02 && (rate / bound - 1.0).abs() < 0.02, "{rate} {bound}");
}

/// Experts in host memory: when to move them, from ik_llama.cpp PR 520. Its engine brings whole tensors and does not
/// copy while it computes; its processor reads at most what the data sheet says, and then computes on what it read.
#[test]
fn the_crossover_of_offloaded_experts_is_found_and_predicted() {
    let (rows, model) = (Rows::parse(include_str!("rows/rtx3090x2.json")).unwrap(), shipped_model("deepseek-v3-iq1_s"));
    let mut machine = Machine::shipped("rtx3090x2-ddr4").unwrap();
    let host = &mut machine.devices[DeviceId(0)].rates;
    (host.read, host.hides) = (BytesPerSec(51.2e9), 0.0);
    let (machine, ratios) = calibrated(&rows, &machine, &model);
    for (row, ratio) in ratios {
        let near = if row.solves.is_some() { 1e-3 } else { 0.15 };
        assert!((ratio - 1.0).abs() < near, "{row:?}: {ratio}");
    }
    for tokens in [16, 32, 64, 128, 256, 512, 1024, 2048, 4096].map(Tokens) {
        let graph = graph(&model, tokens);
        let residency = homes(&graph, &machine, rows.rows[0].homes).unwrap();
        let policy = Policy { chosen_experts: false, context: Tokens(tokens.0.div_ceil(2)), ..Policy::default() };
        let mut machine = machine.clone();
        [DeviceId(1), DeviceId(2)].into_iter().for_each(|d| machine.devices[d].overlaps = false);
        let made = plan(&graph, &residency, &machine, &policy).unwrap();
        let on_host = |id| made.placements[id].device == DeviceId(0);
        let mut experts = graph.nodes().filter(|(_, n)| matches!(n.op, Op::Moe(Moe::Experts(_)))).map(|(id, _)| id);
        assert!(experts.all(|id| on_host(id) == (tokens <= Tokens(256))), "{tokens}");
    }
}

/// Plans of 61 layers with 384 experts, those of every layer dealt to the host and ten cards.
fn dealt(model: &Model, machine: &Machine, tokens: u32) -> (Graph, Residency) {
    let graph = graph(model, Tokens(tokens));
    let mut residency = homes(&graph, machine, Wish { layers: 62, ..Wish::default() }).unwrap();
    let memories: Vec<MemoryId> = machine.memories.ids().collect();
    for (_, node) in graph.nodes() {
        let Op::Moe(Moe::Experts(op)) = &node.op else { continue };
        let (weight, count) = (op.weight, graph.weights()[op.weight].count);
        let home = residency.weights[weight][0].clone();
        let share = count.div_ceil(memories.len() as u32);
        let parts = memories.iter().enumerate().map(|(i, &memory)| {
            let range = i as u32 * share..((i as u32 + 1) * share).min(count);
            let slice = WeightSlice { range, ..home.slice.clone() };
            Home { slice, memory, ..home.clone() }
        });
        residency.weights[weight] = parts.collect();
    }
    let graph = partition(&graph, &residency).unwrap();
    (graph, residency)
}

#[test]
fn the_same_input_gives_the_same_plan_a_hundred_times_and_from_several_threads() {
    let (model, machine) = (shipped_model("kimi-k2.5-ud-iq3_xxs"), roomy(Machine::shipped("ten-gpu").unwrap()));
    let (graph, residency) = dealt(&model, &machine, 64);
    let made = || {
        let plan = plan(&graph, &residency, &machine, &Policy::default()).unwrap();
        let events = timeline(&graph, &machine, &Policy::default(), &plan, 2).events;
        (serde_json::to_string(&plan).unwrap(), events)
    };
    let first = made();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..25).all(|_| made() == first))).collect();
        assert!(threads.into_iter().all(|t| t.join().unwrap()));
    });
}

/// With memories in which everything fits.
fn roomy(mut machine: Machine) -> Machine {
    let ids: Vec<MemoryId> = machine.memories.ids().collect();
    for id in ids {
        let memory = &mut machine.memories[id];
        (memory.total, memory.free) = (Bytes(1 << 45), Bytes(1 << 45));
    }
    machine
}

/// The time of a step by each rule: by price, never moved, always moved.
fn by_rule(graph: &Graph, residency: &Residency, machine: &Machine) -> [f64; 3] {
    [Offload::Auto, Offload::Never, Offload::AtLeast(Tokens(1))].map(|offload| {
        let policy = Policy { offload, ..Policy::default() };
        let setting = Setting { residency, machine, policy: &policy, overlap: Overlap::Spec };
        step_time(graph, &setting).unwrap().seconds()
    })
}

#[test]
fn auto_is_never_much_slower_than_the_better_rule() {
    let wishes = [
        Wish { layers: 99, experts_on_host: true, ..Wish::default() },
        Wish { layers: 0, cache: CacheHome::Accelerator, ..Wish::default() },
        Wish { layers: 20, ..Wish::default() },
    ];
    let mut moved = 0;
    for name in ["qwen3-30b-a3b-q4_k_m", "qwen2.5-32b-q4_k_m"] {
        let model = shipped_model(name);
        for tokens in [1, 2, 4, 8, 16, 24, 32, 48, 64, 100, 128, 256, 384, 512, 1024, 2048, 3000, 4096] {
            let graph = graph(&model, Tokens(tokens));
            for machine in Machine::shipped_names() {
                let machine = roomy(Machine::shipped(machine).unwrap());
                for wish in wishes {
                    let residency = homes(&graph, &machine, wish).unwrap();
                    let [auto, never, always] = by_rule(&graph, &residency, &machine);
                    assert!(auto <= 1.05 * never.min(always), "{name} {tokens} {wish:?}: {auto} {never} {always}");
                    moved += usize::from(auto < never);
                }
            }
        }
    }
    assert!(moved > 100, "{moved}");
}
