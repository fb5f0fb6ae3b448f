//! Weights and states of the new graph: those of the old one, copies of them, and parts, each with its home. Numbered by
//! what they are of the old graph's, not by the order of nodes, which depends on where experts are cut.

use std::collections::BTreeMap;
use std::ops::Range;

use super::block::{Block, Role};
use super::layers::{Lanes, Layers};
use crate::device::MemoryId;
use crate::graph::ops::{Experts, Moe, Values};
use crate::graph::{
    Graph, GraphBuilder, GraphError, LaneId, Node, NodeId, Op, OperandMut, Part, State, StateId, Weight, WeightId,
};
use crate::index::IndexVec;
use crate::residency::{Axis, Home, Layout, Residency, Storage, WeightSlice};

/// What a lane's copy or part of a node is called.
pub(super) fn lane_name(node: &Node, lane: LaneId) -> String {
    format!("{}@{lane}", node.name)
}

/// Some of the units of a block.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub range: Range<u32>,
    /// All units.
    pub units: u32,
}

impl Run {
    /// The part of `extent`, a multiple of all units.
    fn of(&self, extent: u32) -> Range<u32> {
        let each = extent / self.units.max(1);
        self.range.start * each..self.range.end * each
    }

    /// How many that is.
    fn share(&self, extent: u32) -> u32 {
        self.of(extent).len() as u32
    }
}

/// A part of a weight: matrices, rows and columns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Window {
    first: [u32; 3],
    len: [u32; 3],
}

impl Window {
    fn all(weight: &Weight) -> Window {
        Window { first: [0; 3], len: [weight.count, weight.rows, weight.cols] }
    }

    /// Of one axis only a run.
    fn cut(weight: &Weight, axis: usize, run: Range<u32>) -> Window {
        let mut window = Window::all(weight);
        (window.first[axis], window.len[axis]) = (run.start, run.len() as u32);
        window
    }
}

/// What a weight of the new graph is of the old one.
type WeightKey = (WeightId, Option<(LaneId, Window)>);

/// What a state of the new graph is of the old one.
type StateKey = (StateId, Option<LaneId>);

pub(super) struct Copies<'a> {
    graph: &'a Graph,
    homes: &'a Residency,
    builder: GraphBuilder,
    residency: Residency,
    weights: BTreeMap<WeightKey, WeightId>,
    states: BTreeMap<StateKey, StateId>,
}

