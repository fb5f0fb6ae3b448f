//! The closed set of ops: one variant a family, attributes typed, operands named by their role.
//! A new op extends these matches; nothing else here decides anything.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ops::{Attention, CacheWrite, Elementwise, HeadMatMul, MatMul, Moe, Norm, Rope, Rows, Values};
use super::{InputId, NodeId, StateId, WeightId};

/// What a node does, with its operands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Rows taken by index: token embedding, choice of output rows.
    Rows(Rows),
    /// Normalisation with its weight.
    Norm(Norm),
    /// Product with a weight, then bias, then residual.
    MatMul(MatMul),
    /// Product of each head with a matrix of its own.
    #[serde(rename = "head_matmul")]
    HeadMatMul(HeadMatMul),
    /// Rotary position embedding.
    Rope(Rope),
    /// K and V rows written into the cache.
    Cache(CacheWrite),
    /// Attention over the cache.
    Attention(Attention),
    /// Ops on corresponding elements.
    Elementwise(Elementwise),
    /// Expert routing, expert products, and their weighted sum.
    Moe(Moe),
}

/// The one word that names an op family everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the variants are the family names of the architecture page")]
pub enum Family {
    Rows,
    Norm,
    #[serde(rename = "matmul")]
    MatMul,
    Rope,
    Cache,
    Attention,
    Elementwise,
    Moe,
}

impl Family {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Rows => "rows",
            Family::Norm => "norm",
            Family::MatMul => "matmul",
            Family::Rope => "rope",
            Family::Cache => "cache",
            Family::Attention => "attention",
            Family::Elementwise => "elementwise",
            Family::Moe => "moe",
        }
    }
}

/// Something a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// The value of another node.
    Node(NodeId),
    /// A weight.
    Weight(WeightId),
    /// A state, read or written.
    State(StateId),
    /// A run-time input.
    Input(InputId),
}

impl Op {
    /// The family.
    pub const fn family(&self) -> Family {
        match self {
            Op::Rows(_) => Family::Rows,
            Op::Norm(_) => Family::Norm,
            Op::MatMul(_) | Op::HeadMatMul(_) => Family::MatMul,
            Op::Rope(_) => Family::Rope,
            Op::Cache(_) => Family::Cache,
            Op::Attention(_) => Family::Attention,
            Op::Elementwise(_) => Family::Elementwise,
            Op::Moe(_) => Family::Moe,
        }
    }

    /// Everything it reads, in the order of its attributes.
    pub fn operands(&self) -> Vec<Operand> {
        match self {
            Op::Rows(op) => op.operands(),
            Op::Norm(op) => op.operands(),
            Op::MatMul(op) => op.operands(),
            Op::HeadMatMul(op) => op.operands(),
            Op::Rope(op) => op.operands(),
            Op::Cache(op) => op.operands(),
            Op::Attention(op) => op.operands(),
            Op::Elementwise(op) => op.operands(),
            Op::Moe(op) => op.operands(),
        }
    }

    /// The nodes it reads, in the order of its attributes.
    pub fn node_operands(&self) -> Vec<NodeId> {
        let only_nodes = |o| match o {
            Operand::Node(id) => Some(id),
            Operand::Weight(_) | Operand::State(_) | Operand::Input(_) => None,
        };
        self.operands().into_iter().filter_map(only_nodes).collect()
    }

    /// The logits by which it chooses experts, if that is what it does.
    pub const fn routed(&self) -> Option<NodeId> {
        match self {
            Op::Moe(Moe::Route(op)) => Some(op.logits),
            Op::Moe(Moe::Experts(_) | Moe::Combine(_)) => None,
            Op::Rows(_) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rope(_) | Op::Cache(_) => None,
            Op::Attention(_) | Op::Elementwise(_) => None,
        }
    }

    /// The weights it reads, in the order of its attributes.
    pub fn weight_operands(&self) -> Vec<WeightId> {
        let only_weights = |o| match o {
            Operand::Weight(id) => Some(id),
            Operand::Node(_) | Operand::State(_) | Operand::Input(_) => None,
        };
        self.operands().into_iter().filter_map(only_weights).collect()
    }
}

impl Op {
    /// The matrices that it reads of `weight`, a stack of `count`.
    pub fn matrices(&self, weight: WeightId, count: u32) -> Range<u32> {
        match self {
            Op::Moe(Moe::Experts(op)) if op.weight == weight => op.matrices(count),
            Op::Rows(_) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rope(_) | Op::Cache(_) => 0..count,
            Op::Attention(_) | Op::Elementwise(_) | Op::Moe(_) => 0..count,
        }
    }

