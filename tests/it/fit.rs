//! Fits of shipped models on shipped machines: what the issue's measured rigs must reach, and what may never be.

use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Link, Machine, MemoryId};
use loadmaster::fit::{
    Chosen, Extent, Fit, FitError, Override, Request, Sizes, Wishes, fit, fit_sizes, flags, groups, json, table,
};
use loadmaster::graph::Batch;
use loadmaster::index::Id;
use loadmaster::models::{CacheSpec, Model, ShapeFile, Sliding};
use loadmaster::plan::{Offload, Policy, check};
use loadmaster::residency::CacheHome;
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, BytesPerSec, Tokens, Workload};
use proptest::prelude::*;

fn machine(name: &str) -> Machine {
    Machine::shipped(name).unwrap()
}

fn request(ubatch: u32) -> Request {
    let (workload, wishes) = (Workload::default(), Wishes::default());
    Request { ubatch: Tokens(ubatch), workload, policy: Policy::default(), wishes }
}

fn fitted(model: &str, machine: &Machine, context: u32, request: &Request) -> Result<Fit, FitError> {
    let shape = ShapeFile::shipped(model).unwrap().unwrap();
    let model = Model::from_shape(&shape).unwrap();
    let cache = CacheSpec { cells: Tokens(context), keys: DType::F16, values: DType::F16, sliding: None };
    let graphs = |batch: Batch| model.graph(batch, cache).map_err(|e| e.to_string());
    fit(&graphs, machine, request)
}

/// All buckets of both phases check, and everything together is within every budget.
fn holds(fit: &Fit, machine: &Machine) {
    for bucket in [&fit.largest, &fit.prefill, &fit.decode] {
        check(&bucket.graph, &fit.residency, machine, &bucket.plan).unwrap();
    }
    if let Some(phase) = &fit.decode_phase {
        check(&phase.decode.graph, &phase.residency, machine, &phase.decode.plan).unwrap();
    }
    for (memory, used) in fit.memories.iter_ids() {
        assert!(used.total() <= machine.budget(memory), "{memory}: {}", used.total());
    }
}

#[test]
fn kimi_on_eight_cards_keeps_more_weights_there_than_any_peer() {
    let machine = machine("kimi-8gpu");
    let found = fitted("kimi-k2.5-ud-iq3_xxs", &machine, 32768, &request(2560)).unwrap();
    holds(&found, &machine);
    let cards = machine.memories.iter_ids().filter(|&(m, _)| !machine.is_host(m));
    let weights: Bytes = cards.map(|(m, _)| found.memories[m].weights).sum();
    assert!(weights >= Bytes::mib(244_000), "{weights}");
    assert!(json(&found, &machine, Workload::default()).contains("weight_bytes"));
}

/// The machine with devices, memories and links in another order, ids renamed to match.
fn shuffled(machine: &Machine, order: &[usize]) -> Machine {
    let mut other = machine.clone();
    other.devices = order.iter().map(|&i| machine.devices[DeviceId::from_index(i)].clone()).collect();
    other
}

#[test]
fn pairs_of_ten_cards_have_equal_links_in_any_order_and_the_fastest_come_first() {
    let machine = machine("ten-gpu");
    let lanes_of_report = [8, 8, 4, 8, 4, 4, 8, 8, 8, 4];
    let lanes = |machine: &Machine, id: DeviceId| {
        let index: usize = machine.devices[id].name.strip_prefix("cuda:").unwrap().parse().unwrap();
        lanes_of_report[index]
    };
    let uids = |machine: &Machine| -> Vec<Vec<String>> {
        let group = |g: &Vec<DeviceId>| g.iter().map(|&d| machine.devices[d].uid.clone()).collect();
        groups(machine, 2).iter().map(group).collect()
    };
    let expected = uids(&machine);
    for group in groups(&machine, 2) {
        assert_eq!(lanes(&machine, group[0]), lanes(&machine, group[1]), "{group:?}");
    }
    assert_eq!(lanes(&machine, groups(&machine, 2)[0][0]), 8);
    let count = machine.devices.len();
    for turn in 1..count {
        let mut order: Vec<usize> = (0..count).collect();
        order.rotate_left(turn);
        order.swap(0, turn);
        assert_eq!(uids(&shuffled(&machine, &order)), expected, "{order:?}");
    }
}

fn together(size: u32, request: &Request) -> Request {
    Request { wishes: Wishes { together: size, ..request.wishes.clone() }, ..request.clone() }
}

