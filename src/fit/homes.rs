//! Assignment → residency. Vectors of a layer stand where its cache is and, where its matrices are in host memory, there
//! too: they are small, and either side may compute with them.

use super::deal::{Assignment, Run};
use super::parts::Parts;
use crate::device::{Machine, MemoryId};
use crate::graph::{Graph, WeightId};
use crate::index::IndexVec;
use crate::residency::{Axis, Home, Layout, Residency, Storage, WeightSlice};

/// The homes that `assignment` says.
pub(super) fn homes(graph: &Graph, parts: &Parts, machine: &Machine, assignment: &Assignment) -> Residency {
    let mut weights: IndexVec<WeightId, Vec<Home>> = graph.weights().iter().map(|_| Vec::new()).collect();
    let mut states: IndexVec<_, MemoryId> = graph.states().iter().map(|_| assignment.host).collect();
    let whole = |id: WeightId, memory| vec![home(id, 0, graph.weights()[id].count, memory)];
    for &id in &parts.embedding {
        weights[id] = whole(id, assignment.host);
    }
    for &id in &parts.head {
        weights[id] = whole(id, assignment.head);
    }
    for (l, layer) in parts.layers.iter().enumerate() {
        let memory = assignment.layers[l];
        layer.dense.iter().for_each(|&id| weights[id] = whole(id, memory));
        layer.states.iter().for_each(|&id| states[id] = memory);
        layer.stacks.iter().for_each(|&id| weights[id] = runs(id, &assignment.experts[l]));
    }
    debug_assert!(weights.iter().flatten().all(|h| machine.memories.get(h.memory).is_some()));
    Residency { weights, states }
}

fn runs(id: WeightId, runs: &[Run]) -> Vec<Home> {
    let mut first = 0;
    let mut next = |run: &Run| {
        first += run.count;
        home(id, first - run.count, first, run.memory)
    };
    runs.iter().map(&mut next).collect()
}

fn home(weight: WeightId, first: u32, end: u32, memory: MemoryId) -> Home {
    let slice = WeightSlice { weight, axis: Axis::Expert, range: first..end };
    Home { slice, memory, layout: Layout::Gguf, storage: Storage::Allocated }
}
