//! Placements → splits: maximal runs of one device in topological order.
//! Never reorders nodes, never inserts copies.

use super::{Placement, Span, Split, SplitId};
use crate::graph::{Graph, NodeId};
use crate::index::IndexVec;
use crate::units::Bytes;

/// Cuts the graph where the device changes; scratch is not yet packed.
pub(super) fn split(graph: &Graph, placements: &IndexVec<NodeId, Placement>) -> IndexVec<SplitId, Split> {
    let mut splits: Vec<Split> = Vec::new();
    for id in graph.node_ids() {
        let device = placements[id].device;
        match splits.last_mut() {
            Some(last) if last.device == device => last.nodes.push(id),
            Some(_) | None => {
                let scratch = Span { offset: Bytes::ZERO, len: Bytes::ZERO };
                splits.push(Split { device, nodes: vec![id], scratch });
            }
        }
    }
    splits.into_iter().collect()
}
