//! Placements of models on machines as tables, one snapshot a case: a change of the planner shows in review what it moves.
//! Small models node by node, shipped ones on shipped machines by runs of layers with their bytes.

use std::sync::LazyLock;

use loadmaster::device::{BackendKind, Bus, BusId, DeviceSpec, Link, Machine, MemoryId, MemorySpec, Rates, Types};
use loadmaster::fit::{Bucket, Fit, FitError, Request, Wishes, fit};
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph, NodeId, Operand};
use loadmaster::inspect::{Planned, Read, Why, placement_table, why};
use loadmaster::models::{CacheSpec, Model, ShapeFile, Sliding};
use loadmaster::plan::{Offload, Plan, Policy, Upload, UploadId, check};
use loadmaster::residency::Residency;
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, BytesPerSec, Nanos, OpsPerSec, Tokens, Workload};

/// A shipped machine, or a tiny one by name: a host, and cards linked to it that share a bus.
pub fn machine(name: &str) -> Machine {
    match name {
        // Shrunk by each case until a layer of its model fits a card, and no more.
        "tiny-card" => described(1, &[0]),
        "two-tiny-cards" => described(1, &[0, 0]),
        shipped => Machine::shipped(shipped).unwrap(),
    }
}

fn described(host_gib: u64, cards_gib: &[u64]) -> Machine {
    let mut machine = Machine::default();
    let host = memory(&mut machine, "host", host_gib);
    let cpu = [60e9, 1.2e12, 0.6e12, 0.3e12];
    device(&mut machine, "cpu", BackendKind::Cpu, host, cpu);
    let bus: BusId = machine.buses.push(Bus { name: "pcie".into(), rate: BytesPerSec(50e9) });
    for (i, &gib) in cards_gib.iter().enumerate() {
        let name = format!("cuda:{i}");
        let own = memory(&mut machine, &name, gib);
        device(&mut machine, &name, BackendKind::Cuda, own, [800e9, 160e12, 120e12, 60e12]);
        let (rate, pageable) = (BytesPerSec(25e9), BytesPerSec(12e9));
        machine.links.push(Link { a: host, b: own, rate, pageable, latency: Nanos(10_000), bus: Some(bus) });
    }
    machine
}

fn memory(machine: &mut Machine, name: &str, gib: u64) -> MemoryId {
    let total = Bytes(gib << 30);
    machine.memories.push(MemorySpec { name: name.into(), total, free: total, reserve: Bytes::ZERO })
}

fn device(machine: &mut Machine, name: &str, kind: BackendKind, memory: MemoryId, rates: [f64; 4]) {
    let [read, int8, f16, f32] = rates;
    let accelerator = kind.is_accelerator();
    machine.devices.push(DeviceSpec {
        name: name.into(),
        uid: name.into(),
        kind,
        memory,
        workers: if accelerator { 1 } else { 16 },
        alignment: if accelerator { 256 } else { 64 },
        overhead: Bytes::ZERO,
        types: Types::All,
        rates: Rates {
            read: BytesPerSec(read),
            int8: OpsPerSec(int8),
            f16: OpsPerSec(f16),
            f32: OpsPerSec(f32),
            node: Nanos(if accelerator { 4_000 } else { 1_000 }),
            split: Nanos(10_000),
            hides: 0.8,
        },
        accelerator: None,
        overlaps: accelerator,
    });
}

/// A model by name: of the shipped ones, or a tiny one with random weights and two layers.
pub fn model(name: &str) -> Model {
    if let Some(shape) = ShapeFile::shipped(name) {
        return Model::from_shape(&shape.unwrap()).unwrap();
    }
    let shape = ModelShape { layers: 2, ..named(name).unwrap() };
    let bytes = Synth::new(&shape, DType::Q8_0, 1).unwrap().to_bytes().unwrap();
    Model::from_gguf(&Gguf::from_bytes("made.gguf", bytes).unwrap()).unwrap()
}

