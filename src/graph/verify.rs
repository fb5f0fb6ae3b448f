//! Rejects graphs that no backend could run, with the node and the numbers that do not fit.
//! Every `Graph` in the program has passed through here; later code relies on it and does not ask again.

use std::collections::HashSet;

use thiserror::Error;

use super::infer::{Scope, infer};
use super::{Element, Node, NodeId, Operand, Part, State, StateId, Value, Weight, WeightId};
use crate::index::{Id, IndexVec};
use crate::tensor::DType;
use crate::units::{Bytes, Tokens};

/// Why a graph cannot be built or read.
#[derive(Debug, Error, PartialEq)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum GraphError {
    #[error("node {node}: operand {operand:?} does not exist before it")]
    UnknownOperand { node: String, operand: Operand },
    #[error("node {node}: {what} must be {needed}, found {found}")]
    Mismatch { node: String, what: &'static str, needed: u64, found: u64 },
    #[error("node {node}: {what} of {count} columns is no whole number of {unit} columns")]
    Uneven { node: String, what: &'static str, count: u64, unit: u64 },
    #[error("node {node}: {what} holds {found:?}, needed {needed:?}")]
    Element { node: String, what: &'static str, needed: Element, found: Element },
    #[error("node {node}: {what} has rows of another kind than the op needs")]
    Rows { node: String, what: &'static str },
    #[error("node {node}: {what} {value} is out of range")]
    Range { node: String, what: &'static str, value: f64 },
    #[error("node {node}: declared value {declared:?} differs from the inferred {inferred:?}")]
    Declared { node: String, declared: Value, inferred: Value },
    #[error("the name {name:?} is used twice")]
    DuplicateName { name: String },
    #[error("weight {name}: {count} x {rows} x {cols} of {dtype} is empty or no whole number of blocks")]
    Weight { name: String, dtype: DType, count: u32, rows: u32, cols: u32 },
    #[error(
        "weight {name}: {shape:?} from {first:?} on is no part of a tensor of {whole:?} in matrices, rows and columns"
    )]
    Part { name: String, shape: [u32; 3], first: [u32; 3], whole: [u32; 3] },
    #[error(
        "state {name}: {heads} heads of {head_dim} {dtype} elements in {cells} cells are no whole blocks and pages, or its window is empty"
    )]
    State { name: String, dtype: DType, heads: u32, head_dim: u32, cells: u32 },
    #[error("{what}: with it the graph's weights, states and values are past {most}, the most that a graph may have")]
    TooLarge { what: String, most: Bytes },
    #[error("the graph has no output: {0}")]
    NoOutput(String),
    #[error("a batch of {tokens} tokens and {outputs} outputs: both must be at least 1 and outputs at most tokens")]
    Batch { tokens: u32, outputs: u32 },
}

/// Types that a KV cache may have, on any device.
pub const CACHE_TYPES: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::Q8_0, DType::Q4_0];

/// Bytes that weights, states and values of a graph may have together: more than any machine, and so little that no
/// size that plans derive from them passes 2^64.
const MOST_BYTES: Bytes = Bytes(1 << 48);

/// `held` and `more`, the size of `what` (`None` past 2^64), in sum.
pub(super) fn verify_size(held: Bytes, more: Option<Bytes>, what: &str) -> Result<Bytes, GraphError> {
    let sum = more.and_then(|more| held.checked_add(more)).filter(|&sum| sum <= MOST_BYTES);
    sum.ok_or_else(|| GraphError::TooLarge { what: what.into(), most: MOST_BYTES })
}

/// Checks one weight on its own.
pub(super) fn verify_weight(weight: &Weight) -> Result<(), GraphError> {
    let &Weight { ref name, dtype, count, rows, cols, ref part } = weight;
    let elements = u64::from(rows).checked_mul(u64::from(count));
    let bytes = dtype.row_bytes(u64::from(cols)).zip(elements).and_then(|(row, n)| row.0.checked_mul(n));
    if bytes.is_none_or(|n| n == 0) {
        return Err(GraphError::Weight { name: name.clone(), dtype, count, rows, cols });
    }
    part.as_ref().map_or(Ok(()), |part| verify_part(weight, part))
}

/// A part lies within its tensor and begins with a block, as do the tensor's rows.
fn verify_part(weight: &Weight, part: &Part) -> Result<(), GraphError> {
    let shape = [weight.count, weight.rows, weight.cols];
    let Part { tensor: _, whole, first } = part;
    let within = (0..3).all(|i| first[i].checked_add(shape[i]).is_some_and(|end| end <= whole[i]));
    let [count, rows, cols] = whole.map(u64::from);
    let bytes = weight.dtype.row_bytes(cols).and_then(|row| row.0.checked_mul(rows)?.checked_mul(count));
    let within = within && bytes.is_some_and(|bytes| bytes <= MOST_BYTES.0);
    let blocks = [first[2], whole[2]].iter().all(|n| n.is_multiple_of(weight.dtype.block().elements));
    if within && blocks {
        return Ok(());
    }
    Err(GraphError::Part { name: weight.name.clone(), shape, first: *first, whole: *whole })
}

/// Checks one state on its own.
pub(super) fn verify_state(state: &State) -> Result<(), GraphError> {
    let &State { ref name, dtype, heads, head_dim, cells, .. } = state;
    let head = CACHE_TYPES.contains(&dtype).then(|| dtype.row_bytes(u64::from(head_dim))).flatten();
    let rows = u64::from(heads).checked_mul(u64::from(cells.0));
    let bytes = head.zip(rows).and_then(|(head, n)| head.0.checked_mul(n));
    let empty = state.window == Some(Tokens(0));
    if bytes.is_none_or(|n| n == 0) || empty || !cells.0.is_multiple_of(Tokens::PAGE.0) {
        return Err(GraphError::State { name: name.clone(), dtype, heads, head_dim, cells: cells.0 });
    }
    Ok(())
}

/// Checks node `id` against everything before it and returns the value it makes.
pub(super) fn verify_node(id: NodeId, node: &Node, scope: &Scope<'_>) -> Result<Value, GraphError> {
    for operand in node.op.operands() {
        let known = match operand {
            Operand::Node(n) => n < id && scope.values.get(n.index()).is_some(),
            Operand::Weight(w) => scope.weights.get(w).is_some(),
            Operand::State(s) => scope.states.get(s).is_some(),
            Operand::Input(i) => scope.inputs.get(i).is_some(),
        };
        if !known {
            return Err(GraphError::UnknownOperand { node: node.name.clone(), operand });
        }
    }
    infer(&node.name, &node.op, scope)
}

/// Checks that no two weights, states or nodes share a name.
pub(super) fn verify_names(
    weights: &IndexVec<WeightId, Weight>,
    states: &IndexVec<StateId, State>,
    nodes: &[Node],
) -> Result<(), GraphError> {
    unique(weights.iter().map(|w| &w.name))?;
    unique(states.iter().map(|s| &s.name))?;
    unique(nodes.iter().map(|n| &n.name))
}

fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), GraphError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(GraphError::DuplicateName { name: name.clone() });
        }
    }
    Ok(())
}