/// The uids of the cards that work on each layer, in order of layers.
fn teams_of_layers(fit: &Fit, machine: &Machine) -> Vec<Vec<String>> {
    let mut layers: Vec<std::collections::BTreeSet<String>> = Vec::new();
    for (id, state) in fit.graph.states().iter_ids() {
        let device = machine.device_of(fit.residency.states[id]).unwrap();
        layers.resize(layers.len().max(state.layer as usize + 1), Default::default());
        layers[state.layer as usize].insert(machine.devices[device].uid.clone());
    }
    layers.into_iter().map(|team| team.into_iter().collect()).collect()
}

#[test]
fn ten_cards_work_on_layers_in_pairs_by_their_links_and_the_first_have_the_fastest() {
    let machine = machine("ten-gpu");
    let request = together(2, &request(512));
    let found = fitted("qwen3-235b-a22b-q4_k_s", &machine, 8192, &request).unwrap();
    holds(&found, &machine);
    assert_eq!(found.whole, []);
    let teams = teams_of_layers(&found, &machine);
    let uids = |group: &Vec<DeviceId>| group.iter().map(|&d| machine.devices[d].uid.clone()).collect::<Vec<_>>();
    let pairs: Vec<Vec<String>> = groups(&machine, 2).iter().map(uids).collect();
    assert!(teams.iter().all(|team| pairs.contains(team)), "{teams:?}");
    assert_eq!(teams[0], pairs[0]);
    for order in [[9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10], [3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 10]] {
        let order: Vec<usize> = order.into_iter().filter(|&i| i < machine.devices.len()).collect();
        let other = shuffled(&machine, &order);
        let again = fitted("qwen3-235b-a22b-q4_k_s", &other, 8192, &request).unwrap();
        assert_eq!(teams_of_layers(&again, &other), teams);
    }
    let alone = fitted("qwen3-235b-a22b-q4_k_s", &machine, 8192, &together(1, &request)).unwrap();
    assert!(found.token_time < alone.token_time, "{:?} {:?}", found.token_time, alone.token_time);
}

/// Streaming cuts host experts otherwise than their homes do; weights have the same ids all the same.
#[test]
fn teams_stream_experts_whose_layers_have_shared_ones() {
    let machine = machine("rtx3090x2-ddr4");
    for offload in [Offload::Auto, Offload::AtLeast(Tokens(32)), Offload::Never] {
        let policy = Policy { offload, ..Policy::default() };
        let request = Request { policy, ..together(2, &request(512)) };
        let found = fitted("deepseek-v3-iq1_s", &machine, 4096, &request).unwrap();
        holds(&found, &machine);
    }
}

/// What is over by less than an expert moves something in the end, whatever margin is asked for.
#[test]
fn teams_fit_with_any_margin() {
    let machine = machine("rtx3090x2-ddr4");
    for mib in [200, 256, 257, 400] {
        let mut request = together(2, &request(512));
        request.policy.offload = Offload::AtLeast(Tokens(32));
        request.wishes.margins = vec![(None, Bytes::mib(mib))];
        let found = fitted("qwen3-235b-a22b-q4_k_s", &machine, 4096, &request).unwrap();
        let mut kept = machine.clone();
        for memory in machine.memories.ids().filter(|&m| !machine.is_host(m)) {
            kept.memories[memory].reserve = Bytes::mib(mib);
        }
        holds(&found, &kept);
    }
}

#[test]
fn wishes_that_name_devices_of_a_team_are_refused() {
    let machine = machine("ten-gpu");
    let refused = |wishes: Wishes| {
        let request = Request { wishes: Wishes { together: 2, ..wishes }, ..request(512) };
        fitted("llama-3-70b-q4_k_m", &machine, 4096, &request).unwrap_err().to_string()
    };
    let found = refused(Wishes { tensor_split: Some(vec![3.0, 1.0]), ..Wishes::default() });
    assert!(found.starts_with("-ts: with --split-mode tensor"), "{found}");
    let overrides = Override::parse(r"blk\.79\.ffn_down=cuda:1").unwrap();
    let found = refused(Wishes { overrides, ..Wishes::default() });
    assert!(found.starts_with("-ot of blk.79.ffn_down.weight: with --split-mode tensor"), "{found}");
}

