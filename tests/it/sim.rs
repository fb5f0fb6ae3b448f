//! Simulated times against tables that people measured, and what must hold of every simulation.

use loadmaster::device::{Bus, DeviceId, LinkId, Machine, MemoryId};
use loadmaster::fit::{Bucket, FitError, WishError, propose};
use loadmaster::graph::ops::Moe;
use loadmaster::graph::{Batch, Graph, Op};
use loadmaster::models::{CacheSpec, Model, ShapeFile};
use loadmaster::plan::{Activity, Offload, Policy, Split, Upload, node_time, partition, plan, timeline};
use loadmaster::residency::{CacheHome, Home, Residency, WeightSlice};
use loadmaster::sim::{
    Flags, Level, Measurement, Overlap, Rows, RowsError, Setting, causes, levels, simulate, step_time, trace,
};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, BytesPerSec, Nanos, OpsPerSec, Tokens, Workload};
use proptest::prelude::*;

/// A model of `graphs/models`.
pub fn shipped_model(name: &str) -> Model {
    let path = format!("{}/graphs/models/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    Model::from_shape(&ShapeFile::parse(&path, &text).unwrap()).unwrap()
}

pub fn graph(model: &Model, tokens: Tokens) -> Graph {
    let cache = CacheSpec { cells: Tokens(4096), keys: DType::F16, values: DType::F16, sliding: None };
    model.graph(Batch { tokens, outputs: Tokens(1) }, cache).unwrap()
}

/// The homes that an engine told so would have.
fn homes(graph: &Graph, machine: &Machine, flags: Flags) -> Residency {
    propose(graph, machine, &flags.into()).unwrap()
}

/// The graph cut along the homes, and its plan.
fn planned(graph: &Graph, residency: &Residency, machine: &Machine, policy: &Policy) -> Bucket {
    let graph = partition(graph, residency).unwrap();
    let plan = plan(&graph, residency, machine, policy).unwrap();
    Bucket { graph, plan, offload: policy.offload }
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
    let residency = homes(&graph, &machine, all_streamed.homes);
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
        let residency = homes(&graph, &machine, rows.rows[0].homes);
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
    let mut residency = homes(&graph, machine, Flags { layers: 62, ..Flags::default() });
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

/// A machine of a processor and up to three cards, every number from a seed.
fn random_machine(mut number: impl FnMut(f64, f64) -> f64) -> Machine {
    let mut machine = roomy(Machine::shipped("rtx3090x2-ddr4").unwrap());
    let devices: Vec<DeviceId> = machine.devices.ids().collect();
    for id in devices {
        let device = &mut machine.devices[id];
        let speed: f64 = if device.kind.is_accelerator() { 30.0 } else { 1.0 };
        let rates = &mut device.rates;
        rates.read = BytesPerSec(number(20e9, 100e9) * speed.min(10.0));
        rates.int8 = OpsPerSec(number(0.2e12, 4e12) * speed);
        (rates.f16, rates.f32) = (rates.int8, OpsPerSec(rates.int8.0 / 2.0));
        rates.hides = number(0.0, 1.0);
        rates.split = Nanos(number(0.0, 100e3) as u64);
        device.overlaps = number(0.0, 1.0) < 0.7;
    }
    let bus = machine.buses.push(Bus { name: "root".into(), rate: BytesPerSec(number(2e9, 60e9)) });
    let links: Vec<LinkId> = machine.links.ids().collect();
    for id in links {
        machine.links[id].rate = BytesPerSec(number(1e9, 60e9));
        machine.links[id].bus = (number(0.0, 1.0) < 0.5).then_some(bus);
    }
    machine
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(60)))]
    #[test]
    fn auto_is_never_much_slower_on_random_machines(
        numbers in proptest::collection::vec(0.0f64..1.0, 32), tokens in 1u32..4096, layers in 0u32..50, experts_on_host: bool,
    ) {
        let mut numbers = numbers.into_iter().cycle();
        let machine = random_machine(|low, high| low + (high - low) * numbers.next().unwrap());
        let graph = graph(&shipped_model("qwen3-30b-a3b-q4_k_m"), Tokens(tokens));
        let residency = homes(&graph, &machine, Flags { layers, experts_on_host, ..Flags::default() });
        let [auto, never, always] = by_rule(&graph, &residency, &machine);
        prop_assert!(auto <= 1.05 * never.min(always), "{auto} {never} {always}");
        adds_up(&graph, &residency, &machine, 3);
    }
}