    /// The states it reads or writes.
    pub fn states(&self) -> impl Iterator<Item = StateId> {
        self.operands().into_iter().filter_map(|o| match o {
            Operand::State(id) => Some(id),
            Operand::Weight(_) | Operand::Node(_) | Operand::Input(_) => None,
        })
    }

    /// Calls `change` on every node operand, to renumber it.
    pub(crate) fn nodes_mut(&mut self, change: &mut dyn FnMut(&mut NodeId)) {
        self.operands_mut(&mut |operand| match operand {
            OperandMut::Node(id) => change(id),
            OperandMut::Weight(_) | OperandMut::State(_) => {}
        });
    }

    /// Calls `change` on every operand but inputs, to renumber it.
    pub(crate) fn operands_mut(&mut self, change: &mut dyn FnMut(OperandMut<'_>)) {
        use OperandMut::{Node, State, Weight};
        match self {
            Op::Rows(Rows::Embed(op)) => change(Weight(&mut op.weight)),
            Op::Rows(Rows::Select(op)) => change(Node(&mut op.x)),
            Op::Norm(op) => {
                change(Node(&mut op.x));
                change(Weight(&mut op.weight));
            }
            Op::MatMul(op) => {
                change(Node(&mut op.x));
                change(Weight(&mut op.weight));
                op.bias.iter_mut().for_each(|id| change(Weight(id)));
                op.residual.iter_mut().for_each(|id| change(Node(id)));
            }
            Op::HeadMatMul(op) => {
                change(Node(&mut op.x));
                change(Weight(&mut op.weight));
            }
            Op::Rope(op) => {
                change(Node(&mut op.x));
                op.factors.iter_mut().for_each(|id| change(Weight(id)));
            }
            Op::Cache(op) => {
                change(Node(&mut op.k));
                op.v.iter_mut().for_each(|id| change(Node(id)));
                change(State(&mut op.keys));
                op.values.iter_mut().for_each(|id| change(State(id)));
            }
            Op::Attention(op) => {
                change(Node(&mut op.q));
                change(Node(&mut op.write));
                change(State(&mut op.keys));
                if let Values::State(id) = &mut op.values {
                    change(State(id));
                }
            }
            Op::Elementwise(Elementwise::Gated { gate: a, up: b, .. } | Elementwise::Add { a, b }) => {
                change(Node(a));
                change(Node(b));
            }
            Op::Moe(op) => op.operands_mut(change),
        }
    }
}

impl Moe {
    fn operands_mut(&mut self, change: &mut dyn FnMut(OperandMut<'_>)) {
        use OperandMut::{Node, Weight};
        match self {
            Moe::Route(op) => {
                change(Node(&mut op.logits));
                op.bias.iter_mut().for_each(|id| change(Weight(id)));
            }
            Moe::Experts(op) => {
                change(Node(&mut op.x));
                change(Node(&mut op.routing));
                change(Weight(&mut op.weight));
                op.bias.iter_mut().for_each(|id| change(Weight(id)));
            }
            Moe::Combine(op) => {
                change(Node(&mut op.x));
                change(Node(&mut op.routing));
                op.shared.iter_mut().for_each(|id| change(Node(id)));
                op.residual.iter_mut().for_each(|id| change(Node(id)));
            }
        }
    }
}

/// An operand to renumber.
pub(crate) enum OperandMut<'a> {
    /// The value of another node.
    Node(&'a mut NodeId),
    /// A weight.
    Weight(&'a mut WeightId),
    /// A state, read or written.
    State(&'a mut StateId),
}

/// Operands of one kind and an optional one of the same kind, flattened in order.
pub(super) fn operands<const N: usize>(required: [Operand; N], optional: &[Option<Operand>]) -> Vec<Operand> {
    required.into_iter().chain(optional.iter().copied().flatten()).collect()
}

impl From<NodeId> for Operand {
    fn from(id: NodeId) -> Operand {
        Operand::Node(id)
    }
}

impl From<WeightId> for Operand {
    fn from(id: WeightId) -> Operand {
        Operand::Weight(id)
    }
}

impl From<StateId> for Operand {
    fn from(id: StateId) -> Operand {
        Operand::State(id)
    }
}

impl From<InputId> for Operand {
    fn from(id: InputId) -> Operand {
        Operand::Input(id)
    }
}
