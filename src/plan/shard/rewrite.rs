//! Blocks and groups → the graph in which every member has its part, and the homes of that graph.

use std::collections::{BTreeMap, BTreeSet};

use super::Whole;
use super::block::{Block, Role, block, may_end, unit_name};
use super::cut::runs;
use super::layers::Layers;
use super::parts::{Copies, Run, lane_name};
use crate::device::MemoryId;
use crate::graph::ops::{Elementwise, Moe};
use crate::graph::{Graph, GraphError, LaneId, NodeId, Op, OperandMut};
use crate::residency::Residency;

/// How a node of the graph stands in the new one.
#[derive(Clone, Debug)]
enum Form {
    /// Once; made from a memory's own experts, if that is what it is.
    Once(NodeId, Option<MemoryId>),
    /// Whole for each member.
    Each(Vec<NodeId>),
    /// Each member has its columns; read inside a block alone.
    Cut(Vec<NodeId>),
    /// Each member has a term of it; and the sums that were read so far, by member.
    Terms(Vec<NodeId>, Vec<Option<NodeId>>),
}

/// The id of a copy that nothing reads.
const NOWHERE: NodeId = NodeId(u32::MAX);

/// A block with the run of units of each member.
struct Cut {
    block: Block,
    runs: Vec<Run>,
}

pub(super) struct Rewrite<'a> {
    graph: &'a Graph,
    layers: &'a Layers,
    copies: Copies<'a>,
    /// Copies that are not made, since nothing reads them.
    dead: &'a BTreeSet<String>,
    /// The block of every node that is in one.
    cuts: BTreeMap<NodeId, usize>,
    blocks: Vec<Cut>,
    /// What became of each node so far, and the group of its layer.
    forms: BTreeMap<NodeId, (Option<usize>, Form)>,
}

impl<'a> Rewrite<'a> {
    /// The new graph and its homes.
    pub fn run(
        graph: &'a Graph,
        homes: &'a Residency,
        layers: &'a Layers,
        dead: &'a BTreeSet<String>,
        whole: &mut Vec<Whole>,
    ) -> Result<(Graph, Residency), GraphError> {
        let copies = Copies::new(graph, homes, layers);
        let mut rewrite =
            Rewrite { graph, layers, copies, dead, cuts: BTreeMap::new(), blocks: Vec::new(), forms: BTreeMap::new() };
        rewrite.find(whole);
        for id in graph.node_ids() {
            let form = rewrite.node(id)?;
            rewrite.forms.insert(id, (layers.group_of(graph, id), form));
        }
        let output = rewrite.whole(graph.output(), None, 0)?;
        rewrite.copies.finish(output)
    }

    /// Finds all blocks.
    fn find(&mut self, whole: &mut Vec<Whole>) {
        for id in self.graph.node_ids().filter(|&id| may_end(self.graph, id)) {
            let Some(group) = self.layers.group_of(self.graph, id) else { continue };
            match self.cut(id, group) {
                Ok(cut) => {
                    cut.block.roles.keys().for_each(|&n| _ = self.cuts.insert(n, self.blocks.len()));
                    self.blocks.push(cut);
                }
                // Experts that were dealt have a note of their own.
                Err(_) if whole.iter().any(|noted| noted.node == self.graph.node(id).name) => {}
                Err(why) => {
                    let experts = matches!(self.graph.node(id).op, Op::Moe(_));
                    let then =
                        if experts { "experts are computed where they live" } else { "every device computes it whole" };
                    let why = format!("{why}: {then}");
                    whole.push(Whole { node: self.graph.node(id).name.clone(), why });
                }
            }
        }
    }

    fn cut(&self, sink: NodeId, group: usize) -> Result<Cut, String> {
        let (lanes, block) = (&self.layers.groups[group], block(self.graph, sink)?);
        let here = |id: &NodeId| self.layers.group_of(self.graph, *id) == Some(group);
        if !block.roles.keys().all(here) || !self.copies.live_with(&block, lanes) {
            return Err("some of it lives elsewhere".into());
        }
        let (units, granule) = (block.units, block.granule);
        let runs = runs(units, granule, &lanes.shares).ok_or_else(|| {
            let unit = unit_name(self.graph, &block);
            format!("{units} {unit} in blocks of {granule} are fewer blocks than {} devices", lanes.len())
        })?;
        let run = |range| Run { range, units };
        Ok(Cut { block, runs: runs.into_iter().map(run).collect() })
    }