/// Checks a timeline by itself: every cause adds up, nothing starts before what it needs, no queue does two things at
/// once, no more bytes cross a bus than it carries, and no more is in use than is allocated.
fn adds_up(graph: &Graph, residency: &Residency, machine: &Machine, steps: u32) {
    let policy = Policy::default();
    let tokens = graph.batch().tokens;
    let workload = Workload { prompt: Tokens(tokens.0 * steps), generate: Tokens(0) };
    let step = planned(graph, residency, machine, &policy);
    let simulation = simulate(&step, &step, machine, &policy, workload);
    assert!(simulation.decode.is_none());
    let phase = simulation.prefill.as_ref().unwrap();
    assert_eq!((phase.steps, phase.time), (steps, phase.timeline.end()));
    for causes in causes(machine, &phase.plan, &phase.timeline).iter() {
        assert_eq!(causes.total(), phase.timeline.end());
    }
    let events = &phase.timeline.events;
    let all = phase.plan.splits.len() + phase.plan.transfers.len() + phase.plan.uploads.len();
    assert_eq!(events.len(), all * steps as usize);
    let at = |step, what| events.iter().find(|e| e.step == step && e.what == what).unwrap();
    for step in 0..steps {
        for (id, upload) in phase.plan.uploads.iter_ids() {
            let brought = at(step, Activity::Upload(id));
            assert!(brought.end <= at(step, Activity::Split(upload.split)).start);
            upload.after.into_iter().for_each(|x| assert!(at(step, Activity::Split(x)).end <= brought.start));
        }
    }
    let mut by_lane: Vec<_> = events.iter().map(|e| (e.lane, e.start, e.end)).collect();
    by_lane.sort_unstable();
    assert!(by_lane.windows(2).all(|w| w[0].0 != w[1].0 || w[0].2 <= w[1].1));
    for (id, bus) in machine.buses.iter_ids() {
        let on_bus =
            |d: DeviceId| machine.link(MemoryId(0), machine.devices[d].memory).is_some_and(|l| l.bus == Some(id));
        let share = |u: &Upload| {
            let experts = phase.graph.weights()[u.slice.weight].count > 1;
            if experts && tokens < Tokens(512) { 0.0 } else { u.span.len.0 as f64 * 0.99 }
        };
        let bytes: f64 = phase.plan.uploads.iter().filter(|u| on_bus(u.to)).map(share).sum();
        assert!(bytes * f64::from(steps) <= bus.rate.0 * phase.timeline.end().seconds());
    }
    for (memory, levels) in levels(machine, phase).iter_ids() {
        let allocated = phase.plan.memories[memory];
        let fits =
            |l: &Level| l.arena <= allocated.arenas && l.ring <= allocated.rings && l.weights == allocated.weights;
        assert!(levels.iter().all(fits), "{memory}: {allocated:?} {levels:?}");
        assert!(levels.last().unwrap().arena == Bytes::ZERO && levels.windows(2).all(|w| w[0].at < w[1].at));
    }
}

