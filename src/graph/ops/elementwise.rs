//! Ops on corresponding elements of values of one shape.

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand};

/// The non-linearity of a gated unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    Gelu,
}

/// An op on corresponding elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Elementwise {
    /// `out = activation(gate) * up`.
    Gated {
        /// The gate.
        gate: NodeId,
        /// What it lets through.
        up: NodeId,
        /// The non-linearity.
        activation: Activation,
    },
    /// `out = a + b`.
    Add {
        /// First term.
        a: NodeId,
        /// Second term.
        b: NodeId,
    },
}

impl Elementwise {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        match *self {
            Elementwise::Gated { gate, up, activation: _ } => operands([gate.into(), up.into()], &[]),
            Elementwise::Add { a, b } => operands([a.into(), b.into()], &[]),
        }
    }
}
