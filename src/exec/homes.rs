//! Where weights live when there is one memory, in which layout, and whether a copy is needed.
//! Matrices that are multiplied with are repacked for the kernels unless the file mapping is to be kept; what stays in
//! the file's layout is used where it is mapped, but for vectors and what the file does not align.

use crate::device::MemoryId;
use crate::gguf::Gguf;
use crate::graph::ops::Moe;
use crate::graph::{Graph, Op, Weight, WeightId};
use crate::residency::{Layout, Residency, Storage};
use crate::tensor::DType;
use crate::tensor::panel::panel_supported;

/// Homes for `graph`, whose weights are in `gguf`, in one memory; with `keep_mapping` every weight stays in the file's
/// layout.
pub fn homes(graph: &Graph, gguf: &Gguf, memory: MemoryId, keep_mapping: bool) -> Residency {
    let mut multiplied = vec![false; graph.weights().len()];
    for (_, node) in graph.nodes() {
        if let Some(WeightId(id)) = multiplied_weight(&node.op) {
            multiplied[id as usize] = true;
        }
    }
    Residency::in_one(graph, memory, |WeightId(id), weight| {
        let repack = !keep_mapping && multiplied[id as usize] && panel_supported(weight.dtype);
        if repack { (Layout::Panel16, Storage::Allocated) } else { (Layout::Gguf, storage(weight, gguf.alignment())) }
    })
}

/// A matrix in the file's layout is used where it is; vectors are copied, and all floats of a file that does not align
/// them.
fn storage(weight: &Weight, alignment: u64) -> Storage {
    let in_place = weight.rows > 1 && (weight.dtype != DType::F32 || alignment >= 4);
    if in_place { Storage::Mapped } else { Storage::Allocated }
}

fn multiplied_weight(op: &Op) -> Option<WeightId> {
    match op {
        Op::MatMul(op) => Some(op.weight),
        Op::HeadMatMul(op) => Some(op.weight),
        Op::Moe(Moe::Experts(op)) => Some(op.weight),
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) => None,
        Op::Rows(_) | Op::Norm(_) | Op::Rope(_) | Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => None,
    }
}
