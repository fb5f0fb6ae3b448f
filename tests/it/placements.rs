//! Placements of models on machines as tables, one snapshot a case: a change of the planner shows in review what it moves.
//! Small models node by node, shipped ones by runs of layers with their bytes.

use loadmaster::device::{BackendKind, Bus, BusId, DeviceSpec, Link, Machine, MemoryId, MemorySpec, Rates, Types};
use loadmaster::exec::homes_for;
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph};
use loadmaster::inspect::{Planned, placement_table, why};
use loadmaster::models::{CacheSpec, Model, ShapeFile};
use loadmaster::plan::{Offload, Plan, Policy, partition, plan};
use loadmaster::residency::Residency;
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, BytesPerSec, Nanos, OpsPerSec, Tokens};

/// A machine by name: a host, and cards linked to it that share a bus.
pub fn machine(name: &str) -> Machine {
    match name {
        "cpu" => described(512, &[]),
        "card" => described(128, &[24]),
        "small-card" => described(128, &[8]),
        "two-cards" => described(256, &[24, 24]),
        "eight-cards" => described(512, &[80; 8]),
        // Shrunk by each case until a layer of its model fits a card, and no more.
        "tiny-card" => described(1, &[0]),
        "two-tiny-cards" => described(1, &[0, 0]),
        other => panic!("no machine {other}"),
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

/// All that a plan is made of.
pub struct Case {
    pub graph: Graph,
    pub homes: Residency,
    pub machine: Machine,
    pub policy: Policy,
    pub plan: Plan,
}

impl Case {
    pub fn new(model: &Model, mut machine: Machine, tokens: u32, offload: Offload) -> Case {
        let cache = CacheSpec { cells: Tokens(4096), keys: DType::F16, values: DType::F16 };
        let graph = |tokens| model.graph(Batch { tokens: Tokens(tokens), outputs: Tokens(1) }, cache).unwrap();
        let policy = Policy { offload, ..Policy::default() };
        let (graph, largest) = (graph(tokens), graph(512));
        let mut homes = homes_for(&largest, &machine, &policy);
        while machine.memories.iter().skip(1).any(|m| m.total == Bytes::ZERO) && homes.states.iter().all(|m| m.0 == 0) {
            machine.memories.ids().skip(1).for_each(|id| machine.memories[id].free += Bytes(1 << 18));
            homes = homes_for(&largest, &machine, &policy);
        }
        let graph = partition(&graph, &homes).unwrap();
        let plan = plan(&graph, &homes, &machine, &policy).unwrap();
        Case { graph, homes, machine, policy, plan }
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
const CASES: [(&str, &[(&str, Offload)]); 10] = [
    ("llama-tiny", &[("tiny-card", NEVER), ("tiny-card", FIELD), ("two-tiny-cards", AUTO)]),
    ("qwen3-tiny", &[("tiny-card", AUTO)]),
    ("qwen3moe-tiny", &[("tiny-card", FIELD), ("tiny-card", AUTO)]),
    ("deepseek2-tiny", &[("tiny-card", FIELD)]),
    ("qwen2.5-32b-q4_k_m", &[("cpu", AUTO), ("card", NEVER), ("card", FIELD), ("small-card", AUTO)]),
    ("llama-3-70b-q4_k_m", &[("two-cards", NEVER), ("two-cards", FIELD), ("two-cards", AUTO)]),
    ("qwen3-30b-a3b-q4_k_m", &[("card", NEVER), ("small-card", FIELD), ("small-card", AUTO)]),
    ("qwen3-235b-a22b-q4_k_s", &[("two-cards", FIELD), ("two-cards", AUTO)]),
    ("deepseek-v3-iq1_s", &[("two-cards", FIELD), ("two-cards", AUTO)]),
    ("kimi-k2.5-ud-iq3_xxs", &[("eight-cards", NEVER), ("eight-cards", FIELD)]),
];

fn word(offload: Offload) -> String {
    match offload {
        Offload::Never => "never".to_owned(),
        Offload::AtLeast(Tokens(least)) => least.to_string(),
        Offload::Auto => "auto".to_owned(),
    }
}

/// Calls `look` with the name and the plan of every case.
fn each(look: impl Fn(&str, &Case)) {
    for (name, places) in CASES {
        let model = model(name);
        for &(place, offload) in places {
            for tokens in [1, 512] {
                let case = Case::new(&model, machine(place), tokens, offload);
                look(&format!("{name}__{place}__{}__{tokens}", word(offload)), &case);
            }
        }
    }
}

#[test]
fn placements_are_as_reviewed() {
    let cases: usize = CASES.iter().map(|(_, places)| 2 * places.len()).sum();
    assert!(cases >= 40, "{cases}");
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        each(|name, case| {
            let table = case.table();
            assert!(table.lines().count() < 60, "{name}: {} lines", table.lines().count());
            assert_eq!(table, case.table());
            insta::assert_snapshot!(name, table);
        });
    });
}

/// Every node has a reason that holds, and `why` answers for it.
#[test]
fn every_node_of_every_case_says_why() {
    each(|name, case| {
        let large = case.graph.len() > 200;
        for (id, node) in case.graph.nodes().filter(|(id, _)| !large || id.0 % 37 == 0) {
            let said = why(&case.planned(), &node.name).unwrap();
            let device = &case.machine.devices[case.plan.placements[id].device].name;
            assert!(said.contains(&format!("\n  runs on {device}: ")), "{name}: {said}");
            assert_eq!(said.matches("  chosen\n").count(), 1, "{name}: {said}");
            for part in ["\npossible:\n", "\nreads:\n", "\nread by", "\nsplit: x", "\narena: "] {
                assert!(said.contains(part), "{name}: no {part:?} in {said}");
            }
            let streamed = case.plan.uploads.iter().any(|upload| {
                let here = case.plan.splits[upload.split].nodes.contains(&id);
                here && node.op.weight_operands().contains(&upload.slice.weight)
            });
            assert_eq!(said.contains("streamed as p"), streamed, "{name}: {said}");
        }
    });
}