/// Memories of processors that work together are counted once: two hold what fits both, to the byte.
#[test]
fn processors_that_work_together_are_no_host_beside() {
    let roomy = Machine::isolated(BackendKind::Cpu, 2, 2, Bytes(64 << 30));
    let request = together(2, &request(512));
    let uses = |found: &Fit| found.memories.iter().map(|used| used.total()).collect::<Vec<_>>();
    let found = fitted("qwen3-30b-a3b-q4_k_m", &roomy, 4096, &request).unwrap();
    holds(&found, &roomy);
    let most = *uses(&found).iter().max().unwrap();
    let tight = Machine::isolated(BackendKind::Cpu, 2, 2, most + Bytes(most.0 / 50));
    let found = fitted("qwen3-30b-a3b-q4_k_m", &tight, 4096, &request).unwrap();
    holds(&found, &tight);
    let short = Machine::isolated(BackendKind::Cpu, 2, 2, Bytes(most.0 / 2));
    let why = fitted("qwen3-30b-a3b-q4_k_m", &short, 4096, &request).unwrap_err().to_string();
    assert!(why.contains("cpu:0") || why.contains("cpu:1"), "{why}");
}

#[test]
fn many_cards_form_groups_in_no_time() {
    let mut machine = machine("ten-gpu");
    for i in 0..200 {
        let like = machine.devices[DeviceId(1)].clone();
        let spec = machine.memories[like.memory].clone();
        let memory = machine.memories.push(spec);
        machine.devices.push(DeviceSpec { name: format!("more:{i}"), uid: format!("more:{i}"), memory, ..like });
    }
    let groups = groups(&machine, 4);
    assert_eq!((groups.len(), groups.iter().map(Vec::len).sum::<usize>()), (53, 210));
    assert_eq!(loadmaster::fit::groups(&machine, 1000).len(), 1);
}

/// Experts that find no room on cards are not cut: both cards of a pair have some, and the host the others.
#[test]
fn cards_that_work_together_share_what_fits_of_the_experts() {
    let machine = machine("rtx3090x2-ddr4");
    let request = together(2, &request(512));
    let found = fitted("qwen3-235b-a22b-q4_k_s", &machine, 4096, &request).unwrap();
    holds(&found, &machine);
    let uses: Vec<Bytes> =
        machine.memories.ids().filter(|&m| !machine.is_host(m)).map(|m| found.memories[m].weights).collect();
    assert_eq!(uses.len(), 2);
    assert!(uses[0].0 * 10 > uses[1].0 * 9 && uses[1].0 * 10 > uses[0].0 * 9, "{uses:?}");
    assert!(found.graph.nodes().any(|(_, node)| node.lane.is_some()));
}

#[test]
fn layers_that_are_asked_for_are_kept_or_refused_with_the_bytes_that_lack() {
    let machine = machine("rtx4090");
    let cache = Some(CacheHome::Layer);
    let ask =
        |layers| Request { wishes: Wishes { gpu_layers: Some(layers), cache, ..Wishes::default() }, ..request(512) };
    let found = fitted("qwen2.5-32b-q4_k_m", &machine, 4096, &ask(40)).unwrap();
    holds(&found, &machine);
    let card = machine.memories.iter_ids().find(|&(m, _)| !machine.is_host(m)).unwrap().0;
    let there = found.graph.states().iter_ids().filter(|&(id, _)| found.residency.states[id] == card);
    assert_eq!(there.count(), 80, "keys and values of 40 layers");
    match fitted("llama-3-70b-q4_k_m", &machine, 4096, &ask(80)) {
        Err(FitError::Short { need, budget, missing, because, .. }) => {
            assert_eq!(missing, need - budget);
            assert!(because.contains("-ngl 80"), "{because}");
        }
        other => panic!("{:?}", other.map(|f| f.memories)),
    }
}

#[test]
fn shipped_models_fit_shipped_machines_and_every_bucket_checks() {
    let cases = [
        ("qwen2.5-32b-q4_k_m", "rtx4080"),
        ("qwen3-30b-a3b-q4_k_m", "rtx4090"),
        ("llama-3-70b-q4_k_m", "h200x8"),
        ("gemma-3-27b-it-q4_k_m", "rtx4090"),
        ("qwen3-235b-a22b-q4_k_s", "ten-gpu"),
        ("deepseek-v3-iq1_s", "h200x8"),
        ("qwen3-30b-a3b-q4_k_m", "numa-2node"),
    ];
    for (model, name) in cases {
        let machine = machine(name);
        let found = fitted(model, &machine, 4096, &request(512)).unwrap_or_else(|e| panic!("{model} on {name}: {e}"));
        holds(&found, &machine);
    }
}

