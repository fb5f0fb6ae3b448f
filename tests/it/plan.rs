//! Plans of random graphs pass the checker; every kind of damage to a plan is found, with the right reason.

use loadmaster::backend::null::NullBackend;
use loadmaster::backend::{Args, Backend, Bindings, BoundSlice, BufferKind, BufferSpan, CellTable, SplitWork};
use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId};
use loadmaster::graph::{Graph, InputId, NodeId, Weight};
use loadmaster::index::{Id, IndexVec};
use loadmaster::plan::{Plan, PlanError, Policy, Span, Violation, check, plan};
use loadmaster::residency::{Layout, Residency, Storage, weight_bytes};
use loadmaster::units::{Bytes, Tokens};
use proptest::prelude::*;

use crate::plan_random::random_graph;

/// Where the one device of a plan finds its inputs.
pub fn inputs_of(graph: &Graph, plan: &Plan) -> IndexVec<InputId, Span> {
    plan.view(DeviceId(0), graph.inputs().len()).inputs
}

fn machine() -> Machine {
    Machine::single(BackendKind::Cpu, 3, Bytes(1 << 40))
}

fn homes(graph: &Graph) -> Residency {
    let storage = |w: &Weight| if w.rows == 100 { Storage::Mapped } else { Storage::Allocated };
    let layout = |w: &Weight| if w.rows >= 32 { Layout::Panel16 } else { Layout::Gguf };
    Residency::in_one(graph, MemoryId(0), |_, w| (layout(w), storage(w)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(500)))]
    #[test]
    fn plans_of_random_graphs_pass_the_checker(
        seed in any::<u64>(), steps in 1usize..60, tokens in 1u32..600, outputs in 1u32..600,
    ) {
        let graph = random_graph(seed, steps, tokens, outputs.min(tokens));
        let (machine, homes) = (machine(), homes(&graph));
        let made = plan(&graph, &homes, &machine, &Policy::default()).unwrap();
        check(&graph, &homes, &machine, &made).unwrap();
        prop_assert_eq!(&plan(&graph, &homes, &machine, &Policy::default()).unwrap(), &made);
        // The arena ends with its last span, and no plan is worse than giving every value a place of its own.
        let ends = made.values.iter().chain(made.inputs.iter().map(|copy| &copy.span)).chain(made.splits.iter().map(|s| &s.scratch));
        prop_assert_eq!(ends.clone().map(|s| s.end()).max(), Some(made.arenas[loadmaster::device::DeviceId(0)].bytes));
        let apart: u64 = ends.map(|s| s.len.align_up(64).0).sum();
        prop_assert!(made.arenas[loadmaster::device::DeviceId(0)].bytes.0 <= apart);
        let read = Graph::from_json(&graph.to_json()).unwrap();
        prop_assert_eq!(read.to_json(), graph.to_json());
    }
}

