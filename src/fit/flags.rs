//! A fit → the flags that make llama.cpp and ik_llama.cpp load the model that way. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Fit;
use super::overrides::{counted, host};
use crate::device::{Machine, MemoryId};
use crate::graph::{State, StateId, WeightId};

/// `-ngl`, `-dev`, `-ts`, `-nkvo`, `-ot`, `-c`, `-b` and `-ub` as both engines read them. They place whole tensors: a stack of experts that
/// is cut here stays in host memory there, and so does the cache of a layer whose weights do.
pub fn flags(fit: &Fit, machine: &Machine) -> String {
    let layers = Layers::of(fit, machine);
    let first = layers.homes.iter().position(|&m| !machine.is_host(m)).unwrap_or(layers.homes.len());
    let count = layers.homes.len() - first + usize::from(layers.head_on_card);
    let mut parts = vec![format!("-ngl {count}")];
    let (order, split) = layers.split(machine);
    let named: Vec<&str> = order.iter().map(|&m| layers.name(m)).collect();
    if !layers.names.values().map(String::as_str).take(named.len()).eq(named.iter().copied()) {
        parts.push(format!("-dev {}", named.join(",")));
    }
    if split.len() > 1 {
        parts.push(format!("-ts {}", split.join(",")));
    }
    let cached_by_host = |(id, state): (StateId, &State)| {
        layers.homes.get(state.layer as usize).is_some_and(|&m| !machine.is_host(m))
            && machine.is_host(fit.dealt.residency.states[id])
    };
    if fit.dealt.graph.states().iter_ids().any(cached_by_host) {
        parts.push("-nkvo".to_owned());
    }
    parts.extend(layers.overrides(fit, machine));
    parts.push(format!("-c {}", fit.context().0));
    let step = fit.ubatch().0;
    if step > USUAL_BATCH {
        parts.push(format!("-b {step}"));
    }
    parts.push(format!("-ub {step}"));
    parts.join(" ")
}

/// The most tokens of a batch that both engines take where nothing is said; no step is longer.
const USUAL_BATCH: u32 = 2048;

/// Where the layers are, for flags.
struct Layers {
    /// The memory of each.
    homes: Vec<MemoryId>,
    head_on_card: bool,
    /// What other engines call memories of accelerators, in their order.
    names: BTreeMap<MemoryId, String>,
    host: MemoryId,
}

impl Layers {
    fn of(fit: &Fit, machine: &Machine) -> Layers {
        let host = host(machine).unwrap_or(MemoryId(0));
        let count = fit.dealt.graph.states().iter().map(|s| s.layer as usize + 1).max().unwrap_or(0);
        let homes: Vec<MemoryId> = (0..count).map(|layer| home(fit, layer).unwrap_or(host)).collect();
        let names = machine.devices.iter_ids().filter_map(|(id, d)| Some((d.memory, counted(machine, id)?)));
        let names = names.filter(|&(memory, _)| !machine.is_host(memory)).collect();
        let head = |(id, homes): (WeightId, &Vec<_>)| {
            let whole = |h: &crate::residency::Home| !machine.is_host(h.memory);
            fit.dealt.graph.weights()[id].rows > 1 && place(fit, id).is_none() && homes.iter().any(whole)
        };
        let all = homes.iter().all(|&m| !machine.is_host(m));
        Layers { head_on_card: all && fit.dealt.residency.weights.iter_ids().any(head), homes, names, host }
    }

    fn name(&self, memory: MemoryId) -> &str {
        self.names.get(&memory).map_or("CPU", String::as_str)
    }

    /// Accelerators' memories in order of the layers that they have, and how many these are; the head counts as one.
    fn split(&self, machine: &Machine) -> (Vec<MemoryId>, Vec<String>) {
        let mut runs: Vec<(MemoryId, usize)> = Vec::new();
        for &memory in self.homes.iter().filter(|&&m| !machine.is_host(m)) {
            match runs.iter_mut().find(|run| run.0 == memory) {
                Some(run) => run.1 += 1,
                None => runs.push((memory, 1)),
            }
        }
        if let (Some(last), true) = (runs.last_mut(), self.head_on_card) {
            last.1 += 1;
        }
        (runs.iter().map(|r| r.0).collect(), runs.iter().map(|r| r.1.to_string()).collect())
    }

    /// Tensors that do not stand whole with their layer: one flag for all kinds that leave the same layers for the same
    /// memory.
    fn overrides(&self, fit: &Fit, machine: &Machine) -> Vec<String> {
        let mut layers_of: BTreeMap<(&str, &str), BTreeSet<usize>> = BTreeMap::new();
        for (id, homes) in fit.dealt.residency.weights.iter_ids() {
            let Some((layer, kind)) = place(fit, id) else { continue };
            let whole = if homes.len() == 1 { homes[0].memory } else { self.host };
            let own = self.homes.get(layer).copied().unwrap_or(self.host);
            let both_host = machine.is_host(whole) && machine.is_host(own);
            if whole != own && !both_host {
                layers_of.entry((kind, self.name(whole))).or_default().insert(layer);
            }
        }
        let mut kinds_of: BTreeMap<(Vec<usize>, &str), Vec<&str>> = BTreeMap::new();
        for ((kind, target), layers) in layers_of {
            kinds_of.entry((layers.into_iter().collect(), target)).or_default().push(kind);
        }
        let pattern = |((layers, target), kinds): ((Vec<usize>, &str), Vec<&str>)| {
            let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
            let kinds = kinds.join("|").replace('.', "\\.");
            format!("-ot 'blk\\.({})\\.({kinds})={target}'", layers.join("|"))
        };
        kinds_of.into_iter().map(pattern).collect()
    }
}

/// The memory of a layer: of its cache if some of its matrices are there, or of most bytes of those.
fn home(fit: &Fit, layer: usize) -> Option<MemoryId> {
    let mut bytes: BTreeMap<MemoryId, u64> = BTreeMap::new();
    for (id, homes) in fit.dealt.residency.weights.iter_ids() {
        let weight = &fit.dealt.graph.weights()[id];
        if weight.count == 1 && weight.rows > 1 && place(fit, id).is_some_and(|(at, _)| at == layer) {
            *bytes.entry(homes.first()?.memory).or_default() += weight.bytes().0;
        }
    }
    let state = fit.dealt.graph.states().iter_ids().find(|(_, s)| s.layer as usize == layer);
    let cached = state.map(|(id, _)| fit.dealt.residency.states[id]).filter(|m| bytes.contains_key(m));
    cached.or_else(|| bytes.into_iter().max_by_key(|&(_, n)| n).map(|(m, _)| m))
}

/// The layer in a tensor's name, and what follows it.
fn place(fit: &Fit, id: WeightId) -> Option<(usize, &str)> {
    let (layer, kind) = fit.dealt.graph.weights()[id].name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, kind))
}
