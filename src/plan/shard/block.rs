//! Finds what can be cut: from a product back over everything that works on heads or hidden columns alone, to the products
//! that make them.

use std::collections::BTreeMap;

use super::cut::{common, granule};
use crate::graph::ops::{Elementwise, Moe};
use crate::graph::{Family, Graph, NodeId, Op, WeightId};
use crate::tensor::panel::PANEL_ROWS;

/// A node's part in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Makes columns of its own from whole rows: its weight is cut by rows.
    Source,
    /// Works on some columns, or heads.
    Inner,
    /// Makes a term of the whole from some columns: its weight is cut by columns.
    Sink,
}

/// Nodes that each member does a part of; their values are read inside alone, but for the sink's.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub roles: BTreeMap<NodeId, Role>,
    /// KV heads, heads over a cache that all share, or hidden columns.
    pub units: u32,
    /// Units that stay together.
    pub granule: u32,
}

/// Where a block may end: a product of what is no plain stream, or the sum of experts.
pub(super) fn may_end(graph: &Graph, id: NodeId) -> bool {
    let x = match &graph.node(id).op {
        Op::MatMul(op) => op.x,
        Op::Moe(Moe::Combine(op)) => return op.part.is_none(),
        Op::Moe(Moe::Route(_) | Moe::Experts(_)) | Op::Rows(_) | Op::Norm(_) | Op::HeadMatMul(_) => return false,
        Op::Rope(_) | Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => return false,
    };
    match &graph.node(x).op {
        Op::Elementwise(Elementwise::Gated { .. }) | Op::Attention(_) | Op::HeadMatMul(_) | Op::Rope(_) => true,
        Op::Elementwise(Elementwise::Add { .. }) | Op::Rows(_) | Op::Norm(_) | Op::MatMul(_) => false,
        Op::Cache(_) | Op::Moe(_) => false,
    }
}

/// The block that ends with `sink`, or why there is none.
pub(super) fn block(graph: &Graph, sink: NodeId) -> Result<Block, String> {
    let x = match &graph.node(sink).op {
        Op::MatMul(op) => op.x,
        Op::Moe(Moe::Combine(op)) => op.x,
        other => return Err(format!("a block does not end with {}", other.family().name())),
    };
    let (roles, parts) = (BTreeMap::from([(sink, Role::Sink)]), BTreeMap::from([(sink, 1)]));
    let mut finder = Finder { graph, roles, parts, heads: None };
    finder.back(x)?;
    finder.closed()?;
    let Finder { roles, heads, .. } = finder;
    let (last, cols) = last_product(graph, &roles, sink)?;
    let (units, together) = match heads {
        Some(heads) => (heads, 1),
        None => (cols, whole_panels(cols)),
    };
    let even = |id: NodeId| extent(graph, id, heads).is_multiple_of(units.max(1));
    if let Some(odd) = roles.keys().copied().filter(|&id| id != sink).find(|&id| !even(id)) {
        return Err(format!("{} does not divide into {units}", graph.node(odd).name));
    }
    let block = graph.weights()[last].dtype.block().elements;
    if units == 0 || !cols.is_multiple_of(units) {
        return Err(format!("{cols} columns do not divide into {units}"));
    }
    Ok(Block { roles, units, granule: common(granule(cols / units, block), together) })
}

/// Hidden columns stay together by panels of the rows that make them.
fn whole_panels(cols: u32) -> u32 {
    let rows = PANEL_ROWS as u32;
    if cols.is_multiple_of(rows) { rows } else { 1 }
}

struct Finder<'a> {
    graph: &'a Graph,
    roles: BTreeMap<NodeId, Role>,
    /// How many operands of each node are parts.
    parts: BTreeMap<NodeId, usize>,
    /// Heads that can be parted, once attention was met.
    heads: Option<u32>,
}

