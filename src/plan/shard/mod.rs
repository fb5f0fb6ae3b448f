//! Tensor split: layers whose devices work on them together. A layer that lives with one member of a group is cut over
//! all of the group: heads of attention, hidden columns of feed-forward blocks and experts; every member makes a term of
//! what the block adds to the stream, the terms are summed on each member that reads the sum, in order of members, so
//! that copies of the stream have equal bits. What is small or cannot be cut is computed by every member.
//!
//! A pure rewrite of the graph: parts of tensors become weights of their own with homes of their own, so planner, checker
//! and executor need to know nothing of it but the lanes of nodes. (The cuts are those of Megatron-LM, Shoeybi et al. 2019,
//! arXiv:1909.08053, section 3.)
//!
//! # Invariants
//! - Cuts fall between blocks of the weights that are cut by columns, so no number is rounded otherwise than uncut.
//! - A latent cache, or one of a single KV head, is whole on every member; so are routers, norms and low-rank products.
//! - Experts that live in several memories keep their homes; those that cannot be cut evenly are dealt as whole experts.
//! - Weights and states are numbered in the order of the graph's own, alike for every batch and however experts are cut.

mod block;
mod cut;
mod deal;
mod layers;
mod parts;
mod rewrite;

use std::collections::BTreeSet;

use crate::device::MemoryId;
use crate::graph::Graph;
use crate::index::Id;
use crate::residency::Residency;

use super::{PlanError, partition};
use layers::Layers;
use rewrite::Rewrite;

/// A memory whose device works on layers together with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// The memory, in no other group.
    pub memory: MemoryId,
    /// Its share of every layer, in proportion to those of the other members; positive and finite.
    pub share: f64,
}

/// What a layer would be cut at, and why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The product whose terms would be summed.
    pub node: String,
    /// Why every member computes it, whole experts are dealt, or no group has its layer.
    pub why: String,
}

/// A graph whose layers are cut over groups, and its homes.
#[derive(Clone, Debug)]
pub struct Sharded {
    /// The graph, also cut along the homes of experts.
    pub graph: Graph,
    /// Homes of its weights, states and lanes.
    pub residency: Residency,
    /// What is not cut.
    pub whole: Vec<Whole>,
}

/// Cuts every layer of `graph` whose dense weights and states live with members of one group over that group.
///
/// # Errors
/// A memory is in two groups or has a share that is none; the homes are of another graph; or a rewritten graph is none.
pub fn shard(graph: &Graph, residency: &Residency, groups: &[Vec<Member>]) -> Result<Sharded, PlanError> {
    let layers = Layers::of(graph, residency, groups)?;
    if layers.groups.is_empty() {
        let graph = partition(graph, residency)?;
        return Ok(Sharded { graph, residency: residency.clone(), whole: Vec::new() });
    }
    let mut whole = layers.apart.clone();
    let homes = deal::experts(graph, residency, &layers, &mut whole);
    let graph = partition(graph, &homes)?;
    let rewrite = |dead: &BTreeSet<String>, whole: &mut Vec<Whole>| {
        Rewrite::run(&graph, &homes, &layers, dead, whole).map_err(|why| PlanError::Shard(why.to_string()))
    };
    let (cut, residency) = rewrite(&BTreeSet::new(), &mut whole)?;
    let idle = unread(&graph, &BTreeSet::new());
    let dead = unread(&cut, &idle);
    let (graph, residency) = if dead.is_empty() { (cut, residency) } else { rewrite(&dead, &mut Vec::new())? };
    Ok(Sharded { graph, residency, whole })
}

/// Nodes from which nothing gets into the output: copies on members that have no use for them. What was `idle` before it
/// was cut counts as read, in all its copies.
fn unread(graph: &Graph, idle: &BTreeSet<String>) -> BTreeSet<String> {
    let mut read = vec![false; graph.len()];
    read[graph.output().index()] = true;
    for (id, node) in graph.nodes().rev() {
        let uncut = node.lane.and_then(|lane| node.name.strip_suffix(&format!("@{lane}"))).unwrap_or(&node.name);
        read[id.index()] |= idle.contains(uncut);
        if read[id.index()] {
            node.op.node_operands().into_iter().for_each(|n| read[n.index()] = true);
        }
    }
    graph.nodes().filter(|(id, _)| !read[id.index()]).map(|(_, node)| node.name.clone()).collect()
}
