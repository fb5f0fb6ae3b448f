//! Cuts expert layers along the homes of their experts: every run of experts with a home of its own gets its own
//! products and its own weighted sum, and the sums are added in order of the runs. Pure; a graph whose experts all have
//! one home stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::offload::Chooser;
use super::{PlanError, Policy};
use crate::device::Machine;
use crate::graph::ops::{Combine, Elementwise, ExpertPart, Moe};
use crate::graph::{Graph, GraphBuilder, GraphError, NodeId, Op, WeightId};
use crate::residency::{Home, Residency, WeightSlice};

/// The graph that [`plan`](super::plan) takes for homes that cut layers.
///
/// # Errors
/// A node outside a layer that is cut reads what the layer makes on its way to the sum.
pub fn partition(graph: &Graph, residency: &Residency) -> Result<Graph, PlanError> {
    let layers = Layer::all(graph, residency);
    if layers.values().all(|layer| layer.parts.len() < 2) {
        return Ok(graph.clone());
    }
    Rewrite::run(graph, &layers).map_err(|why| PlanError::Partition(why.to_string()))
}

/// Homes as [`partition`] needs them for a plan that streams: runs of experts in host memory whose products an
/// accelerator will make are cut into runs that a split's share of the ring holds. The homes themselves stay.
pub fn streamed_runs(graph: &Graph, residency: &Residency, machine: &Machine, policy: &Policy) -> Residency {
    let chooser = Chooser::new(graph, residency, machine, policy);
    let mut cut = residency.clone();
    for (id, node) in graph.nodes() {
        let Op::Moe(Moe::Experts(op)) = &node.op else { continue };
        // All stacks of a layer are cut alike; they come in one split.
        let matrix = graph.weights()[op.weight].bytes().0 / u64::from(graph.weights()[op.weight].count);
        let most = (policy.chunk.0 / (STACKS * matrix.max(1))).clamp(1, u64::from(u32::MAX)) as u32;
        let homes = residency.weights.get(op.weight).into_iter().flatten();
        cut.weights[op.weight] = homes
            .flat_map(|home| {
                let moves = machine
                    .device_of(home.memory)
                    .is_some_and(|device| chooser.choose(id, op.weight, device).device != device);
                if moves { pieces(home, most) } else { vec![home.clone()] }
            })
            .collect();
    }
    cut
}

/// Gate, up and down.
const STACKS: u64 = 3;

/// A home cut into runs of at most `most` experts.
fn pieces(home: &Home, most: u32) -> Vec<Home> {
    let Range { start, end } = home.slice.range;
    let starts = (start..end).step_by(most.max(1) as usize);
    let piece = |first: u32| {
        let slice = WeightSlice { range: first..first.saturating_add(most).min(end), ..home.slice.clone() };
        Home { slice, ..home.clone() }
    };
    starts.map(piece).collect()
}

/// An expert layer, by the sum that ends it.
struct Layer {
    /// See [`behind`].
    inner: BTreeSet<NodeId>,
    /// The runs into which it is cut.
    parts: Vec<ExpertPart>,
}

impl Layer {
    fn all(graph: &Graph, residency: &Residency) -> BTreeMap<NodeId, Layer> {
        let sums = graph.nodes().filter_map(|(id, node)| match &node.op {
            // A sum of a part was cut before.
            Op::Moe(Moe::Combine(sum)) if sum.part.is_none() => Some((id, sum)),
            _ => None,
        });
        sums.map(|(id, sum)| (id, Layer::of(graph, residency, sum))).collect()
    }

    fn of(graph: &Graph, residency: &Residency, sum: &Combine) -> Layer {
        let inner = behind(graph, sum);
        let stacks = inner.iter().filter_map(|&id| match &graph.node(id).op {
            Op::Moe(Moe::Experts(experts)) => Some(experts.weight),
            _ => None,
        });
        let cuts: BTreeSet<u32> = stacks.flat_map(|weight| ends(residency, weight)).collect();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let parts = starts.zip(cuts.iter().copied()).map(|(first, end)| ExpertPart { first, count: end - first });
        Layer { inner, parts: parts.collect() }
    }
}

/// What depends on the experts between the routing and their weighted sum: their products and what is done to these.
pub(super) fn behind(graph: &Graph, sum: &Combine) -> BTreeSet<NodeId> {
    let (mut inner, mut open) = (BTreeSet::new(), vec![sum.x]);
    while let Some(id) = open.pop() {
        let op = &graph.node(id).op;
        match op {
            Op::Moe(Moe::Experts(experts)) if inner.insert(id) && experts.slotted => open.push(experts.x),
            Op::Elementwise(_) if inner.insert(id) => open.extend(op.node_operands()),
            _ => {}
        }
    }
    inner
}