/// Two cards behind one bus share it evenly while both take in weights; what one leaves the other gets.
#[test]
fn copies_share_a_bus_and_steps_follow_each_other() {
    let model = shipped_model("qwen2.5-32b-q4_k_m");
    let graph = graph(&model, Tokens(512));
    let mut machine = roomy(Machine::shipped("rtx3090x2-ddr4").unwrap());
    let apart = machine.clone();
    let bus = machine.buses.push(Bus { name: "root".into(), rate: BytesPerSec(3.6e9) });
    [LinkId(0), LinkId(1)].into_iter().for_each(|id| machine.links[id].bus = Some(bus));
    let residency = homes(&graph, &machine, Flags { cache: CacheHome::Accelerator, ..Flags::default() });
    let policy = Policy { offload: Offload::AtLeast(Tokens(1)), ..Policy::default() };
    let time = |machine: &Machine, steps| {
        let plan = plan(&graph, &residency, machine, &policy).unwrap();
        timeline(&graph, machine, &policy, &plan, steps).end().seconds()
    };
    let streamed: u64 = plan(&graph, &residency, &machine, &policy).unwrap().uploads.iter().map(|u| u.span.len.0).sum();
    let bound = streamed as f64 / 3.6e9;
    // One bus: however many steps follow each other, their bytes follow each other too.
    for steps in [1, 3] {
        let (time, bound) = (time(&machine, steps), bound * f64::from(steps));
        assert!(time >= bound && time < 1.05 * bound, "{steps}: {time} {bound}");
    }
    // A link of its own for each card carries twice as much, and several steps in flight use both.
    let (one, four) = (time(&apart, 1), time(&apart, 4));
    assert!(four < 3.2 * one && four >= 4.0 * streamed as f64 / 14.4e9, "{one} {four}");
    adds_up(&graph, &residency, &machine, 2);
}

/// Homes by flags: exactly the layers that were asked for, or the bytes that lack for them.
#[test]
fn an_engine_that_is_told_flags_has_the_layers_that_they_name() {
    let (model, machine) = (shipped_model("qwen2.5-32b-q4_k_m"), Machine::shipped("rtx4080").unwrap());
    let graph = graph(&model, Tokens(512));
    for (layers, cache, cached) in [
        (0, CacheHome::Layer, 0),
        (20, CacheHome::Layer, 20),
        (20, CacheHome::Accelerator, 64),
        (20, CacheHome::Host, 0),
    ] {
        let residency = homes(&graph, &machine, Flags { layers, cache, ..Flags::default() });
        let card = |memory: MemoryId| !machine.is_host(memory);
        assert_eq!(residency.states.iter().filter(|&&m| card(m)).count(), 2 * cached, "{layers} {cache:?}");
        for (id, weight) in graph.weights().iter_ids() {
            let layer = weight.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
            let asked = layer.is_some_and(|layer| layer >= 64 - layers);
            assert_eq!(card(residency.weights[id][0].memory), asked, "{layers} {}", weight.name);
        }
    }
    let flags = Flags { layers: 64, ..Flags::default() };
    match propose(&graph, &machine, &flags.into()) {
        Err(FitError::Short { need, budget, missing, .. }) => assert_eq!(missing, need - budget),
        other => panic!("{:?}", other.map(|r| r.states)),
    }
}