/// States that live in host memory, and elsewhere.
fn caches(found: &Fit, machine: &Machine) -> (usize, usize) {
    let on_host = found.residency.states.iter().filter(|&&m| machine.is_host(m)).count();
    (on_host, found.residency.states.len() - on_host)
}

#[test]
fn caches_live_where_they_are_wished_to() {
    let machine = machine("rtx4080");
    let ask = |cache, layers| {
        let wishes = Wishes { cache: Some(cache), gpu_layers: Some(layers), ..Wishes::default() };
        let found = fitted("qwen2.5-32b-q4_k_m", &machine, 4096, &Request { wishes, ..request(512) }).unwrap();
        holds(&found, &machine);
        caches(&found, &machine)
    };
    assert_eq!(ask(CacheHome::Layer, 20), (2 * 44, 2 * 20));
    assert_eq!(ask(CacheHome::Accelerator, 20), (0, 2 * 64));
    assert_eq!(ask(CacheHome::Accelerator, 0), (0, 2 * 64));
    assert_eq!(ask(CacheHome::Host, 20), (2 * 64, 0));
}

/// Streaming all of a model for a long prompt, attention is faster where the rest of the layer is computed.
#[test]
fn caches_of_layers_that_stay_with_the_host_go_to_a_card_where_that_is_faster() {
    let machine = machine("rtx4080");
    let workload = Workload { prompt: Tokens(2048), generate: Tokens(0) };
    let ask = |cache| {
        let wishes = Wishes { cache, gpu_layers: Some(0), ..Wishes::default() };
        fitted("qwen2.5-32b-q4_k_m", &machine, 4096, &Request { wishes, workload, ..request(2048) }).unwrap()
    };
    let (free, told) = (ask(None), ask(Some(CacheHome::Layer)));
    holds(&free, &machine);
    assert_eq!(caches(&free, &machine), (0, 2 * 64));
    assert!(free.time(workload) < told.time(workload), "{} {}", free.time(workload), told.time(workload));
}

#[test]
fn caches_that_find_no_room_or_no_accelerator_are_refused() {
    let wishes = Wishes { cache: Some(CacheHome::Accelerator), ..Wishes::default() };
    let ask = Request { wishes, ..request(512) };
    match fitted("qwen2.5-32b-q4_k_m", &machine("rtx4080"), 131_072, &ask) {
        Err(FitError::Short { need, budget, missing, because, .. }) => {
            assert_eq!(missing, need - budget);
            assert!(because.contains("--kv accelerator"), "{because}");
        }
        other => panic!("{:?}", other.map(|f| f.memories)),
    }
    let layers = Wishes { gpu_layers: Some(20), ..Wishes::default() };
    let split = Wishes { tensor_split: Some(vec![1.0]), ..Wishes::default() };
    for (wishes, flag) in [(ask.wishes, "--kv accelerator: no"), (layers, "-ngl 20: no"), (split, "-ts: no")] {
        let ask = Request { wishes, ..request(512) };
        let refused = fitted("qwen3-30b-a3b-q4_k_m", &machine("cpu-2core"), 4096, &ask).unwrap_err();
        assert!(refused.to_string().starts_with(flag), "{refused}");
    }
}

fn overriding(pairs: &str) -> Request {
    let wishes = Wishes { overrides: Override::parse(pairs).unwrap(), ..Wishes::default() };
    Request { wishes, ..request(512) }
}

/// The memories of the homes of a weight.
fn memories_of<'a>(found: &Fit, machine: &'a Machine, name: &str) -> Vec<&'a str> {
    let (id, _) = found.graph.weights().iter_ids().find(|(_, w)| w.name == name).unwrap();
    found.residency.weights[id].iter().map(|h| machine.memories[h.memory].name.as_str()).collect()
}

#[test]
fn tensors_live_where_the_first_pattern_that_matches_says() {
    let machine = machine("rtx4080");
    let uid = machine.devices.iter().find(|d| d.is_accelerator()).unwrap().uid.clone();
    for card in ["cuda:0", "CUDA0", "Cuda0", &uid] {
        let pairs = format!(r"blk\.[12]\.ffn_gate_exps={card},blk\.(1|2|3)\.ffn_.*_exps=cpu,ffn_up_exps=Host");
        let found = fitted("qwen3-30b-a3b-q4_k_m", &machine, 4096, &overriding(&pairs)).unwrap();
        holds(&found, &machine);
        let at = |name: &str| memories_of(&found, &machine, name);
        assert_eq!(at("blk.1.ffn_gate_exps.weight"), ["cuda:0"]);
        assert_eq!(at("blk.3.ffn_gate_exps.weight"), ["host"]);
        assert_eq!(at("blk.2.ffn_down_exps.weight"), ["host"]);
        assert_eq!(at("blk.40.ffn_up_exps.weight"), ["host"]);
        assert_eq!(at("blk.40.attn_q.weight"), ["cuda:0"]);
        assert!(flags(&found, &machine).contains("ffn_up_exps"), "{}", flags(&found, &machine));
    }
}