/// A model on a machine under a rule: the fit, and all that it was made of.
pub struct Fitted {
    model: Model,
    machine: Machine,
    request: Request,
    found: Fit,
}

impl Fitted {
    pub fn new(name: &str, place: &str, offload: Offload) -> Fitted {
        Fitted::together(name, place, offload, 1)
    }

    /// With so many cards to a layer.
    fn together(name: &str, place: &str, offload: Offload, together: u32) -> Fitted {
        let (model, mut machine) = (model(name), machine(place));
        let policy = Policy { offload, ..Policy::default() };
        let (workload, wishes) = (Workload::default(), Wishes { together, ..Wishes::default() });
        let request = Request { ubatch: Tokens(512), workload, policy, wishes };
        let found = loop {
            let found = fitted(&model, &machine, &request);
            let tiny = machine.memories.iter().skip(1).any(|m| m.total == Bytes::ZERO);
            match found {
                Ok(found) if !tiny || found.residency.states.iter().any(|m| m.0 > 0) => break found,
                Ok(_) | Err(FitError::Short { .. }) if tiny => {
                    machine.memories.ids().skip(1).for_each(|id| machine.memories[id].free += Bytes(1 << 18));
                }
                Ok(_) | Err(_) => panic!("{name} on {place}: {:?}", found.err()),
            }
        };
        Fitted { model, machine, request, found }
    }

    /// The plan of a step of `tokens` tokens.
    pub fn step(&self, tokens: u32) -> Case {
        let Fitted { model, machine, request, found } = self;
        let graphs = |batch: Batch| model.graph(batch, CACHE).map_err(|e| e.to_string());
        let Bucket { graph, plan, .. } = found.step(&graphs, machine, request, Tokens(tokens)).unwrap();
        let (homes, machine, policy) = (found.residency.clone(), machine.clone(), request.policy.clone());
        Case { graph, homes, machine, policy, plan }
    }
}

const CACHE: CacheSpec = CacheSpec {
    cells: Tokens(4096),
    keys: DType::F16,
    values: DType::F16,
    sliding: Some(Sliding { sequences: 1, step: Tokens(512) }),
};

fn fitted(model: &Model, machine: &Machine, request: &Request) -> Result<Fit, FitError> {
    let graphs = |batch: Batch| model.graph(batch, CACHE).map_err(|e| e.to_string());
    fit(&graphs, machine, request)
}

/// All that a plan is made of.
pub struct Case {
    pub graph: Graph,
    pub homes: Residency,
    pub machine: Machine,
    pub policy: Policy,
    pub plan: Plan,
}

impl Case {
    pub fn new(model: &str, place: &str, tokens: u32, offload: Offload) -> Case {
        Fitted::new(model, place, offload).step(tokens)
    }

    pub fn planned(&self) -> Planned<'_> {
        let Case { graph, homes, machine, policy, plan } = self;
        Planned { graph, homes, machine, policy, plan }
    }

    fn table(&self) -> String {
        placement_table(&self.graph, &self.plan, &self.machine)
    }
}

const NEVER: Offload = Offload::Never;
const AUTO: Offload = Offload::Auto;
const FIELD: Offload = Offload::AtLeast(Tokens(32));

