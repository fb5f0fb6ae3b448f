//! A model as a DAG of typed ops over weights, states and inputs, for one batch shape.
//! Holds no weight bytes and no device: petgraph stays inside, callers see ids and typed operands.

mod build;
mod file;
mod infer;
mod op;
pub mod ops;
mod verify;

use petgraph::graph::{DiGraph, NodeIndex};
use serde::{Deserialize, Serialize};

use crate::define_id;
use crate::index::{CacheClassId, Id, IndexVec};
use crate::tensor::DType;
use crate::units::{Bytes, Tokens};

pub use build::GraphBuilder;
pub use file::GraphFileError;
pub(crate) use op::OperandMut;
pub use op::{Family, Op, Operand};
pub use verify::{CACHE_TYPES, GraphError};

define_id! {
    /// A node of a graph; ids ascend in topological order.
    pub NodeId("n"),
    /// A weight: the same id in the graphs of every batch bucket of a model.
    pub WeightId("w"),
    /// A state that outlives a step, such as the K cache of a layer.
    pub StateId("s"),
    /// A run-time input, such as token ids.
    pub InputId("i"),
    /// One of the devices that work on a layer together; which one is for homes to say.
    pub LaneId("l"),
}

/// The batch shape that a graph is built for: upper bounds on the rows of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Batch {
    /// Tokens processed in one step.
    pub tokens: Tokens,
    /// Rows for which logits are wanted.
    pub outputs: Tokens,
}

impl Batch {
    /// Rows that a dimension has at most.
    pub const fn rows(self, dim: RowDim) -> Tokens {
        match dim {
            RowDim::Tokens => self.tokens,
            RowDim::Outputs => self.outputs,
        }
    }
}

/// What the rows of a value stand for; the actual number is a run-time argument, at most that of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowDim {
    /// One row a token of the step.
    Tokens,
    /// One row an output of the step.
    Outputs,
}

/// The elements of a value that nodes pass to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    /// 32-bit float.
    F32,
    /// An expert choice: `u32` expert id, then `f32` weight.
    Choice,
}

impl Element {
    /// Bytes of one element.
    pub const fn bytes(self) -> Bytes {
        match self {
            Element::F32 => Bytes(4),
            Element::Choice => Bytes(8),
        }
    }

    /// Bytes of `n` elements.
    pub const fn bytes_of(self, n: u64) -> Bytes {
        Bytes(self.bytes().0 * n)
    }
}

/// The value a node makes: `rows x cols` elements, row-major and dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Value {
    /// What an element is.
    pub element: Element,
    /// What a row is.
    pub rows: RowDim,
    /// Elements in a row; 0 for a node that only changes states.
    pub cols: u32,
}

impl Value {
    /// Bytes at the full `batch`, or `None` past 2^64.
    pub fn bytes(&self, batch: Batch) -> Option<Bytes> {
        let elements = u64::from(batch.rows(self.rows).0).checked_mul(u64::from(self.cols))?;
        elements.checked_mul(self.element.bytes().0).map(Bytes)
    }
}

/// One unit of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique name, such as `blk.0.attn_q`.
    pub name: String,
    /// The layer it belongs to, if any.
    pub layer: Option<u32>,
    /// Of several devices that work on a layer together, the one that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<LaneId>,
    /// What it does, and to what.
    pub op: Op,
    /// What it makes.
    pub out: Value,
}

/// A weight matrix, or a stack of them for experts: `count x rows x cols`, rows contiguous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// Unique name: that of the tensor in the model file, unless it is a part of one.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Matrices in the stack: 1, or the number of experts.
    pub count: u32,
    /// Rows of a matrix (outputs of a matmul).
    pub rows: u32,
    /// Elements of a row (inputs of a matmul).
    pub cols: u32,
    /// The part of a tensor that it is, where several devices work on a layer together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// A part of a tensor: from `first` on as many matrices, rows and columns as its weight has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The tensor's name in the model file.
    pub tensor: String,
    /// Matrices, rows and columns of the tensor.
    pub whole: [u32; 3],
    /// The first matrix, row and column of the part; the column is the first of a block.
    pub first: [u32; 3],
}

impl Weight {
    /// The name of the tensor in the model file that it is, or is a part of.
    pub fn tensor(&self) -> &str {
        self.part.as_ref().map_or(&self.name, |part| &part.tensor)
    }

    /// Bytes in the model file's layout.
    ///
    /// # Panics
    /// Never for a verified graph: `verify` rejects rows that are no whole number of blocks.
    pub fn bytes(&self) -> Bytes {
        let row = self.dtype.row_bytes(u64::from(self.cols)).expect("verified: rows are whole blocks");
        Bytes(row.0 * u64::from(self.rows) * u64::from(self.count))
    }
}

