//! The same tokens through the nodes of a model on several devices, in lockstep → how far each node's value is from the
//! first device's, which node is the first beyond its bound, and what families of nodes take. Every device goes on with
//! what it made itself, so a wrong node shows in all that read it: the first counts. Holds the values of one node at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use super::difference::{Difference, Greedy, LogitsDifference, Sums};
use crate::backend::CellTable;
use crate::device::DeviceSpec;
use crate::exec::{ExecError, Made, Nodes, Open, StepInput};
use crate::gguf::Gguf;
use crate::graph::ops::Moe;
use crate::graph::{Batch, Family, Graph, NodeId, Op};
use crate::index::{Id, IndexVec};
use crate::models::{CacheSpec, Model, ModelError};
use crate::tensor::DType;
use crate::units::{Bytes, Nanos, Tokens};

/// How far two devices may be apart behind weights of floats alone.
pub const FLOAT_BOUND: f64 = 1e-5;
/// And behind a product with quantised weights, or a cache of blocks: one rounds activations there, another does not.
pub const QUANTISED_BOUND: f64 = 2e-3;

/// What is compared.
pub struct Trial<'a> {
    /// The model.
    pub gguf: &'a Arc<Gguf>,
    /// Devices, with what each may take; the first is the reference.
    pub devices: Vec<(DeviceSpec, Bytes)>,
    /// What opens them.
    pub open: Open<'a>,
    /// The tokens, of one sequence.
    pub ids: &'a [u32],
    /// Most tokens of a step.
    pub step: Tokens,
    /// Types of cached keys and values.
    pub cache: (DType, DType),
    /// Whether weights stay in the file mapping where a device can use them there.
    pub keep_mapping: bool,
    /// Runs of a node that are timed, behind one that is not.
    pub repetitions: u32,
    /// The bound of every node, instead of those by types.
    pub bound: Option<f64>,
}

/// Why nothing was compared.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum CompareError {
    #[error("needed two devices or more to compare, found {0}")]
    Devices(usize),
    #[error("there are no tokens to compare with")]
    Empty,
    #[error("{0} tokens are more than a cache can have")]
    Tokens(usize),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Every device but the first, in order.
    pub against: Vec<Against>,
    /// Time by family of ops.
    pub families: Vec<FamilyTime>,
}

/// One device against the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// The device's name.
    pub device: String,
    /// The first node beyond its bound, in order of execution.
    pub first_divergence: Option<String>,
    /// The logits.
    pub logits: LogitsDifference,
    /// Every node, in order of execution.
    pub nodes: Vec<NodeDifference>,
}

/// One node on one device against the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeDifference {
    /// Its name.
    pub name: String,
    /// The family of its op.
    pub family: Family,
    /// The type of the weight, or the cache, that it reads first.
    #[serde(rename = "type")]
    pub dtype: Option<&'static str>,
    /// How far apart.
    #[serde(flatten)]
    pub difference: Difference,
    /// How far its `nmse` may be.
    pub bound: f64,
    /// Whether it is farther.
    pub diverges: bool,
}

/// The nodes of one family.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FamilyTime {
    /// The family.
    pub family: Family,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Of each device in order: medians of the repetitions of each node, summed over nodes and steps; empty where none
    /// was timed.
    pub nanoseconds: Vec<Nanos>,
}

/// Compares; `loading` is called with bytes of weights, `done` with nodes.
///
/// # Errors
/// There is nothing to compare, the model does not build, or a device lacks memory or fails.
pub fn compare(
    trial: &Trial<'_>,
    loading: &(dyn Fn(Bytes, Bytes) + Sync),
    done: &dyn Fn(usize, usize),
) -> Result<Comparison, CompareError> {
    if trial.devices.len() < 2 {
        return Err(CompareError::Devices(trial.devices.len()));
    }
    let cells = u32::try_from(trial.ids.len()).ok().filter(|&n| n <= u32::MAX - Tokens::PAGE.0);
    let cells = Tokens(cells.ok_or(CompareError::Tokens(trial.ids.len()))?);
    let graph = graph(trial, cells)?;
    let opened = trial
        .devices
        .iter()
        .map(|device| Nodes::open(graph.clone(), trial.gguf, device.clone(), trial.open, trial.keep_mapping, loading));
    let devices: Vec<Nodes> = opened.collect::<Result<_, _>>()?;
    let mut lockstep = Lockstep::new(trial, &devices);
    let step = graph.batch().tokens;
    let steps = trial.ids.len().div_ceil(step.index());
    for (i, ids) in trial.ids.chunks(step.index()).enumerate() {
        let first = i as u32 * step.0;
        let places: Vec<u32> = (first..first + ids.len() as u32).collect();
        let rows: Vec<u32> = (0..ids.len() as u32).collect();
        let length = Tokens(first + ids.len() as u32);
        let pages: Vec<u32> = (0..length.pages()).collect();
        let tables = [CellTable::single(&places, length, &pages)];
        let step = StepInput { ids, positions: &places, output_rows: &rows, tables: &tables };
        lockstep.run(&step, &|node| done(i * graph.len() + node, steps * graph.len()))?;
    }
    Ok(lockstep.comparison(trial, &graph))
}

/// A graph of the largest step, in which all rows give logits.
fn graph(trial: &Trial<'_>, cells: Tokens) -> Result<Graph, CompareError> {
    let tokens = cells.min(trial.step);
    if tokens.0 == 0 {
        return Err(CompareError::Empty);
    }
    let (keys, values) = trial.cache;
    let cache = CacheSpec { cells, keys, values, sliding: None };
    Ok(Model::from_gguf(trial.gguf)?.graph(Batch { tokens, outputs: tokens }, cache)?)
}