/// Where the runs of a stack end.
fn ends(residency: &Residency, weight: WeightId) -> impl Iterator<Item = u32> {
    residency.weights.get(weight).into_iter().flatten().map(|home| home.slice.range.end)
}

struct Rewrite<'a> {
    graph: &'a Graph,
    builder: GraphBuilder,
    /// The new id of each node that stands once.
    made: BTreeMap<NodeId, NodeId>,
}

impl Rewrite<'_> {
    fn run(graph: &Graph, layers: &BTreeMap<NodeId, Layer>) -> Result<Graph, GraphError> {
        let mut builder = GraphBuilder::new(graph.batch());
        for &input in graph.inputs().iter() {
            builder.input(input);
        }
        for weight in graph.weights().iter() {
            builder.weight(weight.clone())?;
        }
        for state in graph.states().iter() {
            builder.state(state.clone())?;
        }
        let cut: BTreeSet<NodeId> =
            layers.values().filter(|l| l.parts.len() > 1).flat_map(|l| l.inner.iter().copied()).collect();
        let mut rewrite = Rewrite { graph, builder, made: BTreeMap::new() };
        for id in graph.node_ids().filter(|id| !cut.contains(id)) {
            let new = match layers.get(&id) {
                Some(layer) if layer.parts.len() > 1 => rewrite.layer(id, layer)?,
                Some(_) | None => rewrite.copy(id, None, &BTreeMap::new())?,
            };
            rewrite.made.insert(id, new);
        }
        let output = rewrite.made[&graph.output()];
        rewrite.builder.finish(output)
    }

    /// A node with renumbered operands: those of `own` first, then those that stand once. What a cut layer makes on its
    /// way to the sum is neither for a node outside of it.
    fn copy(
        &mut self,
        id: NodeId,
        part: Option<ExpertPart>,
        own: &BTreeMap<NodeId, NodeId>,
    ) -> Result<NodeId, GraphError> {
        let node = self.graph.node(id);
        let (mut op, mut name) = (node.op.clone(), node.name.clone());
        let mut lost = None;
        op.nodes_mut(&mut |n| match own.get(n).or_else(|| self.made.get(n)) {
            Some(&new) => *n = new,
            None => lost = Some(*n),
        });
        if let Some(lost) = lost {
            return Err(GraphError::UnknownOperand { node: name, operand: lost.into() });
        }
        if let Some(ExpertPart { first, count }) = part {
            name = format!("{name}[{first}..{}]", first + count);
            match &mut op {
                Op::Moe(Moe::Experts(experts)) => experts.part = part,
                Op::Moe(Moe::Combine(sum)) => sum.part = part,
                _ => {}
            }
        }
        self.builder.set_layer(node.layer);
        self.builder.set_lane(node.lane);
        self.builder.node(name, op)
    }

    /// All parts of a layer and the sum of their sums; what is added last is added to the first part's.
    fn layer(&mut self, sum: NodeId, layer: &Layer) -> Result<NodeId, GraphError> {
        let mut total: Option<NodeId> = None;
        for (i, &part) in layer.parts.iter().enumerate() {
            let mut own = BTreeMap::new();
            for &id in &layer.inner {
                let new = self.copy(id, Some(part), &own)?;
                own.insert(id, new);
            }
            let partial = self.partial(sum, part, i == 0, &own)?;
            total = Some(match total {
                None => partial,
                Some(before) => {
                    let name = format!("{}.sum{i}", self.graph.node(sum).name);
                    self.builder.node(name, Op::Elementwise(Elementwise::Add { a: before, b: partial }))?
                }
            });
        }
        total.ok_or(GraphError::NoOutput("an expert layer without experts".into()))
    }

    /// The weighted sum of one part.
    fn partial(
        &mut self,
        sum: NodeId,
        part: ExpertPart,
        first: bool,
        own: &BTreeMap<NodeId, NodeId>,
    ) -> Result<NodeId, GraphError> {
        let Op::Moe(Moe::Combine(op)) = &self.graph.node(sum).op else { return self.copy(sum, Some(part), own) };
        let new = |n: NodeId| own.get(&n).or_else(|| self.made.get(&n)).copied().unwrap_or(n);
        let once = |n: Option<NodeId>| n.filter(|_| first).map(new);
        let (shared, residual) = (once(op.shared), once(op.residual));
        let op = Combine { x: new(op.x), routing: new(op.routing), shared, residual, part: Some(part) };
        self.builder.set_layer(self.graph.node(sum).layer);
        self.builder.set_lane(self.graph.node(sum).lane);
        let ExpertPart { first, count } = part;
        self.builder
            .node(format!("{}[{first}..{}]", self.graph.node(sum).name, first + count), Op::Moe(Moe::Combine(op)))
    }
}