/// Which half of a layer's cache a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheHalf {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// A KV cache half of one layer: `cells` rows of `heads x head_dim` elements, written by row index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Unique name, such as `blk.0.cache_k`.
    pub name: String,
    /// The layer it belongs to.
    pub layer: u32,
    /// Keys or values.
    pub half: CacheHalf,
    /// Element type: one of [`CACHE_TYPES`].
    pub dtype: DType,
    /// KV heads in a row.
    pub heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Rows: a whole number of pages.
    pub cells: Tokens,
    /// How far back from the end of a sequence rows are kept: each cell and so many less one before it; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Tokens>,
}

/// States whose rows are kept equally long, so that one block table a sequence serves all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheClass {
    /// As in its states.
    pub window: Option<Tokens>,
    /// Cells of the smallest of its states.
    pub cells: Tokens,
}

impl State {
    /// Bytes of all cells.
    ///
    /// # Panics
    /// Never for a verified graph: `verify` rejects heads that are no whole number of blocks.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.row_bytes().0 * u64::from(self.cells.0))
    }

    /// Bytes of the row that a cell has.
    ///
    /// # Panics
    /// As for [`State::bytes`].
    pub fn row_bytes(&self) -> Bytes {
        let head = self.dtype.row_bytes(u64::from(self.head_dim)).expect("verified: heads are whole blocks");
        Bytes(head.0 * u64::from(self.heads))
    }
}

/// What a run-time input holds; every input is a vector of `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Token id of each row.
    TokenIds,
    /// Position of each row in its sequence.
    Positions,
    /// Row of each wanted output.
    OutputRows,
}

impl Input {
    /// What it has one entry for.
    pub const fn rows(self) -> RowDim {
        match self {
            Input::TokenIds | Input::Positions => RowDim::Tokens,
            Input::OutputRows => RowDim::Outputs,
        }
    }

    /// The name that files and tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Input::TokenIds => "token_ids",
            Input::Positions => "positions",
            Input::OutputRows => "output_rows",
        }
    }
}

/// A verified graph: node ids ascend in topological order and every operand fits its op.
#[derive(Clone, Debug)]
pub struct Graph {
    batch: Batch,
    dag: DiGraph<Node, ()>,
    weights: IndexVec<WeightId, Weight>,
    states: IndexVec<StateId, State>,
    classes: IndexVec<CacheClassId, CacheClass>,
    inputs: IndexVec<InputId, Input>,
    output: NodeId,
}

impl Graph {
    /// The batch shape that this graph is for.
    pub fn batch(&self) -> Batch {
        self.batch
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether there are no nodes; never true of a verified graph.
    pub fn is_empty(&self) -> bool {
        self.dag.node_count() == 0
    }

    /// The node of `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[NodeIndex::new(id.index())]
    }

    /// Node ids in topological order.
    pub fn node_ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.dag.node_count()).map(NodeId::from_index)
    }

    /// Nodes with their ids, in topological order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.node_ids().map(|id| (id, self.node(id)))
    }

    /// Nodes that read the value of `id`, ascending.
    pub fn users(&self, id: NodeId) -> Vec<NodeId> {
        let mut users: Vec<NodeId> =
            self.dag.neighbors(NodeIndex::new(id.index())).map(|n| NodeId::from_index(n.index())).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// All weights.
    pub fn weights(&self) -> &IndexVec<WeightId, Weight> {
        &self.weights
    }

    /// All states.
    pub fn states(&self) -> &IndexVec<StateId, State> {
        &self.states
    }

    /// The classes of its states: first that which keeps all rows, also where no state is of it, then windows, the
    /// smallest first.
    pub fn classes(&self) -> &IndexVec<CacheClassId, CacheClass> {
        &self.classes
    }

    /// The class of a state.
    ///
    /// # Panics
    /// Never for a verified graph: every state has a class.
    pub fn class_of(&self, id: StateId) -> CacheClassId {
        let window = self.states[id].window;
        let class = self.classes.iter_ids().find(|(_, class)| class.window == window);
        class.expect("verified: every state has a class").0
    }

    /// All run-time inputs.
    pub fn inputs(&self) -> &IndexVec<InputId, Input> {
        &self.inputs
    }

    /// The node whose value is the logits.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Rows that a dimension has at most in this graph.
    pub fn rows(&self, dim: RowDim) -> Tokens {
        self.batch.rows(dim)
    }

    /// Experts among which a node chooses: the columns of a route's logits; none for other nodes.
    pub fn experts(&self, id: NodeId) -> u32 {
        self.node(id).op.routed().map_or(0, |logits| self.node(logits).out.cols)
    }

    /// Bytes of a node's value at the full batch.
    ///
    /// # Panics
    /// Never for a verified graph: `verify` rejects values past 2^48 bytes.
    pub fn value_bytes(&self, id: NodeId) -> Bytes {
        self.node(id).out.bytes(self.batch).expect("verified: values are counted")
    }
}