    fn node(&mut self, id: NodeId) -> Result<Form, GraphError> {
        let Some(group) = self.layers.group_of(self.graph, id) else {
            return Ok(Form::Once(self.copy(id, None, 0, None)?, None));
        };
        if let Some(&cut) = self.cuts.get(&id) {
            return self.part_each(id, group, cut);
        }
        match self.apart(id) {
            Some(memory) => {
                let member = self.layers.groups[group].member(memory);
                let lane = member.map(|m| self.layers.groups[group].lanes[m]);
                let made = self.copy(id, Some(group), member.unwrap_or(0), lane)?;
                Ok(Form::Once(made, Some(memory)))
            }
            None => {
                let lanes = self.layers.groups[group].lanes.clone();
                let each = lanes.into_iter().enumerate();
                let made = each.map(|(member, lane)| self.copy_at(id, group, member, lane));
                Ok(Form::Each(made.collect::<Result<_, _>>()?))
            }
        }
    }

    /// The memory whose experts a node works on, where those live apart or are not cut.
    fn apart(&self, id: NodeId) -> Option<MemoryId> {
        let op = &self.graph.node(id).op;
        match op {
            Op::Moe(Moe::Experts(experts)) => self.copies.home_of(experts),
            Op::Moe(Moe::Combine(_)) | Op::Elementwise(Elementwise::Gated { .. }) => {
                op.node_operands().into_iter().find_map(|n| match &self.forms[&n].1 {
                    Form::Once(_, memory) => *memory,
                    Form::Each(_) | Form::Cut(_) | Form::Terms(..) => None,
                })
            }
            Op::Moe(Moe::Route(_)) | Op::Elementwise(Elementwise::Add { .. }) | Op::Rows(_) | Op::Norm(_) => None,
            Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rope(_) | Op::Cache(_) | Op::Attention(_) => None,
        }
    }

    /// A node that stands once, with the weights that it had.
    fn copy(
        &mut self,
        id: NodeId,
        group: Option<usize>,
        member: usize,
        lane: Option<LaneId>,
    ) -> Result<NodeId, GraphError> {
        let op = self.renumbered(id, &mut |rewrite, operand| {
            match operand {
                OperandMut::Node(n) => *n = rewrite.whole(*n, group, member)?,
                OperandMut::Weight(w) => *w = rewrite.copies.same(*w)?,
                OperandMut::State(s) => *s = rewrite.copies.same_state(*s)?,
            }
            Ok(())
        })?;
        let name = self.graph.node(id).name.clone();
        self.copies.emit(self.graph.node(id).layer, lane, name, op)
    }

    /// A member's copy of a node that each member computes whole.
    fn copy_at(&mut self, id: NodeId, group: usize, member: usize, lane: LaneId) -> Result<NodeId, GraphError> {
        if self.dead.contains(&lane_name(self.graph.node(id), lane)) {
            return Ok(NOWHERE);
        }
        let op = self.renumbered(id, &mut |rewrite, operand| {
            match operand {
                OperandMut::Node(n) => *n = rewrite.whole(*n, Some(group), member)?,
                OperandMut::Weight(w) => *w = rewrite.copies.copy(*w, lane)?,
                OperandMut::State(s) => *s = rewrite.copies.copy_state(*s, lane)?,
            }
            Ok(())
        })?;
        self.copies.emit_at(self.graph.node(id), lane, op)
    }

    /// What every member does of a node in a block.
    fn part_each(&mut self, id: NodeId, group: usize, cut: usize) -> Result<Form, GraphError> {
        let lanes = self.layers.groups[group].lanes.clone();
        let role = self.blocks[cut].block.roles[&id];
        let mut made = Vec::with_capacity(lanes.len());
        for (member, &lane) in lanes.iter().enumerate() {
            let run = self.blocks[cut].runs[member].clone();
            let mut op = self.graph.node(id).op.clone();
            if role == Role::Sink && member > 0 {
                once(&mut op, |n| self.is_shared_term(n, group));
            }
            self.copies.part(&mut op, &run, role, lane, member == 0)?;
            let mut failed = None;
            op.nodes_mut(&mut |n| match self.part_of(*n, group, member) {
                Ok(new) => *n = new,
                Err(why) => failed = Some(why),
            });
            failed.map_or(Ok(()), Err)?;
            made.push(self.copies.emit_at(self.graph.node(id), lane, op)?);
        }
        Ok(match role {
            Role::Source | Role::Inner => Form::Cut(made),
            Role::Sink => {
                let sums = vec![None; made.len()];
                Form::Terms(made, sums)
            }
        })
    }

