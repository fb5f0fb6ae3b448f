//! `-ngl N` → homes: the last N layers in the accelerators' memories, in runs as long as those have free memory, all
//! else with a processor. Proposes only: whether it fits is for the plan to say.
//!
//! A layer's cache lives with its layer. [`CacheHome::Accelerator`] puts those of layers that stay with the processor
//! on accelerators all the same: engines that stream a layer's weights for a long prompt compute its attention where
//! they compute the rest of it, and plans do so where the cache lives.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::{Machine, MemoryId};
use crate::graph::{Graph, Op, Weight, WeightId};
use crate::index::IndexVec;
use crate::residency::{CacheHome, Home, Residency};

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    /// How many of the last layers live on accelerators; more than there are put the output there as well.
    pub layers: u32,
    /// Whether experts stay with the processor all the same.
    pub experts_on_host: bool,
    /// Where caches live.
    pub cache: CacheHome,
}

/// Why there are no homes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the machine has no memory at all")]
pub struct NoMemory;

/// The homes that `wish` asks for. Vectors live everywhere, the token table with the processor.
///
/// # Errors
/// The machine has no memory.
pub fn homes(graph: &Graph, machine: &Machine, wish: Wish) -> Result<Residency, NoMemory> {
    let places = Places::of(graph, machine, wish)?;
    let uses = uses(graph);
    let weights = graph.weights().iter_ids().map(|(id, weight)| {
        let memories = places.weight(weight, uses[id]);
        memories.into_iter().map(|memory| Home::of_matrices(id, 0..weight.count, memory)).collect()
    });
    let states = graph.states().iter().map(|state| places.cache(state.layer));
    Ok(Residency { weights: weights.collect(), states: states.collect(), lanes: IndexVec::new() })
}

/// What a weight is read for.
#[derive(Clone, Copy, Default)]
struct Use {
    layer: Option<u32>,
    /// As rows of the token table.
    embeds: bool,
    /// In a product that belongs to no layer.
    output: bool,
    /// As experts.
    experts: bool,
}

fn uses(graph: &Graph) -> IndexVec<WeightId, Use> {
    let mut uses: IndexVec<WeightId, Use> = graph.weights().iter().map(|_| Use::default()).collect();
    for (_, node) in graph.nodes() {
        for weight in node.op.weight_operands() {
            let found = &mut uses[weight];
            let embeds = matches!(node.op, Op::Rows(_));
            found.layer = found.layer.or(node.layer);
            found.embeds |= embeds;
            found.output |= node.layer.is_none() && !embeds;
            found.experts |= matches!(node.op, Op::Moe(_));
        }
    }
    uses
}

struct Places {
    wish: Wish,
    host: MemoryId,
    /// Memories of accelerators with the bytes that plans may use, the largest first.
    accelerators: Vec<(MemoryId, u64)>,
    layers: u32,
}

impl Places {
    fn of(graph: &Graph, machine: &Machine, wish: Wish) -> Result<Places, NoMemory> {
        let hosts = machine.memories.ids().find(|&m| machine.is_host(m));
        let host = hosts.or_else(|| machine.memories.ids().next()).ok_or(NoMemory)?;
        let own =
            |&m: &MemoryId| !machine.is_host(m) && machine.devices.iter().any(|d| d.memory == m && d.is_accelerator());
        let mut accelerators: Vec<(MemoryId, u64)> =
            machine.memories.ids().filter(own).map(|m| (m, machine.budget(m).0)).collect();
        accelerators.sort_by_key(|&(m, bytes)| (std::cmp::Reverse(bytes), m));
        let layers = graph.nodes().filter_map(|(_, n)| n.layer).max().map_or(0, |last| last.saturating_add(1));
        Ok(Places { wish, host, accelerators, layers })
    }

    /// The memory of layer `layer` of those from `first` on, which are dealt out by free bytes.
    fn dealt(&self, layer: u32, first: u32) -> MemoryId {
        let total: f64 = self.accelerators.iter().map(|a| a.1 as f64).sum();
        let count = f64::from(self.layers.saturating_sub(first).max(1));
        let place = (f64::from(layer.saturating_sub(first)) + 0.5) / count * total;
        let mut end = 0.0;
        let reached = self.accelerators.iter().find(|a| {
            end += a.1 as f64;
            place < end
        });
        reached.or(self.accelerators.last()).map_or(self.host, |a| a.0)
    }

    fn layer(&self, layer: u32) -> MemoryId {
        let first = self.layers.saturating_sub(self.wish.layers);
        if layer < first { self.host } else { self.dealt(layer, first) }
    }

    fn cache(&self, layer: u32) -> MemoryId {
        match self.wish.cache {
            CacheHome::Host => self.host,
            CacheHome::Layer => self.layer(layer),
            CacheHome::Accelerator if self.layer(layer) == self.host => self.dealt(layer, 0),
            CacheHome::Accelerator => self.layer(layer),
        }
    }

    fn weight(&self, weight: &Weight, used: Use) -> Vec<MemoryId> {
        if weight.rows == 1 && weight.count == 1 {
            return std::iter::once(self.host).chain(self.accelerators.iter().map(|a| a.0)).collect();
        }
        if used.experts && self.wish.experts_on_host {
            return vec![self.host];
        }
        match (used.layer, used.output && self.wish.layers > self.layers) {
            (Some(layer), _) => vec![self.layer(layer)],
            (None, true) => {
                let last = self.layer(self.layers.saturating_sub(1));
                if used.embeds && last != self.host { vec![last, self.host] } else { vec![last] }
            }
            (None, false) => vec![self.host],
        }
    }
}