#[test]
fn overrides_go_before_other_wishes_and_compose_with_them() {
    let machine = machine("rtx4080");
    let mut ask = overriding(r"blk\.5\.ffn_down_exps=CUDA0");
    (ask.wishes.host_moe_layers, ask.wishes.gpu_layers) = (u32::MAX, Some(30));
    let found = fitted("qwen3-30b-a3b-q4_k_m", &machine, 4096, &ask).unwrap();
    holds(&found, &machine);
    assert_eq!(memories_of(&found, &machine, "blk.5.ffn_down_exps.weight"), ["cuda:0"]);
    assert_eq!(memories_of(&found, &machine, "blk.6.ffn_down_exps.weight"), ["host"]);
    assert_eq!(memories_of(&found, &machine, "blk.17.attn_q.weight"), ["host"]);
    assert_eq!(memories_of(&found, &machine, "blk.18.attn_q.weight"), ["cuda:0"]);
}

#[test]
fn overrides_that_cannot_be_are_refused_by_name() {
    let machine = machine("rtx4080");
    for (pairs, why) in [
        ("ffn_(=CPU", "-ot ffn_(: regex parse error"),
        ("moon=CPU", "-ot moon: no tensor's name matches; there are blk.N.attn_k.weight"),
        ("attn=CUDA1", "-ot names CUDA1, needed CPU or one of cpu, cuda:0, host"),
        (".*=cuda:0", "with -ot .*=cuda:0"),
    ] {
        let refused = fitted("qwen3-30b-a3b-q4_k_m", &machine, 4096, &overriding(pairs)).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    assert!(matches!(
        fitted("qwen3-30b-a3b-q4_k_m", &machine, 4096, &overriding("exps=CUDA0")),
        Err(FitError::Short { need, budget, missing, .. }) if missing == need - budget
    ));
    for wrong in ["", "attn", "=CPU", "attn=", "attn=CPU,ffn"] {
        assert!(Override::parse(wrong).is_err(), "{wrong}");
    }
    let pair = |pattern: &str| Override { pattern: pattern.into(), device: "CPU".into() };
    assert_eq!(Override::parse("a{1,2}=CPU,b=CPU").unwrap(), [pair("a{1,2}"), pair("b")]);
}

#[test]
fn a_model_larger_than_one_nodes_memory_is_dealt_over_both() {
    let machine = machine("numa-2node");
    let found = fitted("kimi-k2.5-ud-iq3_xxs", &machine, 4096, &request(512)).unwrap();
    holds(&found, &machine);
    let held: Vec<Bytes> = found.memories.iter().map(|m| m.weights).collect();
    let total: Bytes = held.iter().copied().sum();
    assert!(machine.memories.ids().all(|m| total > machine.budget(m)), "{total}");
    assert!(held.iter().all(|&bytes| bytes > Bytes::ZERO), "{held:?}");
    let mut homes: Vec<_> = found.residency.states.iter().copied().collect();
    homes.dedup();
    assert_eq!(homes.len(), 2, "layers lie in one run a node");
}

#[test]
fn more_than_both_nodes_hold_is_refused_with_the_bytes_that_lack() {
    let mut machine = machine("numa-2node");
    machine
        .memories
        .ids()
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|m| machine.memories[m].free = Bytes::mib(150 << 10));
    match fitted("kimi-k2.5-ud-iq3_xxs", &machine, 4096, &request(512)) {
        Err(FitError::Short { need, budget, missing, .. }) => assert_eq!(missing, need - budget),
        other => panic!("{:?}", other.map(|f| f.memories)),
    }
}