/// One way to damage a plan, and what the checker must say.
type Damage = (&'static str, fn(&Graph, &mut Plan), fn(&Violation) -> bool);

const DAMAGES: [Damage; 10] = [
    ("a node left out", |_, p| _ = first_split(p).nodes.remove(3), |v| matches!(v, Violation::Runs { times: 0, .. })),
    (
        "a node twice",
        |_, p| first_split(p).nodes.insert(3, NodeId(2)),
        |v| matches!(v, Violation::Runs { times: 2, .. }),
    ),
    ("two nodes swapped", |_, p| first_split(p).nodes.swap(0, 1), |v| matches!(v, Violation::Lost { .. })),
    (
        "a value moved onto its operand",
        |g, p| {
            let last = g.output();
            let operand = g.node(last).op.node_operands()[0];
            p.values[last].offset = p.values[operand].offset;
        },
        |v| matches!(v, Violation::Lost { .. }),
    ),
    (
        "a value past the arena",
        |g, p| p.values[g.output()].offset = p.arenas[loadmaster::device::DeviceId(0)].bytes,
        |v| matches!(v, Violation::Span { .. }),
    ),
    (
        "a value off its alignment",
        |g, p| p.values[g.output()].offset += Bytes(4),
        |v| matches!(v, Violation::Span { .. }),
    ),
    ("a value cut short", |g, p| p.values[g.output()].len = Bytes(4), |v| matches!(v, Violation::Length { .. })),
    (
        "memory understated",
        |_, p| p.memories[MemoryId(0)].weights = Bytes(1),
        |v| matches!(v, Violation::Memory { .. }),
    ),
    ("scratch cut short", |_, p| first_split(p).scratch.len = Bytes(64), |v| matches!(v, Violation::Length { .. })),
    (
        "an input on a value",
        |_, p| {
            let at = p.values[NodeId(0)].offset;
            let input = InputId(1);
            p.inputs[input.index()].span.offset = at;
        },
        |v| matches!(v, Violation::Lost { .. }),
    ),
];

fn first_split(plan: &mut Plan) -> &mut loadmaster::plan::Split {
    &mut plan.splits[loadmaster::plan::SplitId(0)]
}

#[test]
fn every_kind_of_damage_is_found() {
    for seed in 0..50 {
        let graph = random_graph(seed, 30, 64, 64);
        let (machine, homes) = (machine(), homes(&graph));
        let whole = plan(&graph, &homes, &machine, &Policy::default()).unwrap();
        for (what, damage, expected) in DAMAGES {
            let mut damaged = whole.clone();
            damage(&graph, &mut damaged);
            let found = check(&graph, &homes, &machine, &damaged).expect_err(what);
            assert!(expected(&found), "seed {seed}: {what}: {found}");
        }
    }
}

#[test]
fn a_budget_one_byte_short_is_refused_with_the_need() {
    let graph = random_graph(7, 20, 64, 64);
    let homes = homes(&graph);
    let made = plan(&graph, &homes, &machine(), &Policy::default()).unwrap();
    let need = made.memories[MemoryId(0)].total();
    plan(&graph, &homes, &Machine::single(BackendKind::Cpu, 3, need), &Policy::default()).unwrap();
    let short = Machine::single(BackendKind::Cpu, 3, need - Bytes(1));
    let budget = need - Bytes(1);
    assert_eq!(
        plan(&graph, &homes, &short, &Policy::default()),
        Err(PlanError::OverBudget { memory: "host".into(), need, budget })
    );
    assert!(matches!(check(&graph, &homes, &short, &made), Err(Violation::Budget { .. })));
}

#[test]
fn a_cache_whose_halves_live_apart_is_refused() {
    let graph = random_graph(7, 20, 64, 64);
    let mut homes = homes(&graph);
    let values = graph.states().ids().nth(1).expect("seed 7 has a cache");
    homes.states[values] = MemoryId(1);
    let machine = Machine::isolated(BackendKind::Cpu, 2, 2, Bytes(1 << 40));
    let found = plan(&graph, &homes, &machine, &Policy::default());
    let state = &graph.states()[values].name;
    assert!(matches!(&found, Err(PlanError::Apart { state: s, .. }) if s == state), "{found:?}");
}

/// Binds a graph on a device as a session would.
pub fn bind(graph: &Graph, homes: &Residency, made: &Plan, backend: &dyn Backend) -> Bindings {
    let buffer = |bytes| backend.alloc(BufferKind::Device, bytes).unwrap();
    let whole = |bytes| BufferSpan { buffer: buffer(bytes), span: Span { offset: Bytes::ZERO, len: bytes } };
    let weights = homes.weights.iter_ids().map(|(id, homes)| {
        let slices = homes.iter().map(|home| BoundSlice {
            slice: home.slice.clone(),
            layout: home.layout,
            at: whole(weight_bytes(&graph.weights()[id], home.layout)),
        });
        slices.collect()
    });
    Bindings {
        arena: buffer(made.arenas[loadmaster::device::DeviceId(0)].bytes),
        weights: weights.collect(),
        states: graph.states().iter().map(|s| Some(whole(s.bytes()))).collect(),
    }
}

#[test]
fn the_null_device_accepts_plans_and_refuses_what_leaves_a_buffer() {
    let machine = Machine::single(BackendKind::Null, 2, Bytes(1 << 40));
    for seed in 0..100 {
        let graph = random_graph(seed, 25, 32, 4);
        let homes = homes(&graph);
        let made = plan(&graph, &homes, &machine, &Policy::default()).unwrap();
        check(&graph, &homes, &machine, &made).unwrap();
        let backend = NullBackend::new(machine.devices[loadmaster::device::DeviceId(0)].clone());
        let bindings = bind(&graph, &homes, &made, &backend);
        let split = first_split(&mut made.clone()).clone();
        let work = SplitWork {
            graph: &graph,
            split: &split,
            values: &made.values,
            inputs: &inputs_of(&graph, &made),
            bindings: &bindings,
        };
        let program = backend.prepare(&work).unwrap();
        let cells: Vec<u32> = (0..32).collect();
        let table = CellTable::single(&cells, Tokens(40), &[0, 1, 3]);
        let tables = [table.clone()];
        let args = Args { tokens: Tokens(32), outputs: Tokens(4), tables: &tables };
        let event = backend.submit(program, &args, &[]).unwrap();
        backend.wait(event).unwrap();
        let refused = |args: &Args<'_>, why: &str| {
            let error = backend.submit(program, args, &[]).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(&Args { tokens: Tokens(33), ..args }, "token rows at most");
        refused(&Args { outputs: Tokens(5), ..args }, "output rows at most");
        refused(&Args { tables: &[], ..args }, "tables of cells, one a class of caches,");
        let refused = |table: CellTable, why: &str| refused(&Args { tables: &[table], ..args }, why);
        refused(CellTable { cells: cells[1..].to_vec(), ..table.clone() }, "cells, one a token row");
        refused(CellTable { sequences: Vec::new(), ..table.clone() }, "rows of all sequences");
        refused(CellTable { pages: vec![0, 1], ..table.clone() }, "pages of a sequence");
        let mut behind = table.clone();
        behind.sequences[0].behind = Tokens(16);
        refused(behind, "cells behind the window of a sequence at most");
        if !graph.states().is_empty() {
            refused(CellTable { pages: vec![0, 1, 4], ..table.clone() }, "a page index at most");
            refused(CellTable { cells: (33..65).collect(), ..table }, "a cell index below");
        }
        let mut broken = made.clone();
        broken.values[graph.output()].offset += broken.arenas[loadmaster::device::DeviceId(0)].bytes;
        assert!(backend.prepare(&SplitWork { values: &broken.values, ..work }).is_err());
    }
}

#[test]
fn the_fuzz_corpus_of_graphs_never_panics() {
    crate::json_smoke::smoke("graph", 1500, |text| crate::json_walk::graph(text).is_ok());
}
