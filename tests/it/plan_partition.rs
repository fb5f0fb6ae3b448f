//! Graphs cut along the homes of their experts: every node can run at a home, and every expert still runs once.

use std::collections::BTreeSet;

use loadmaster::device::{Machine, MemoryId};
use loadmaster::graph::ops::{Combine, Elementwise, Experts, Moe};
use loadmaster::graph::{Graph, GraphBuilder, NodeId, Op, WeightId};
use loadmaster::plan::{PlanError, partition};
use loadmaster::residency::{Axis, Home, Layout, Residency, Storage, WeightSlice};
use loadmaster::units::Bytes;
use proptest::prelude::*;

use crate::plan_random::{Random, random_graph, random_homes, with_accelerators};

fn whole_homes(graph: &Graph) -> Residency {
    Residency::in_one(graph, MemoryId(0), |_, _| (Layout::Gguf, Storage::Allocated))
}

fn random_residency(seed: u64, graph: &Graph) -> (Machine, Residency) {
    let mut r = Random(seed);
    let machine = with_accelerators(&mut r, Bytes(1 << 40));
    let homes = random_homes(&mut r, graph, &machine);
    (machine, homes)
}

/// The runs of experts that the nodes which read `weight` make, in order.
fn runs(graph: &Graph, weight: WeightId) -> Vec<(u32, u32)> {
    let count = graph.weights()[weight].count;
    let readers = graph.nodes().filter(|(_, n)| matches!(&n.op, Op::Moe(Moe::Experts(op)) if op.weight == weight));
    let mut runs: Vec<(u32, u32)> =
        readers.map(|(_, n)| n.op.matrices(weight, count)).map(|range| (range.start, range.end)).collect();
    runs.sort_unstable();
    runs
}

fn sums(graph: &Graph) -> impl Iterator<Item = &Combine> {
    graph.nodes().filter_map(|(_, node)| match &node.op {
        Op::Moe(Moe::Combine(sum)) => Some(sum),
        _ => None,
    })
}

fn stacks(graph: &Graph) -> BTreeSet<WeightId> {
    let of = |op: &Op| match op {
        Op::Moe(Moe::Experts(Experts { weight, .. })) => Some(*weight),
        _ => None,
    };
    graph.nodes().filter_map(|(_, n)| of(&n.op)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(500)))]
    #[test]
    fn cut_graphs_read_what_has_one_home_and_run_each_expert_once(seed in any::<u64>(), steps in 1usize..40) {
        let graph = random_graph(seed, steps, 4, 2);
        let (_, homes) = random_residency(seed, &graph);
        let cut = partition(&graph, &homes).unwrap();
        for (_, node) in cut.nodes() {
            for weight in node.op.weight_operands() {
                let range = node.op.matrices(weight, cut.weights()[weight].count);
                prop_assert!(homes.weights[weight].iter().any(|h| h.slice.holds(&range)), "{} {range:?}", node.name);
            }
        }
        for weight in stacks(&graph) {
            let (runs, count) = (runs(&cut, weight), graph.weights()[weight].count);
            prop_assert_eq!(runs[0].0, 0);
            prop_assert_eq!(runs[runs.len() - 1].1, count);
            prop_assert!(runs.windows(2).all(|w| w[0].1 == w[1].0), "{:?}", runs);
        }
        let names: BTreeSet<&str> = cut.nodes().map(|(_, n)| n.name.as_str()).collect();
        prop_assert_eq!(names.len(), cut.len());
        // Shared experts and residuals are added once.
        prop_assert_eq!(sums(&cut).filter(|s| s.shared.is_some()).count(), sums(&graph).filter(|s| s.shared.is_some()).count());
        prop_assert_eq!(sums(&cut).filter(|s| s.residual.is_some()).count(), sums(&graph).filter(|s| s.residual.is_some()).count());
        prop_assert_eq!(cut.node(cut.output()).out, graph.node(graph.output()).out);
        prop_assert_eq!(cut.weights(), graph.weights());
        prop_assert_eq!(cut.states(), graph.states());
        // Each layer's parts are summed: products and sums grow by parts, additions by parts less one.
        let additions = |g: &Graph| g.nodes().filter(|(_, n)| matches!(n.op, Op::Elementwise(Elementwise::Add { .. }))).count();
        prop_assert_eq!(additions(&cut) - additions(&graph), sums(&cut).count() - sums(&graph).count());
        // What was cut stays as it is.
        prop_assert_eq!(partition(&cut, &homes).unwrap().to_json(), cut.to_json());
    }

    #[test]
    fn graphs_whose_experts_have_one_home_are_unchanged(seed in any::<u64>(), steps in 1usize..40) {
        let graph = random_graph(seed, steps, 4, 2);
        prop_assert_eq!(partition(&graph, &whole_homes(&graph)).unwrap().to_json(), graph.to_json());
    }
}

/// The products of experts that a layer makes on its way to the sum are one value no more once it is cut.
#[test]
fn what_a_cut_layer_makes_inside_cannot_be_read_outside() {
    let graph = (0..).map(|seed| random_graph(seed, 12, 4, 4)).find(|g| !stacks(g).is_empty()).unwrap();
    let inside = graph.nodes().find_map(|(id, n)| match &n.op {
        Op::Moe(Moe::Experts(op)) if !op.slotted => Some(id),
        _ => None,
    });
    let graph = also_read(&graph, inside.unwrap());
    assert_eq!(partition(&graph, &whole_homes(&graph)).unwrap().to_json(), graph.to_json());
    let mut homes = whole_homes(&graph);
    for weight in stacks(&graph) {
        let count = graph.weights()[weight].count;
        homes.weights[weight] = [0..1, 1..count].map(|range| home(weight, range)).into();
    }
    let error = partition(&graph, &homes).unwrap_err();
    assert!(matches!(&error, PlanError::Partition(why) if why.contains("outside")), "{error}");
}

fn home(weight: WeightId, range: std::ops::Range<u32>) -> Home {
    let slice = WeightSlice { weight, axis: Axis::Expert, range };
    Home { slice, memory: MemoryId(0), layout: Layout::Gguf, storage: Storage::Allocated }
}

/// `graph` with a node `outside` that adds the value of `id` to itself.
fn also_read(graph: &Graph, id: NodeId) -> Graph {
    let mut builder = GraphBuilder::new(graph.batch());
    graph.inputs().iter().for_each(|&input| _ = builder.input(input));
    graph.weights().iter().for_each(|weight| _ = builder.weight(weight.clone()).unwrap());
    graph.states().iter().for_each(|state| _ = builder.state(state.clone()).unwrap());
    for (_, node) in graph.nodes() {
        builder.node(node.name.clone(), node.op.clone()).unwrap();
    }
    builder.node("outside", Op::Elementwise(Elementwise::Add { a: id, b: id })).unwrap();
    builder.finish(graph.output()).unwrap()
}