impl Finder<'_> {
    /// Takes in all that `id` is made of, back to the sources.
    fn back(&mut self, id: NodeId) -> Result<(), String> {
        if self.roles.contains_key(&id) {
            return Ok(());
        }
        let node = self.graph.node(id);
        let (role, before): (_, Vec<NodeId>) = match &node.op {
            Op::MatMul(op) if op.residual.is_none() => (Role::Source, Vec::new()),
            Op::Moe(Moe::Experts(op)) if op.part.is_some() => return Err("its experts live apart".into()),
            Op::Moe(Moe::Experts(op)) if op.slotted => (Role::Inner, vec![op.x]),
            Op::Moe(Moe::Experts(_)) => (Role::Source, Vec::new()),
            Op::Elementwise(Elementwise::Gated { gate, up, .. }) => (Role::Inner, vec![*gate, *up]),
            Op::Rope(op) => (Role::Inner, vec![op.x]),
            Op::Norm(op) if op.heads > 1 => (Role::Inner, vec![op.x]),
            Op::HeadMatMul(op) => (Role::Inner, vec![op.x]),
            Op::Cache(op) => (Role::Inner, [Some(op.k), op.v].into_iter().flatten().collect()),
            Op::Attention(op) => {
                let kv = self.graph.states()[op.keys].heads;
                self.heads = Some(if kv > 1 { kv } else { op.heads });
                let write = (kv > 1).then_some(op.write);
                (Role::Inner, std::iter::once(op.q).chain(write).collect())
            }
            Op::MatMul(_) | Op::Rows(_) | Op::Norm(_) | Op::Elementwise(Elementwise::Add { .. }) | Op::Moe(_) => {
                return Err(format!("{} needs all columns", node.name));
            }
        };
        self.roles.insert(id, role);
        self.parts.insert(id, before.len());
        before.into_iter().try_for_each(|n| self.back(n))
    }

    /// What is made inside is read inside, and there by what works on parts.
    fn closed(&self) -> Result<(), String> {
        let name = |id: NodeId| &self.graph.node(id).name;
        let is_part = |id: &NodeId| self.roles.get(id).is_some_and(|role| *role != Role::Sink);
        for (&id, &parts) in &self.parts {
            let read = self.graph.node(id).op.node_operands().into_iter().filter(is_part).count();
            if read != parts {
                return Err(format!("{} reads all of a part", name(id)));
            }
            let outside = self.graph.users(id).into_iter().find(|user| !self.roles.contains_key(user));
            if let (Some(reader), true) = (outside, is_part(&id)) {
                return Err(format!("{} reads all of {}", name(reader), name(id)));
            }
        }
        Ok(())
    }
}

/// The weight that is cut by columns, and its columns.
fn last_product(graph: &Graph, roles: &BTreeMap<NodeId, Role>, sink: NodeId) -> Result<(WeightId, u32), String> {
    let slotted = |id: &NodeId| match &graph.node(*id).op {
        Op::Moe(Moe::Experts(op)) if op.slotted => Some(op.weight),
        _ => None,
    };
    let weight = match &graph.node(sink).op {
        Op::MatMul(op) => Some(op.weight),
        _ => roles.keys().find_map(slotted),
    };
    let weight = weight.ok_or_else(|| format!("{} sums no experts", graph.node(sink).name))?;
    Ok((weight, graph.weights()[weight].cols))
}

/// What of a node is cut: heads where it works on heads, else the columns that it makes.
fn extent(graph: &Graph, id: NodeId, heads: Option<u32>) -> u32 {
    let node = graph.node(id);
    match &node.op {
        Op::Rope(op) => op.heads,
        Op::Norm(op) => op.heads,
        Op::HeadMatMul(op) => graph.weights()[op.weight].count,
        Op::Attention(op) => op.heads,
        Op::Cache(op) => graph.states()[op.keys].heads,
        Op::MatMul(op) => graph.weights()[op.weight].rows,
        Op::Moe(Moe::Experts(op)) if op.slotted => graph.weights()[op.weight].cols,
        Op::Moe(Moe::Experts(op)) => graph.weights()[op.weight].rows,
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) | Op::Rows(_) => node.out.cols,
        Op::Elementwise(_) => heads.unwrap_or(node.out.cols),
    }
}

/// The word for the units of a block, for messages.
pub(super) fn unit_name(graph: &Graph, block: &Block) -> &'static str {
    let attends = block.roles.keys().any(|&id| graph.node(id).op.family() == Family::Attention);
    if attends { "heads" } else { "columns" }
}
