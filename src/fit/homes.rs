//! Assignment → residency. A layer's vectors stand with its matrices; a node that runs elsewhere has them streamed.

use super::deal::{Assignment, Run};
use super::parts::Parts;
use crate::device::MemoryId;
use crate::graph::{Graph, WeightId};
use crate::index::IndexVec;
use crate::residency::{Home, Residency};

/// The homes that `assignment` says.
pub(super) fn homes(graph: &Graph, parts: &Parts, assignment: &Assignment) -> Residency {
    let mut weights: IndexVec<WeightId, Vec<Home>> = graph.weights().iter().map(|_| Vec::new()).collect();
    let mut states: IndexVec<_, MemoryId> = graph.states().iter().map(|_| assignment.embedding).collect();
    let whole = |id: WeightId, memory| vec![Home::of_matrices(id, 0..graph.weights()[id].count, memory)];
    for &id in &parts.embedding {
        weights[id] = whole(id, assignment.embedding);
    }
    for &id in &parts.head {
        weights[id] = whole(id, assignment.head);
    }
    for (l, layer) in parts.layers.iter().enumerate() {
        for (unit, &memory) in layer.units.iter().zip(&assignment.layers[l]) {
            unit.weights.iter().for_each(|&id| weights[id] = whole(id, memory));
        }
        layer.states.iter().for_each(|&id| states[id] = assignment.caches[l]);
        layer.stacks.iter().for_each(|&id| weights[id] = runs(id, &assignment.experts[l]));
    }
    for pin in &parts.pinned {
        weights[pin.weight] = whole(pin.weight, pin.memory);
    }
    Residency { weights, states, lanes: IndexVec::new() }
}

fn runs(id: WeightId, runs: &[Run]) -> Vec<Home> {
    let mut first = 0;
    let mut next = |run: &Run| {
        first += run.count;
        Home::of_matrices(id, first - run.count..first, run.memory)
    };
    runs.iter().map(&mut next).collect()
}