impl<'a> Copies<'a> {
    pub fn new(graph: &'a Graph, homes: &'a Residency, layers: &Layers) -> Copies<'a> {
        let mut builder = GraphBuilder::new(graph.batch());
        graph.inputs().iter().for_each(|&input| _ = builder.input(input));
        let lanes = layers.memories.clone();
        let residency = Residency { weights: IndexVec::new(), states: IndexVec::new(), lanes };
        Copies { graph, homes, builder, residency, weights: BTreeMap::new(), states: BTreeMap::new() }
    }

    /// The graph and its homes, weights and states numbered by what they are of the old graph's.
    pub fn finish(self, output: NodeId) -> Result<(Graph, Residency), GraphError> {
        let Copies { builder, residency, weights, states, .. } = self;
        let made = builder.finish(output)?;
        let mut builder = GraphBuilder::new(made.batch());
        made.inputs().iter().for_each(|&input| _ = builder.input(input));
        let (mut homes, mut memories) = (IndexVec::new(), IndexVec::new());
        let (mut new_weights, mut new_states) = (BTreeMap::new(), BTreeMap::new());
        for &old in weights.values() {
            let new = builder.weight(made.weights()[old].clone())?;
            let rename =
                |home: &Home| Home { slice: WeightSlice { weight: new, ..home.slice.clone() }, ..home.clone() };
            homes.push(residency.weights[old].iter().map(rename).collect());
            new_weights.insert(old, new);
        }
        for &old in states.values() {
            new_states.insert(old, builder.state(made.states()[old].clone())?);
            memories.push(residency.states[old]);
        }
        for (_, node) in made.nodes() {
            let mut op = node.op.clone();
            op.operands_mut(&mut |operand| match operand {
                OperandMut::Node(_) => {}
                OperandMut::Weight(id) => *id = new_weights[id],
                OperandMut::State(id) => *id = new_states[id],
            });
            builder.set_layer(node.layer);
            builder.set_lane(node.lane);
            builder.node(node.name.clone(), op)?;
        }
        Ok((builder.finish(output)?, Residency { weights: homes, states: memories, lanes: residency.lanes }))
    }

    /// Adds a node.
    pub fn emit(
        &mut self,
        layer: Option<u32>,
        lane: Option<LaneId>,
        name: String,
        op: Op,
    ) -> Result<NodeId, GraphError> {
        self.builder.set_layer(layer);
        self.builder.set_lane(lane);
        self.builder.node(name, op)
    }

    /// Adds a lane's copy or part of `node`.
    pub fn emit_at(&mut self, node: &Node, lane: LaneId, op: Op) -> Result<NodeId, GraphError> {
        self.emit(node.layer, Some(lane), lane_name(node, lane), op)
    }

    /// The memory of the experts that a product reads, unless they have several homes.
    pub fn home_of(&self, op: &Experts) -> Option<MemoryId> {
        let range = op.matrices(self.graph.weights()[op.weight].count);
        self.homes.weights[op.weight].iter().find(|home| home.slice.holds(&range)).map(|home| home.memory)
    }

    /// Whether every weight of a block lives whole with a member.
    pub fn live_with(&self, block: &Block, lanes: &Lanes) -> bool {
        let with = |w: WeightId| self.homes.weights[w].iter().any(|home| lanes.member(home.memory).is_some());
        block.roles.keys().all(|&id| self.graph.node(id).op.weight_operands().into_iter().all(with))
    }

    /// A weight as it was.
    pub fn same(&mut self, id: WeightId) -> Result<WeightId, GraphError> {
        if let Some(&known) = self.weights.get(&(id, None)) {
            return Ok(known);
        }
        let new = self.builder.weight(self.graph.weights()[id].clone())?;
        let rename = |home: &Home| Home { slice: WeightSlice { weight: new, ..home.slice.clone() }, ..home.clone() };
        self.residency.weights.push(self.homes.weights[id].iter().map(rename).collect());
        self.weights.insert((id, None), new);
        Ok(new)
    }

    /// A state as it was.
    pub fn same_state(&mut self, id: StateId) -> Result<StateId, GraphError> {
        let state = self.graph.states()[id].clone();
        self.state((id, None), state, self.homes.states[id])
    }

    /// A lane's copy of a weight.
    pub fn copy(&mut self, id: WeightId, lane: LaneId) -> Result<WeightId, GraphError> {
        self.window(id, lane, Window::all(&self.graph.weights()[id]))
    }

    /// A lane's copy of a state.
    pub fn copy_state(&mut self, id: StateId, lane: LaneId) -> Result<StateId, GraphError> {
        let heads = self.graph.states()[id].heads;
        self.heads(id, lane, heads)
    }

    fn heads(&mut self, id: StateId, lane: LaneId, heads: u32) -> Result<StateId, GraphError> {
        let state = &self.graph.states()[id];
        let state = State { name: format!("{}@{lane}", state.name), heads, ..state.clone() };
        self.state((id, Some(lane)), state, self.residency.lanes[lane])
    }

    fn state(&mut self, key: StateKey, state: State, memory: MemoryId) -> Result<StateId, GraphError> {
        if let Some(&known) = self.states.get(&key) {
            return Ok(known);
        }
        let new = self.builder.state(state)?;
        self.residency.states.push(memory);
        self.states.insert(key, new);
        Ok(new)
    }

    /// A lane's part of a weight; a second, other part of the same weight would have the same name and be refused.
    fn window(&mut self, id: WeightId, lane: LaneId, window: Window) -> Result<WeightId, GraphError> {
        if let Some(&known) = self.weights.get(&(id, Some((lane, window)))) {
            return Ok(known);
        }
        let of = &self.graph.weights()[id];
        let Window { first, len: [count, rows, cols] } = window;
        let (whole, before) = of.part.as_ref().map_or(([of.count, of.rows, of.cols], [0; 3]), |p| (p.whole, p.first));
        let first = [0, 1, 2].map(|axis| before[axis] + first[axis]);
        let part = Part { tensor: of.tensor().to_owned(), whole, first };
        let weight =
            Weight { name: format!("{}@{lane}", of.name), dtype: of.dtype, count, rows, cols, part: Some(part) };
        let layout = self.homes.weights[id].first().map_or(Layout::Gguf, |home| home.layout);
        let range = 0..weight.count;
        let new = self.builder.weight(weight)?;
        let slice = WeightSlice { weight: new, axis: Axis::Expert, range };
        let memory = self.residency.lanes[lane];
        self.residency.weights.push(vec![Home { slice, memory, layout, storage: Storage::Allocated }]);
        self.weights.insert((id, Some((lane, window))), new);
        Ok(new)
    }

    /// Cuts what `op` reads of weights and states to `run`, and its heads; a bias of a term is the first member's alone.
    pub fn part(&mut self, op: &mut Op, run: &Run, role: Role, lane: LaneId, first: bool) -> Result<(), GraphError> {
        match op {
            Op::MatMul(op) if role == Role::Sink => {
                op.weight = self.cols(op.weight, run, lane)?;
                op.bias = op.bias.filter(|_| first).map(|b| self.copy(b, lane)).transpose()?;
            }
            Op::MatMul(op) => {
                op.weight = self.rows(op.weight, run, lane)?;
                op.bias = op.bias.map(|b| self.cols(b, run, lane)).transpose()?;
            }
            Op::Moe(Moe::Experts(op)) if op.slotted => {
                op.weight = self.cols(op.weight, run, lane)?;
                op.bias = op.bias.filter(|_| first).map(|b| self.copy(b, lane)).transpose()?;
            }
            Op::Moe(Moe::Experts(op)) => {
                op.weight = self.rows(op.weight, run, lane)?;
                op.bias = op.bias.map(|b| self.cols(b, run, lane)).transpose()?;
            }
            Op::HeadMatMul(op) => {
                let weight = &self.graph.weights()[op.weight];
                op.weight = self.window(op.weight, lane, Window::cut(weight, 0, run.of(weight.count)))?;
            }
            Op::Norm(op) => {
                op.heads = run.share(op.heads);
                op.weight = self.copy(op.weight, lane)?;
            }
            Op::Rope(op) => {
                op.heads = run.share(op.heads);
                op.factors = op.factors.map(|w| self.copy(w, lane)).transpose()?;
            }
            Op::Cache(op) => {
                op.keys = self.head_run(op.keys, run, lane)?;
                op.values = op.values.map(|s| self.head_run(s, run, lane)).transpose()?;
            }
            Op::Attention(op) => {
                op.heads = run.share(op.heads);
                op.keys = self.head_run(op.keys, run, lane)?;
                if let Values::State(id) = op.values {
                    op.values = self.head_run(id, run, lane)?.into();
                }
            }
            Op::Elementwise(_) | Op::Moe(Moe::Route(_) | Moe::Combine(_)) | Op::Rows(_) => {}
        }
        Ok(())
    }

    /// A lane's heads of a state; all of one that all heads share.
    fn head_run(&mut self, id: StateId, run: &Run, lane: LaneId) -> Result<StateId, GraphError> {
        let heads = self.graph.states()[id].heads;
        self.heads(id, lane, if heads > 1 { run.share(heads) } else { heads })
    }

    fn rows(&mut self, id: WeightId, run: &Run, lane: LaneId) -> Result<WeightId, GraphError> {
        let weight = &self.graph.weights()[id];
        self.window(id, lane, Window::cut(weight, 1, run.of(weight.rows)))
    }

    fn cols(&mut self, id: WeightId, run: &Run, lane: LaneId) -> Result<WeightId, GraphError> {
        let weight = &self.graph.weights()[id];
        self.window(id, lane, Window::cut(weight, 2, run.of(weight.cols)))
    }
}
