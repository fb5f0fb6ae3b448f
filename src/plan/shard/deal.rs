//! Experts that cannot be cut evenly over a group: whole experts are dealt over its members instead.

use super::Whole;
use super::block::{block, may_end, unit_name};
use super::cut::{excess, runs};
use super::layers::{Lanes, Layers};
use crate::graph::ops::{Experts, Moe};
use crate::graph::{Graph, NodeId, Op, WeightId};
use crate::plan::partition::behind;
use crate::residency::{Home, Residency, WeightSlice};

/// A cut is even if no member has more than this of its share.
const EVEN: f64 = 1.25;

/// The homes with such experts dealt; what was dealt is added to `whole`.
pub(super) fn experts(graph: &Graph, residency: &Residency, layers: &Layers, whole: &mut Vec<Whole>) -> Residency {
    let mut homes = residency.clone();
    for (id, node) in graph.nodes() {
        let (Op::Moe(Moe::Combine(_)), Some(group)) = (&node.op, layers.group_of(graph, id)) else { continue };
        let lanes = &layers.groups[group];
        let stacks = stacks(graph, id);
        let at_home = |w: &WeightId| matches!(&homes.weights[*w][..], [one] if lanes.member(one.memory).is_some());
        if !may_end(graph, id) || stacks.is_empty() || !stacks.iter().all(at_home) {
            continue;
        }
        let Some(why) = uneven(graph, id, lanes) else { continue };
        let Some(runs) = runs(graph.weights()[stacks[0]].count, 1, &lanes.shares) else { continue };
        for weight in stacks {
            let one = homes.weights[weight][0].clone();
            let run = |(range, &memory): (_, _)| Home {
                slice: WeightSlice { range, ..one.slice.clone() },
                memory,
                ..one.clone()
            };
            homes.weights[weight] = runs.iter().cloned().zip(&lanes.memories).map(run).collect();
        }
        for bias in biases(graph, id) {
            let one = homes.weights[bias][0].clone();
            homes.weights[bias] = lanes.memories.iter().map(|&memory| Home { memory, ..one.clone() }).collect();
        }
        whole.push(Whole { node: node.name.clone(), why });
    }
    homes
}

/// Why the layer that ends with `sum` cannot be cut evenly, if it cannot.
fn uneven(graph: &Graph, sum: NodeId, lanes: &Lanes) -> Option<String> {
    let found = match block(graph, sum) {
        Ok(found) => found,
        Err(why) => return Some(format!("{why}: whole experts are dealt")),
    };
    let over = runs(found.units, found.granule, &lanes.shares).map(|runs| excess(&runs, &lanes.shares));
    let unit = unit_name(graph, &found);
    let cut = format!("{} {unit} in blocks of {}", found.units, found.granule);
    match over {
        Some(over) if over <= EVEN => None,
        Some(over) => Some(format!("{cut} give one device {over:.2} times its share: whole experts are dealt")),
        None => Some(format!("{cut} are fewer blocks than devices: whole experts are dealt")),
    }
}

/// The stacks of experts behind a sum.
fn stacks(graph: &Graph, sum: NodeId) -> Vec<WeightId> {
    products(graph, sum).into_iter().map(|op| op.weight).collect()
}

/// Their biases.
fn biases(graph: &Graph, sum: NodeId) -> Vec<WeightId> {
    products(graph, sum).into_iter().filter_map(|op| op.bias).collect()
}

fn products(graph: &Graph, sum: NodeId) -> Vec<&Experts> {
    let Op::Moe(Moe::Combine(sum)) = &graph.node(sum).op else { return Vec::new() };
    let product = |id| match &graph.node(id).op {
        Op::Moe(Moe::Experts(op)) => Some(op),
        _ => None,
    };
    behind(graph, sum).into_iter().filter_map(product).collect()
}
