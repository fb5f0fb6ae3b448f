//! Which nodes a kind of device can run: tables by op and type, pure and never feature-gated.

use thiserror::Error;

use super::{BackendKind, DeviceSpec, Types};
use crate::graph::ops::Rows;
use crate::graph::{Graph, Node, Op, WeightId};
use crate::tensor::panel::Layout;
use crate::tensor::{DType, quant};

/// Why a device cannot run a node.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unsupported {
    /// A weight's type has no kernel.
    #[error("{node} needs a {kind} kernel for weight {weight} of type {dtype}, there is none; needed {needed}")]
    Weight {
        /// The node's name.
        node: String,
        /// The kind of device, by name.
        kind: &'static str,
        /// The weight's name.
        weight: String,
        /// Its type.
        dtype: DType,
        /// What there are kernels for.
        needed: &'static str,
    },
}

/// Whether `device` can run `node`, and if not, why.
///
/// # Errors
/// The first reason found.
pub fn supports(device: &DeviceSpec, graph: &Graph, node: &Node) -> Result<(), Unsupported> {
    match (device.types, device.kind) {
        (Types::All, _) | (Types::Kernels, BackendKind::Null) => Ok(()),
        (Types::Kernels, kind @ (BackendKind::Cpu | BackendKind::Cuda | BackendKind::Vulkan)) => {
            reads_types(kind, graph, node)
        }
    }
}

/// Whether the kernels of `device` read weights that lie in `layout`. What is streamed to one that does not is brought
/// into the file's layout on its way.
pub fn reads_layout(device: &DeviceSpec, layout: Layout) -> bool {
    match (device.types, device.kind, layout) {
        (Types::Kernels, BackendKind::Cuda | BackendKind::Vulkan, Layout::Panel16) => false,
        (Types::Kernels, BackendKind::Cuda | BackendKind::Vulkan, Layout::Gguf) => true,
        (Types::All, _, _) | (Types::Kernels, BackendKind::Null | BackendKind::Cpu, _) => true,
    }
}

/// All kinds read the types that have a codec.
fn reads_types(kind: BackendKind, graph: &Graph, node: &Node) -> Result<(), Unsupported> {
    let matrix = matrix_weight(&node.op);
    for id in node.op.weight_operands() {
        let weight = &graph.weights()[id];
        let (known, needed) = match Some(id) == matrix {
            true => (quant::can_decode(weight.dtype), "a type that can be decoded, such as f16, q8_0 or q4_k"),
            false => (weight.dtype == DType::F32, "f32"),
        };
        if !known {
            let (node, kind) = (node.name.clone(), kind.name());
            return Err(Unsupported::Weight { node, kind, weight: weight.name.clone(), dtype: weight.dtype, needed });
        }
    }
    Ok(())
}

/// The operand that may have any type with a codec; all others (biases, norm weights, factors) are read as f32.
fn matrix_weight(op: &Op) -> Option<WeightId> {
    use crate::graph::ops::Moe;
    match op {
        Op::Rows(Rows::Embed(embed)) => Some(embed.weight),
        Op::MatMul(matmul) => Some(matmul.weight),
        Op::HeadMatMul(matmul) => Some(matmul.weight),
        Op::Moe(Moe::Experts(experts)) => Some(experts.weight),
        Op::Rows(Rows::Select(_))
        | Op::Moe(Moe::Route(_) | Moe::Combine(_))
        | Op::Norm(_)
        | Op::Rope(_)
        | Op::Cache(_)
        | Op::Attention(_)
        | Op::Elementwise(_) => None,
    }
}