/// Where cards cannot hold all, what each leaves free is less than a layer, and a layer is cut where that is faster.
#[test]
fn no_card_is_left_with_room_for_a_layer() {
    for (model, name) in [("qwen2.5-32b-q4_k_m", "rtx4080"), ("llama-3-70b-q4_k_m", "rtx4090")] {
        let machine = machine(name);
        let found = fitted(model, &machine, 4096, &request(512)).unwrap();
        holds(&found, &machine);
        let of_layer = |layer: usize| {
            let prefix = format!("blk.{layer}.");
            found
                .graph
                .weights()
                .iter_ids()
                .filter(move |(_, w)| w.name.starts_with(&prefix))
                .map(|(id, w)| (id, w.bytes()))
        };
        let largest: Bytes = (0..64).map(|l| of_layer(l).map(|w| w.1).sum()).max().unwrap();
        for (memory, used) in found.memories.iter_ids().filter(|&(m, _)| !machine.is_host(m)) {
            assert!(machine.budget(memory) - used.total() < largest, "{model}: {}", used.total());
        }
        let cut = |layer: usize| {
            let homes: Vec<_> = of_layer(layer).map(|(id, _)| found.residency.weights[id][0].memory).collect();
            homes.iter().any(|m| *m != homes[0])
        };
        assert_eq!((0..64).filter(|&l| cut(l)).count(), usize::from(name == "rtx4080"), "{model}");
    }
}

/// A head stands with the last layer, not with a card that has nothing else.
#[test]
fn cards_that_are_not_needed_stay_empty() {
    let machine = machine("ten-gpu");
    let found = fitted("qwen3-30b-a3b-q4_k_m", &machine, 4096, &request(512)).unwrap();
    let last = memories_of(&found, &machine, "blk.47.attn_q.weight");
    assert_eq!(memories_of(&found, &machine, "output.weight"), last);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_order_of_devices_in_a_file_changes_no_home(
        order in Just((0..11).collect::<Vec<usize>>()).prop_shuffle(), ten in any::<bool>(),
    ) {
        let (model, name) = if ten { ("qwen3-235b-a22b-q4_k_s", "ten-gpu") } else { ("kimi-k2.5-ud-iq3_xxs", "kimi-8gpu") };
        let machine = machine(name);
        let order: Vec<usize> = order.into_iter().filter(|&i| i < machine.devices.len()).collect();
        let homes = |machine: &Machine| fitted(model, machine, 4096, &request(512)).unwrap().residency;
        prop_assert_eq!(homes(&machine), homes(&shuffled(&machine, &order)));
    }
}

/// Rings and arenas of the prompt hold weights in decode, which finds them on the card; the host keeps its copies.
#[test]
fn decode_takes_what_the_prompt_gives_back() {
    let workload = Workload::default();
    for (model, name) in [("qwen2.5-32b-q4_k_m", "rtx4080"), ("deepseek-v3-iq1_s", "rtx3090x2-ddr4")] {
        let machine = machine(name);
        let found = fitted(model, &machine, 4096, &request(512)).unwrap();
        holds(&found, &machine);
        let phase = found.decode_phase.as_ref().unwrap();
        assert_eq!(phase.residency.states, found.residency.states);
        for (memory, used) in phase.memories.iter_ids() {
            assert!(used.total() <= machine.budget(memory), "{memory}: {}", used.total());
            let before = found.memories[memory];
            match machine.is_host(memory) {
                true => assert_eq!((used.weights, phase.brought[memory]), (before.weights, Bytes::ZERO)),
                false => {
                    let more = used.weights - before.weights;
                    assert!(more >= phase.brought[memory] && more <= before.arenas + before.rings + Bytes::mib(200));
                    assert!(more - phase.brought[memory] <= Bytes(64 * 1024), "aligning alone differs");
                }
            }
        }
        let slowest = phase.brought.iter_ids().filter_map(|(memory, &bytes)| {
            let host = machine.memories.ids().find(|&m| machine.is_host(m))?;
            Some(machine.way(host, memory)?.time(bytes))
        });
        assert!(phase.bring_time >= slowest.max().unwrap());
        let plain = found.prompt_time.seconds() + 128.0 * found.token_time.seconds();
        assert!(found.time(workload).seconds() < plain);
        let shown = table(&found, &machine, workload);
        assert!(shown.contains("behind the prompt") && json(&found, &machine, workload).contains("brought_bytes"));
    }
}

#[test]
fn a_workload_without_tokens_to_generate_has_one_phase() {
    let workload = Workload { prompt: Tokens(512), generate: Tokens(0) };
    let found = fitted("qwen2.5-32b-q4_k_m", &machine("rtx4080"), 4096, &Request { workload, ..request(512) }).unwrap();
    assert!(found.decode_phase.is_none());
}

