//! When each value, input and scratch is needed, in steps of the execution order.
//! A step is a node's position in that order; a range includes both ends.

use super::{Split, SplitId};
use crate::graph::{Graph, InputId, NodeId, Operand};
use crate::index::{Id, IndexVec};

/// First and last step at which bytes must keep their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub first: usize,
    pub last: usize,
}

impl Lifetime {
    pub(super) fn overlaps(self, other: Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The lifetimes of everything that lies in an arena.
pub(super) struct Lifetimes {
    pub values: IndexVec<NodeId, Lifetime>,
    pub inputs: IndexVec<InputId, Lifetime>,
    pub scratch: IndexVec<SplitId, Lifetime>,
}

/// Reads them off the graph; the logits live to the end, inputs from the start.
pub(super) fn lifetimes(graph: &Graph, splits: &IndexVec<SplitId, Split>) -> Lifetimes {
    let end = graph.len() - 1;
    let mut values: IndexVec<NodeId, Lifetime> =
        graph.node_ids().map(|id| Lifetime { first: id.index(), last: id.index() }).collect();
    let mut inputs: IndexVec<InputId, Lifetime> =
        graph.inputs().iter().map(|_| Lifetime { first: 0, last: 0 }).collect();
    for (id, node) in graph.nodes() {
        for operand in node.op.operands() {
            match operand {
                Operand::Node(n) => values[n].last = id.index(),
                Operand::Input(i) => inputs[i].last = id.index(),
                Operand::Weight(_) | Operand::State(_) => {}
            }
        }
    }
    values[graph.output()].last = end;
    let bounds = |s: &Split| Lifetime {
        first: s.nodes.first().map_or(0, |n| n.index()),
        last: s.nodes.last().map_or(end, |n| n.index()),
    };
    Lifetimes { values, inputs, scratch: splits.iter().map(bounds).collect() }
}