/// Machines and rules for one model; each at one token and at 512.
const CASES: [(&str, &[(&str, Offload)]); 12] = [
    ("llama-tiny", &[("tiny-card", NEVER), ("tiny-card", FIELD), ("two-tiny-cards", AUTO)]),
    ("qwen3-tiny", &[("tiny-card", AUTO)]),
    ("qwen3moe-tiny", &[("tiny-card", FIELD), ("tiny-card", AUTO)]),
    ("deepseek2-tiny", &[("tiny-card", FIELD)]),
    ("qwen2.5-32b-q4_k_m", &[("rtx4080", NEVER), ("rtx4080", FIELD), ("rtx4080", AUTO), ("laptop-igpu", AUTO)]),
    ("qwen2.5-32b-q5_k_m", &[("rtx4090", NEVER), ("rtx4090", FIELD)]),
    ("llama-3-70b-q4_k_m", &[("rtx3090x2-ddr4", AUTO), ("rtx4090", FIELD), ("rtx4090", AUTO), ("h200x8", FIELD)]),
    (
        "qwen3-30b-a3b-q4_k_m",
        &[("rtx4080", NEVER), ("rtx4080", FIELD), ("rtx4090", AUTO), ("numa-2node", AUTO), ("cpu-2core", AUTO)],
    ),
    ("gemma-3-27b-it-q4_k_m", &[("rtx4080", FIELD), ("rtx4090", AUTO), ("rtx3090x2-ddr4", NEVER)]),
    ("qwen3-235b-a22b-q4_k_s", &[("ten-gpu", AUTO), ("rtx3090x2-ddr4", FIELD)]),
    ("deepseek-v3-iq1_s", &[("rtx3090x2-ddr4", FIELD), ("rtx3090x2-ddr4", AUTO), ("h200x8", NEVER)]),
    ("kimi-k2.5-ud-iq3_xxs", &[("kimi-8gpu", NEVER), ("kimi-8gpu", FIELD), ("kimi-8gpu", AUTO)]),
];

fn word(offload: Offload) -> String {
    match offload {
        Offload::Never => "never".to_owned(),
        Offload::AtLeast(Tokens(least)) => least.to_string(),
        Offload::Auto => "auto".to_owned(),
    }
}

/// Every case with its name; each fit is made once.
static EACH: LazyLock<Vec<(String, Case)>> = LazyLock::new(|| {
    let fits = CASES.into_iter().flat_map(|(model, places)| places.iter().map(move |&place| (model, place)));
    let cases = fits.flat_map(|(model, (place, offload))| {
        let fitted = Fitted::new(model, place, offload);
        let name = format!("{model}__{place}__{}", word(offload));
        [1, 512].map(|tokens| (format!("{name}__{tokens}"), fitted.step(tokens)))
    });
    let lanes = TOGETHER.into_iter().flat_map(|(model, place, together)| {
        let fitted = Fitted::together(model, place, AUTO, together);
        [1, 512].map(|tokens| (format!("{model}__{place}__{together}-together__{tokens}"), fitted.step(tokens)))
    });
    cases.chain(lanes).collect()
});

/// Cards that work on layers together.
const TOGETHER: [(&str, &str, u32); 6] = [
    ("qwen3-tiny", "two-tiny-cards", 2),
    ("gemma-3-27b-it-q4_k_m", "rtx3090x2-ddr4", 2),
    ("qwen3-235b-a22b-q4_k_s", "ten-gpu", 2),
    ("qwen3-235b-a22b-q4_k_s", "rtx3090x2-ddr4", 2),
    ("llama-3-70b-q4_k_m", "h200x8", 4),
    ("deepseek-v3-iq1_s", "h200x8", 4),
];

#[test]
fn placements_are_as_reviewed() {
    assert!(EACH.len() >= 40, "{}", EACH.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, case) in EACH.iter() {
            let table = case.table();
            assert!(table.lines().count() < 90, "{name}: {} lines", table.lines().count());
            assert_eq!(table, case.table());
            insta::assert_snapshot!(name.as_str(), table);
        }
    });
}