/// All devices on the way through the nodes.
struct Lockstep<'a> {
    devices: &'a [Nodes],
    repetitions: u32,
    /// Of every device but the first.
    sums: Vec<IndexVec<NodeId, Sums>>,
    greedy: Vec<Greedy>,
    /// By family, of every device.
    times: BTreeMap<Family, Vec<Nanos>>,
}

impl<'a> Lockstep<'a> {
    fn new(trial: &Trial<'_>, devices: &'a [Nodes]) -> Lockstep<'a> {
        let sums = |nodes: &Nodes| nodes.graph().node_ids().map(|_| Sums::default()).collect();
        Lockstep {
            devices,
            repetitions: trial.repetitions,
            sums: devices[1..].iter().map(sums).collect(),
            greedy: vec![Greedy::default(); devices.len() - 1],
            times: BTreeMap::new(),
        }
    }

    /// Every node of a step on every device.
    fn run(&mut self, step: &StepInput<'_>, done: &dyn Fn(usize)) -> Result<(), ExecError> {
        self.devices.iter().try_for_each(|device| device.begin(step))?;
        for id in self.devices[0].graph().node_ids() {
            let reference = self.node(0, id, step)?;
            for device in 1..self.devices.len() {
                let found = self.node(device, id, step)?;
                self.sums[device - 1][id].add(&reference, &found);
                let graph = self.devices[device].graph();
                if id == graph.output() {
                    self.greedy[device - 1].add(&reference, &found, graph.node(id).out.cols as usize);
                }
            }
            done(id.index() + 1);
        }
        Ok(())
    }

    /// A node on one device: what it made, its time noted.
    fn node(&mut self, device: usize, id: NodeId, step: &StepInput<'_>) -> Result<Made, ExecError> {
        let nodes = &self.devices[device];
        let mut times = nodes.run(id, step, self.repetitions)?;
        times.sort_unstable();
        if let Some(&median) = times.get(times.len() / 2) {
            let count = self.devices.len();
            let sums = self.times.entry(nodes.graph().node(id).op.family()).or_insert_with(|| vec![Nanos(0); count]);
            sums[device] += median;
        }
        nodes.made(id, step)
    }

    fn comparison(self, trial: &Trial<'_>, graph: &Graph) -> Comparison {
        let bounds = bounds(graph, trial.bound);
        let names = trial.devices[1..].iter().map(|(spec, _)| spec.name.clone());
        let against = names.zip(self.sums).zip(self.greedy).map(|((device, sums), greedy)| {
            let nodes: Vec<NodeDifference> =
                graph.nodes().map(|(id, _)| node(graph, id, &sums[id], bounds[id])).collect();
            let first_divergence = nodes.iter().find(|node| node.diverges).map(|node| node.name.clone());
            let logits = greedy.logits(sums[graph.output()].difference());
            Against { device, first_divergence, logits, nodes }
        });
        Comparison { against: against.collect(), families: families(graph, self.times) }
    }
}

fn node(graph: &Graph, id: NodeId, sums: &Sums, bound: f64) -> NodeDifference {
    let (node, difference) = (graph.node(id), sums.difference());
    let weight = node.op.weight_operands().first().map(|&id| graph.weights()[id].dtype);
    let dtype = weight.or_else(|| node.op.states().next().map(|id| graph.states()[id].dtype));
    // What is no number is beyond every bound.
    let within = difference.nmse <= bound;
    let (name, family, dtype) = (node.name.clone(), node.op.family(), dtype.map(DType::name));
    NodeDifference { name, family, dtype, difference, bound, diverges: !within }
}

fn families(graph: &Graph, mut times: BTreeMap<Family, Vec<Nanos>>) -> Vec<FamilyTime> {
    let mut counts: BTreeMap<Family, usize> = BTreeMap::new();
    graph.nodes().for_each(|(_, node)| *counts.entry(node.op.family()).or_default() += 1);
    let time = |(family, nodes)| FamilyTime { family, nodes, nanoseconds: times.remove(&family).unwrap_or_default() };
    counts.into_iter().map(time).collect()
}

/// How far each node's value may be: by whether anything before it rounds to blocks.
fn bounds(graph: &Graph, asked: Option<f64>) -> IndexVec<NodeId, f64> {
    let mut rough: IndexVec<NodeId, bool> = IndexVec::new();
    for (_, node) in graph.nodes() {
        let before = node.op.node_operands().into_iter().any(|id| rough[id]);
        rough.push(before || rounds(graph, &node.op));
    }
    let by_types = |rough: &bool| if *rough { QUANTISED_BOUND } else { FLOAT_BOUND };
    rough.iter().map(|rough| asked.unwrap_or_else(|| by_types(rough))).collect()
}

/// Whether devices may round differently there: where they multiply with blocks, and where caches have blocks.
fn rounds(graph: &Graph, op: &Op) -> bool {
    let blocks = |dtype: DType| dtype.block().elements > 1;
    let multiplied = match op {
        Op::MatMul(op) => Some(op.weight),
        Op::HeadMatMul(op) => Some(op.weight),
        Op::Moe(Moe::Experts(op)) => Some(op.weight),
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) => None,
        Op::Rows(_) | Op::Norm(_) | Op::Rope(_) | Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => None,
    };
    multiplied.is_some_and(|id| blocks(graph.weights()[id].dtype))
        || op.states().any(|id| blocks(graph.states()[id].dtype))
}