fn sized(model: &str, machine: &Machine, request: &Request, context: Option<u32>, ubatch: Option<u32>) -> Chosen {
    let shape = ShapeFile::shipped(model).unwrap().unwrap();
    let model = Model::from_shape(&shape).unwrap();
    let graphs = |batch: Batch, extent: Extent| {
        let sliding = Some(Sliding { sequences: 1, step: extent.ubatch });
        let cache = CacheSpec { cells: extent.context, keys: DType::F16, values: DType::F16, sliding };
        model.graph(batch, cache).map_err(|e| e.to_string())
    };
    let most = Tokens(model.hparams().context);
    let sizes = Sizes { context: context.map(Tokens), ubatch: ubatch.map(Tokens), most };
    fit_sizes(&graphs, machine, request, sizes).unwrap()
}

fn held(fit: &Fit, machine: &Machine) -> Bytes {
    let cards = fit.memories.iter_ids().filter(|&(m, _)| !machine.is_host(m));
    cards.map(|(_, used)| used.weights).sum()
}

/// A 32B model fits a card of 24 GB with room for a longer cache, which is taken to the last step of 256 tokens.
#[test]
fn the_chosen_context_is_the_longest_that_takes_nothing_from_the_card() {
    let (model, machine, request) = ("qwen2.5-32b-q4_k_m", machine("rtx4090"), request(512));
    let chosen = sized(model, &machine, &request, None, Some(512));
    holds(&chosen.fit, &machine);
    let (base, context) = (fitted(model, &machine, 4096, &request).unwrap(), chosen.context.0);
    assert!(context > 4096 && context % 256 == 0, "{context}");
    assert_eq!((chosen.fit.context(), chosen.fit.ubatch()), (Tokens(context), Tokens(512)));
    assert_eq!(held(&chosen.fit, &machine), held(&base, &machine));
    let longer = fitted(model, &machine, context + 256, &request).unwrap();
    assert!(held(&longer, &machine) < held(&base, &machine), "{context}");
}

/// Of 62 layers 52 keep a window of 1024 tokens and a step: the room that whole caches take is for six times the context.
#[test]
fn layers_with_windows_leave_room_for_a_longer_context() {
    let (model, machine, request) = ("gemma-3-27b-it-q4_k_m", machine("rtx4090"), request(512));
    let chosen = sized(model, &machine, &request, None, Some(512));
    holds(&chosen.fit, &machine);
    let whole = |context| held(&fitted(model, &machine, context, &request).unwrap(), &machine);
    assert_eq!(held(&chosen.fit, &machine), whole(4096));
    assert!(whole(chosen.context.0 / 4) < whole(4096), "{}", chosen.context);
    let auto = sized(model, &machine, &request, Some(4096), None);
    let told = sized(model, &machine, &request, Some(4096), Some(auto.ubatch.0));
    assert_eq!(auto.fit.memories.iter().collect::<Vec<_>>(), told.fit.memories.iter().collect::<Vec<_>>());
}

#[test]
fn a_chosen_context_is_at_most_the_models() {
    let chosen = sized("qwen3-30b-a3b-q4_k_m", &machine("h200x8"), &request(512), None, Some(512));
    let shape = ShapeFile::shipped("qwen3-30b-a3b-q4_k_m").unwrap().unwrap();
    assert_eq!(chosen.context.0, Model::from_shape(&shape).unwrap().hparams().context / 256 * 256);
}

#[test]
fn the_chosen_step_is_the_one_with_the_least_time() {
    let (model, machine) = ("qwen2.5-32b-q4_k_m", machine("rtx4080"));
    let workload = Workload { prompt: Tokens(2048), generate: Tokens(16) };
    let request = Request { workload, ..request(512) };
    let chosen = sized(model, &machine, &request, Some(4096), None);
    holds(&chosen.fit, &machine);
    assert_eq!(chosen.fit.ubatch(), chosen.ubatch);
    for ubatch in [64, 128, 256, 512, 1024, 2048, 4096] {
        let told = sized(model, &machine, &request, Some(4096), Some(ubatch)).fit.time(workload);
        assert!(chosen.fit.time(workload) <= told, "{ubatch}: {told} is less than with {}", chosen.ubatch);
    }
}

