//! Where weights live when there is one memory, and in which layout.
//! Matrices that are multiplied with are repacked for the kernels unless the file mapping is to be kept.

use crate::device::MemoryId;
use crate::graph::ops::Moe;
use crate::graph::{Graph, Op, WeightId};
use crate::residency::{Layout, Residency};
use crate::tensor::panel::panel_supported;

/// Homes for `graph` in one memory; with `keep_mapping` every weight stays as it is in the file.
pub fn homes(graph: &Graph, memory: MemoryId, keep_mapping: bool) -> Residency {
    let mut multiplied = vec![false; graph.weights().len()];
    for (_, node) in graph.nodes() {
        if let Some(WeightId(id)) = multiplied_weight(&node.op) {
            multiplied[id as usize] = true;
        }
    }
    Residency::in_one(graph, memory, |WeightId(id), weight| {
        let repack = !keep_mapping && multiplied[id as usize] && panel_supported(weight.dtype);
        if repack { Layout::Panel16 } else { Layout::Gguf }
    })
}

fn multiplied_weight(op: &Op) -> Option<WeightId> {
    match op {
        Op::MatMul(op) => Some(op.weight),
        Op::Moe(Moe::Experts(op)) => Some(op.weight),
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) => None,
        Op::Rows(_) | Op::Norm(_) | Op::Rope(_) | Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => None,
    }
}
