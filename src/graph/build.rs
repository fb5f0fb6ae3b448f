//! Nodes in order of computation → a verified graph.
//! A node can only name what is already there, so the order of insertion is topological.

use std::collections::BTreeSet;

use petgraph::graph::{DiGraph, NodeIndex};

use super::infer::Scope;
use super::verify::{verify_names, verify_node, verify_size, verify_state, verify_weight};
use super::{
    Batch, CacheClass, Element, Graph, GraphError, Input, InputId, LaneId, Node, NodeId, Op, RowDim, State, StateId,
    Value, Weight, WeightId,
};
use crate::index::{CacheClassId, Id, IndexVec};
use crate::units::{Bytes, Tokens};

/// Collects weights, states, inputs and nodes; each is checked when it is added.
#[derive(Debug)]
pub struct GraphBuilder {
    batch: Batch,
    layer: Option<u32>,
    lane: Option<LaneId>,
    /// Of all that was added.
    bytes: Bytes,
    weights: IndexVec<WeightId, Weight>,
    states: IndexVec<StateId, State>,
    inputs: IndexVec<InputId, Input>,
    nodes: Vec<Node>,
    values: Vec<Value>,
}

impl GraphBuilder {
    /// An empty graph for `batch`.
    pub fn new(batch: Batch) -> GraphBuilder {
        GraphBuilder {
            batch,
            layer: None,
            lane: None,
            bytes: Bytes::ZERO,
            weights: IndexVec::new(),
            states: IndexVec::new(),
            inputs: IndexVec::new(),
            nodes: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Sets the layer of the nodes that follow.
    pub fn set_layer(&mut self, layer: Option<u32>) {
        self.layer = layer;
    }

    /// Sets the lane of the nodes that follow.
    pub fn set_lane(&mut self, lane: Option<LaneId>) {
        self.lane = lane;
    }

    /// Adds a weight.
    ///
    /// # Errors
    /// The weight is empty, its rows are no whole number of blocks, or the graph becomes too large.
    pub fn weight(&mut self, weight: Weight) -> Result<WeightId, GraphError> {
        verify_weight(&weight)?;
        self.bytes = verify_size(self.bytes, Some(weight.bytes()), &weight.name)?;
        Ok(self.weights.push(weight))
    }

    /// A weight added before.
    pub fn weight_of(&self, id: WeightId) -> &Weight {
        &self.weights[id]
    }

    /// The value of a node added before.
    pub fn value_of(&self, id: NodeId) -> Value {
        self.values[id.index()]
    }

    /// Adds a state.
    ///
    /// # Errors
    /// The state is empty, its type cannot hold a cache row, or the graph becomes too large.
    pub fn state(&mut self, state: State) -> Result<StateId, GraphError> {
        verify_state(&state)?;
        self.bytes = verify_size(self.bytes, Some(state.bytes()), &state.name)?;
        Ok(self.states.push(state))
    }

    /// Adds a run-time input.
    pub fn input(&mut self, input: Input) -> InputId {
        self.inputs.push(input)
    }

    /// Adds a node in the current layer.
    ///
    /// # Errors
    /// An operand is missing or does not fit, or the graph becomes too large.
    pub fn node(&mut self, name: impl Into<String>, op: Op) -> Result<NodeId, GraphError> {
        let placeholder = Value { element: Element::F32, rows: RowDim::Tokens, cols: 0 };
        let mut node = Node { name: name.into(), layer: self.layer, lane: self.lane, op, out: placeholder };
        let id = NodeId::from_index(self.nodes.len());
        node.out = verify_node(id, &node, &self.scope())?;
        self.bytes = verify_size(self.bytes, node.out.bytes(self.batch), &node.name)?;
        self.values.push(node.out);
        self.nodes.push(node);
        Ok(id)
    }

    /// The graph, with the logits in `output`.
    ///
    /// # Errors
    /// A name is used twice, the batch is empty, or `output` is no value of floats.
    pub fn finish(self, output: NodeId) -> Result<Graph, GraphError> {
        let Batch { tokens, outputs } = self.batch;
        if tokens.0 == 0 || outputs.0 == 0 || outputs > tokens {
            return Err(GraphError::Batch { tokens: tokens.0, outputs: outputs.0 });
        }
        verify_names(&self.weights, &self.states, &self.nodes)?;
        match self.values.get(output.index()) {
            Some(value) if value.element == Element::F32 && value.cols > 0 => {}
            Some(value) => return Err(GraphError::NoOutput(format!("node {output} makes {value:?}"))),
            None => return Err(GraphError::NoOutput(format!("node {output} does not exist"))),
        }
        Ok(Graph {
            batch: self.batch,
            dag: dag(self.nodes),
            weights: self.weights,
            classes: classes(&self.states),
            states: self.states,
            inputs: self.inputs,
            output,
        })
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            nodes: &self.nodes,
            values: &self.values,
            weights: &self.weights,
            states: &self.states,
            inputs: &self.inputs,
        }
    }
}

/// The classes of states.
fn classes(states: &IndexVec<StateId, State>) -> IndexVec<CacheClassId, CacheClass> {
    let windows: BTreeSet<Option<Tokens>> = states.iter().map(|state| state.window).chain([None]).collect();
    let cells = |window| states.iter().filter(|state| state.window == window).map(|state| state.cells).min();
    let class = |window| CacheClass { window, cells: cells(window).unwrap_or(Tokens(u32::MAX)) };
    windows.into_iter().map(class).collect()
}

/// Nodes in topological order → petgraph, one edge an operand.
fn dag(nodes: Vec<Node>) -> DiGraph<Node, ()> {
    let mut dag = DiGraph::with_capacity(nodes.len(), 2 * nodes.len());
    for node in nodes {
        let operands = node.op.node_operands();
        let index = dag.add_node(node);
        for operand in operands {
            dag.add_edge(NodeIndex::new(operand.index()), index, ());
        }
    }
    dag
}