    /// Whether a node's value is there as a term a member of `group`, and its only readers are sums of experts that
    /// themselves are a term a member, which add it as what all rows share.
    fn is_shared_term(&self, id: NodeId, group: usize) -> bool {
        let shares = |user: &NodeId| match &self.graph.node(*user).op {
            Op::Moe(Moe::Combine(op)) => {
                op.shared == Some(id) && op.residual != Some(id) && self.cuts.contains_key(user)
            }
            _ => false,
        };
        let is_term = matches!(&self.forms[&id], (Some(of), Form::Terms(..)) if *of == group);
        is_term && self.graph.users(id).iter().all(shares)
    }

    /// What a member's part of a node reads: its columns or its term where there are such, else the whole.
    fn part_of(&mut self, id: NodeId, group: usize, member: usize) -> Result<NodeId, GraphError> {
        match &self.forms[&id] {
            (Some(of), Form::Cut(parts)) if *of == group => Ok(parts[member]),
            (Some(_), Form::Terms(terms, _)) if self.is_shared_term(id, group) => Ok(terms[member]),
            _ => self.whole(id, Some(group), member),
        }
    }

    /// The whole value of a node, as a member of `group` reads it; terms are summed where they are read.
    fn whole(&mut self, id: NodeId, group: Option<usize>, member: usize) -> Result<NodeId, GraphError> {
        let (of, form) = &self.forms[&id];
        let own = |count: usize| if *of == group { member } else { member % count };
        match form {
            Form::Once(made, _) => Ok(*made),
            Form::Each(made) => Ok(made[own(made.len())]),
            Form::Terms(terms, sums) => {
                let at = own(terms.len());
                match sums[at] {
                    Some(sum) => Ok(sum),
                    None => self.sum(id, at),
                }
            }
            Form::Cut(_) => {
                let node = self.graph.node(id).name.clone();
                Err(GraphError::UnknownOperand { node, operand: id.into() })
            }
        }
    }

    /// The sum of a node's terms on one member, in order of members.
    fn sum(&mut self, id: NodeId, member: usize) -> Result<NodeId, GraphError> {
        let (Some(group), Form::Terms(terms, _)) = &self.forms[&id] else { return self.whole(id, None, 0) };
        let (lane, terms) = (self.layers.groups[*group].lanes[member], terms.clone());
        let node = self.graph.node(id);
        let mut total = terms[0];
        for (i, &term) in terms.iter().enumerate().skip(1) {
            let name = format!("{}.sum{i}@{lane}", node.name);
            let add = Op::Elementwise(Elementwise::Add { a: total, b: term });
            total = self.copies.emit(node.layer, Some(lane), name, add)?;
        }
        if let Some((_, Form::Terms(_, sums))) = self.forms.get_mut(&id) {
            sums[member] = Some(total);
        }
        Ok(total)
    }

    fn renumbered(
        &mut self,
        id: NodeId,
        change: &mut dyn FnMut(&mut Self, OperandMut<'_>) -> Result<(), GraphError>,
    ) -> Result<Op, GraphError> {
        let mut op = self.graph.node(id).op.clone();
        let mut failed = None;
        op.operands_mut(&mut |operand| {
            if failed.is_none() {
                failed = change(self, operand).err();
            }
        });
        failed.map_or(Ok(op), Err)
    }
}

/// Takes out what only one member may add: the residual, and a shared value that is no term itself.
fn once(op: &mut Op, is_terms: impl Fn(NodeId) -> bool) {
    match op {
        Op::MatMul(op) => op.residual = None,
        Op::Moe(Moe::Combine(op)) => {
            op.residual = None;
            op.shared = op.shared.filter(|&n| is_terms(n));
        }
        Op::Moe(Moe::Route(_) | Moe::Experts(_)) | Op::Rows(_) | Op::Norm(_) | Op::HeadMatMul(_) => {}
        Op::Rope(_) | Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => {}
    }
}