/// The form of the trace, as its specification asks: complete events with times, that do not overlap on a thread.
#[test]
fn traces_are_valid() {
    let model = shipped_model("qwen3-30b-a3b-q4_k_m");
    let machine = roomy(Machine::shipped("rtx3090x2-ddr4").unwrap());
    let (prefill, decode) = (graph(&model, Tokens(512)), graph(&model, Tokens(1)));
    let flags = Flags { layers: 99, experts_on_host: true, ..Flags::default() };
    let residency = homes(&decode, &machine, flags);
    let policy = Policy::default();
    let [prefill, decode] = [prefill, decode].map(|graph| planned(&graph, &residency, &machine, &policy));
    let simulation = simulate(&prefill, &decode, &machine, &policy, Workload::default());
    assert_eq!((simulation.prefill.as_ref().unwrap().steps, simulation.decode.as_ref().unwrap().steps), (1, 128));
    // No token begins before the one ahead of it is done.
    let tokens = simulation.decode.as_ref().unwrap();
    let one = timeline(&tokens.graph, &machine, &tokens.policy, &tokens.plan, 1).end();
    assert_eq!(tokens.time, Nanos(one.0 * 128));
    let trace: serde_json::Value = serde_json::from_str(&trace(&machine, &simulation)).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).collect::<Vec<_>>();
    assert_eq!(of("M").len(), 3 * 4);
    assert!(!of("C").is_empty());
    let mut spans: Vec<(u64, u64, f64, f64)> = Vec::new();
    for event in of("X") {
        let (ts, dur) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        assert!(!event["name"].as_str().unwrap().is_empty() && dur >= 0.0);
        spans.push((event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap(), ts, ts + dur));
    }
    spans.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let apart = |w: &[(u64, u64, f64, f64)]| (w[0].0, w[0].1) != (w[1].0, w[1].1) || w[0].3 <= w[1].2 + 1e-3;
    assert!(spans.windows(2).all(apart));
    let events: usize = simulation.phases().map(|(_, p)| p.timeline.events.len()).sum();
    assert_eq!(spans.len(), events);
}

#[test]
fn broken_rows_are_refused() {
    let whole = include_str!("rows/rtx4080.json");
    let model = shipped_model("qwen3-30b-a3b-q4_k_m");
    let machine = roomy(Machine::shipped("rtx4080").unwrap());
    for (from, to, why) in [
        ("loadmaster-rows", "rows", "format"),
        ("\"tokens\": 2048, \"tokens_per_second\": 985.3", "\"tokens\": 0, \"tokens_per_second\": 985.3", "positive"),
        ("985.3", "-985.3", "positive"),
        ("\"layers\": 40", "\"layer\": 40", "unknown field"),
        ("\"offload\": 32", "\"offload\": \"often\"", "did not match"),
    ] {
        assert!(whole.contains(from));
        let error = Rows::parse(&whole.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let single = whole.replacen("\"solves\": \"accelerators\", ", "", 1);
    let error = Rows::parse(&single).unwrap().calibrate(&machine, &|t| graph(&model, t)).unwrap_err().to_string();
    assert!(error.contains("two rows, found 1"), "{error}");
    // Streaming more cannot be faster by so much: no link explains it.
    let odd = whole.replace("703.04", "9000.0");
    let found = Rows::parse(&odd).unwrap().calibrate(&machine, &|t| graph(&model, t));
    assert!(matches!(found, Err(RowsError::Calibrate(_))), "{found:?}");
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
    let told = [
        Flags { layers: 99, experts_on_host: true, ..Flags::default() },
        Flags { layers: 0, cache: CacheHome::Accelerator, ..Flags::default() },
        Flags { layers: 20, ..Flags::default() },
    ];
    let mut moved = 0;
    for name in ["qwen3-30b-a3b-q4_k_m", "qwen2.5-32b-q4_k_m"] {
        let model = shipped_model(name);
        for tokens in [1, 2, 4, 8, 16, 24, 32, 48, 64, 100, 128, 256, 384, 512, 1024, 2048, 3000, 4096] {
            let graph = graph(&model, Tokens(tokens));
            for machine in Machine::shipped_names() {
                let machine = roomy(Machine::shipped(machine).unwrap());
                for flags in told {
                    let residency = match propose(&graph, &machine, &flags.into()) {
                        Err(FitError::Wish(WishError::NoAccelerator { wish: _ })) => continue,
                        found => found.unwrap(),
                    };
                    let [auto, never, always] = by_rule(&graph, &residency, &machine);
                    assert!(auto <= 1.05 * never.min(always), "{name} {tokens} {flags:?}: {auto} {never} {always}");
                    moved += usize::from(auto < never);
                }
            }
        }
    }
    assert!(moved > 100, "{moved}");
}