/// A step of any size has the fit's homes and fits, or the bytes that it lacks are named.
#[test]
fn steps_of_other_sizes_have_the_same_homes() {
    let Fitted { model, machine, request, found } = Fitted::new("qwen3-30b-a3b-q4_k_m", "rtx4080", AUTO);
    let graphs = |batch: Batch| model.graph(batch, CACHE).map_err(|e| e.to_string());
    let step = |tokens| found.step(&graphs, &machine, &request, Tokens(tokens));
    for tokens in [1, 2, 33, 64, 511, 512] {
        let Bucket { graph, plan, .. } = step(tokens).unwrap();
        assert_eq!((graph.batch().tokens, plan.batch.tokens), (Tokens(tokens), Tokens(tokens)));
        check(&graph, &found.residency, &machine, &plan).unwrap();
    }
    match step(8192) {
        Err(FitError::Short { need, budget, missing, .. }) => assert_eq!(missing, need - budget),
        other => panic!("a step of 8192 tokens fits beside weights that leave no room: {:?}", other.map(|b| b.offload)),
    }
}

/// Every node has a reason that holds, and `why` answers for it.
#[test]
fn every_node_of_every_case_says_why() {
    for (name, case) in EACH.iter() {
        for (id, node) in case.graph.nodes() {
            let why = why(&case.planned(), &node.name).unwrap();
            let said = why.to_text();
            let device = &case.machine.devices[case.plan.placements[id].device].name;
            assert!(said.contains(&format!("\n  runs on {device}: {}\n", why.words)), "{name}: {said}");
            assert_eq!(said.matches("  chosen\n").count(), 1, "{name}: {said}");
            for part in ["\npossible:\n", "\nreads:\n", "\nread by", "\nsplit: x", "\narena: "] {
                assert!(said.contains(part), "{name}: no {part:?} in {said}");
            }
            holds(case, id, &why);
        }
    }
}

/// The facts of a node against the plan itself, and its JSON against the facts.
fn holds(case: &Case, id: NodeId, why: &Why) {
    let (node, plan, machine) = (case.graph.node(id), &case.plan, &case.machine);
    let device = plan.placements[id].device;
    let json: serde_json::Value = serde_json::from_str(&why.to_json()).unwrap();
    assert_eq!(json["device"], machine.devices[device].name);
    let chosen = why.possible.iter().filter(|p| p.chosen && p.refused.is_none()).map(|p| &p.device);
    assert!(chosen.eq([&machine.devices[device].name]), "{why:?}");
    assert_eq!(why.possible.len(), machine.devices.len());
    let operands = node.op.operands();
    assert_eq!((why.reads.len(), json["reads"].as_array().unwrap().len()), (operands.len(), operands.len()));
    for ((operand, read), shown) in operands.into_iter().zip(&why.reads).zip(json["reads"].as_array().unwrap()) {
        match (operand, read) {
            (Operand::Weight(weight), Read::Weight { streamed, homes, .. }) => {
                let range = node.op.matrices(weight, case.graph.weights()[weight].count);
                let brought = |u: &Upload| {
                    plan.splits[u.split].nodes.contains(&id) && u.slice.weight == weight && u.slice.holds(&range)
                };
                let upload = plan.uploads.iter_ids().find(|(_, u)| brought(u)).map(|(id, _)| id);
                assert_eq!(streamed.as_ref().map(|s| s.upload), upload);
                assert_eq!(shown["streamed"]["upload"].as_u64(), upload.map(|UploadId(n)| n.into()));
                let own = &machine.memories[machine.devices[device].memory].name;
                assert_eq!(homes.contains(own), upload.is_none(), "{why:?}");
            }
            (Operand::Node(n), Read::Value { here, copied, .. }) => {
                assert_eq!(*here, plan.placements[n].device == device);
                let crosses = plan.transfers.iter().any(|t| t.value == n && t.to == device);
                assert_eq!((copied.is_some(), shown["copied"].is_object()), (crosses, crosses));
            }
            (Operand::State(s), Read::State { home, .. }) => {
                assert_eq!(*home, machine.memories[case.homes.states[s]].name);
            }
            (Operand::Input(i), Read::Input { name, .. }) => assert_eq!(*name, case.graph.inputs()[i].name()),
            (operand, read) => panic!("{operand:?} is shown as {read:?}"),
        }
    }
}