/// Of two equal cards that one is enough of, the one with the faster way from the host has the layers.
#[test]
fn cards_are_taken_in_order_of_their_links_where_that_is_faster() {
    let mut machine = machine("rtx3090x2-ddr4");
    let links: Vec<_> = machine.links.iter_ids().map(|(id, l)| (id, l.a, l.b)).collect();
    for card in machine.memories.ids().filter(|&m| !machine.is_host(m)).collect::<Vec<_>>() {
        for &(id, ..) in links.iter().filter(|(_, a, b)| *a == card || *b == card) {
            let rate = if machine.memories[card].name == "cuda:0" { 2e9 } else { 24e9 };
            machine.links[id].rate = BytesPerSec(rate);
        }
    }
    let found = fitted("qwen2.5-32b-q4_k_m", &machine, 4096, &request(512)).unwrap();
    holds(&found, &machine);
    let used =
        |name: &str| found.memories[machine.memories.iter_ids().find(|(_, m)| m.name == name).unwrap().0].weights;
    assert!(used("cuda:1") > used("cuda:0"), "{} {}", used("cuda:0"), used("cuda:1"));
}

/// What no card holds goes to the host that is nearest to the cards first.
#[test]
fn the_nearest_host_is_filled_first() {
    let cards = machine("rtx4090");
    let mut both = machine("numa-2node");
    let (host, card) = (MemoryId(0), both.memories.push(cards.memories[MemoryId(1)].clone()));
    let spec = cards.devices.iter().find(|d| d.is_accelerator()).unwrap();
    both.devices.push(DeviceSpec { memory: card, ..spec.clone() });
    both.links.push(Link { a: MemoryId(1), b: card, bus: None, ..cards.link(host, MemoryId(1)).unwrap().clone() });
    for (context, model, spills) in [(4096, "qwen3-235b-a22b-q4_k_s", false), (4096, "kimi-k2.5-ud-iq3_xxs", true)] {
        let found = fitted(model, &both, context, &request(512)).unwrap();
        holds(&found, &both);
        let experts = |memory| {
            let stacks = found.graph.weights().iter_ids().filter(|(_, w)| w.count > 1);
            stacks.flat_map(|(id, _)| &found.residency.weights[id]).filter(move |h| h.memory == memory).count()
        };
        assert!(experts(card) > 0 && experts(MemoryId(1)) > 0, "{model}");
        assert_eq!(experts(MemoryId(0)) > 0, spills, "{model}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is wished for, homes keep it and every bucket checks, or it is refused.
    #[test]
    fn wishes_are_kept_or_refused(
        name in prop::sample::select(vec!["rtx4080", "rtx3090x2-ddr4", "numa-2node", "laptop-igpu", "ten-gpu"]),
        moe in any::<bool>(),
        gpu_layers in prop::option::of(0u32..70),
        host_moe_layers in prop_oneof![Just(0), 0u32..60],
        cache in prop::option::of(prop::sample::select(vec![CacheHome::Layer, CacheHome::Accelerator, CacheHome::Host])),
        pins in prop::sample::select(vec!["", r"blk\.[0-9]\.ffn=CPU", "norm=CUDA0", r"blk\.1.\.attn_q=CUDA0,output=CPU", "down=host"]),
        ubatch in prop::sample::select(vec![1u32, 64, 512]),
    ) {
        let machine = machine(name);
        let overrides = if pins.is_empty() { Vec::new() } else { Override::parse(pins).unwrap() };
        let wishes = Wishes { gpu_layers, host_moe_layers, cache, overrides, ..Wishes::default() };
        let model = if moe { "qwen3-30b-a3b-q4_k_m" } else { "qwen2.5-32b-q4_k_m" };
        let Ok(found) = fitted(model, &machine, 4096, &Request { wishes, ..request(ubatch) }) else { return Ok(()) };
        holds(&found, &machine);
        let layers = found.graph.states().iter().map(|s| s.layer + 1).max().unwrap();
        if pins.is_empty() {
            let accelerated = |l: u32| memories_of(&found, &machine, &format!("blk.{l}.attn_q.weight"))[0].contains("cuda");
            let count = (0..layers).filter(|&l| accelerated(l)).count() as u32;
            let cards = machine.memories.ids().any(|m| !machine.is_host(m));
            prop_assert!(gpu_layers.is_none_or(|asked| !cards || count == asked.min(layers)), "{count}");
        }
        if cache == Some(CacheHome::Host) {
            prop_assert!(found.residency.states.iter().all(|&m| machine.is_host(m)));
        }
        if cache == Some(CacheHome::Accelerator) {
            prop_assert!(found.residency.states.iter().all(|&m| !machine.is_host(m)));
        }
    }
}
