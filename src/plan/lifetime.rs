//! When each value, copy, input and scratch is needed, in steps of the execution order.
//! A node is a step; behind every split stands one more, in which values cross. A range includes both ends.

use std::collections::BTreeMap;

use super::SplitId;
use super::reason::Placement;
use super::split::Cut;
use super::transfer::Crossing;
use crate::device::DeviceId;
use crate::graph::{Graph, InputId, NodeId, Operand};
use crate::index::IndexVec;

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
    /// Of each crossing's copy.
    pub copies: Vec<Lifetime>,
    /// Every input on every device that reads it.
    pub inputs: Vec<(InputId, DeviceId, Lifetime)>,
    pub scratch: IndexVec<SplitId, Lifetime>,
}

/// Reads them off the order; the logits live to the end, inputs from the start.
pub(super) fn lifetimes(
    graph: &Graph,
    placements: &IndexVec<NodeId, Placement>,
    cut: &Cut,
    crossings: &[Crossing],
) -> Lifetimes {
    let steps = Steps::of(graph, cut);
    let mut values: IndexVec<NodeId, Lifetime> =
        steps.nodes.iter().map(|&step| Lifetime { first: step, last: step }).collect();
    let gap = |split: SplitId| steps.splits[split].last + 1;
    let mut copies: Vec<Lifetime> =
        crossings.iter().map(|c| Lifetime { first: gap(c.after), last: gap(c.after) }).collect();
    let copy_of: BTreeMap<(NodeId, DeviceId), usize> =
        crossings.iter().enumerate().map(|(i, c)| ((c.value, c.to), i)).collect();
    let mut inputs: Vec<(InputId, DeviceId, Lifetime)> = Vec::new();
    for (id, node) in graph.nodes() {
        let (step, device) = (steps.nodes[id], placements[id].device);
        for operand in node.op.operands() {
            match operand {
                Operand::Node(n) if placements[n].device == device => values[n].last = values[n].last.max(step),
                Operand::Node(n) => {
                    let copy = copy_of.get(&(n, device));
                    copy.into_iter().for_each(|&c| copies[c].last = copies[c].last.max(step));
                }
                Operand::Input(i) => match inputs.iter_mut().find(|x| x.0 == i && x.1 == device) {
                    Some((_, _, life)) => life.last = life.last.max(step),
                    None => inputs.push((i, device, Lifetime { first: 0, last: step })),
                },
                Operand::Weight(_) | Operand::State(_) => {}
            }
        }
    }
    for crossing in crossings {
        let life = &mut values[crossing.value];
        life.last = life.last.max(gap(crossing.after));
    }
    values[graph.output()].last = steps.end;
    Lifetimes { values, copies, inputs, scratch: steps.splits }
}

struct Steps {
    nodes: IndexVec<NodeId, usize>,
    splits: IndexVec<SplitId, Lifetime>,
    end: usize,
}

impl Steps {
    fn of(graph: &Graph, cut: &Cut) -> Steps {
        let mut nodes: IndexVec<NodeId, usize> = graph.node_ids().map(|_| 0).collect();
        let (mut splits, mut next) = (IndexVec::new(), 0);
        for split in cut.splits.iter() {
            let first = next;
            for &node in &split.nodes {
                nodes[node] = next;
                next += 1;
            }
            splits.push(Lifetime { first, last: next.saturating_sub(1) });
            next += 1;
        }
        Steps { nodes, splits, end: next }
    }
}
