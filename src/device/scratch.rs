//! Working space that a kind of device needs beside a node's operands and value.
//! The planner reserves it, the backend stays within it: the one formula serves both.

use super::{BackendKind, DeviceSpec};
use crate::graph::{Graph, NodeId};
use crate::units::Bytes;

/// Bytes of scratch for one node at the full batch.
pub fn scratch_bytes(device: &DeviceSpec, graph: &Graph, node: NodeId) -> Bytes {
    match device.kind {
        BackendKind::Null => Bytes::ZERO,
        BackendKind::Cpu => cpu_scratch(device, graph, node),
    }
}
