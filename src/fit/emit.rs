//! A fit → a table, JSON, or the flags that make llama.cpp and ik_llama.cpp load the model that way. Pure.

use std::fmt::Write;

use serde_json::{Value as Json, json as object};

use super::Fit;
use crate::device::{Machine, MemoryId};
use crate::graph::{State, StateId, WeightId};
use crate::plan::MemoryUse;
use crate::residency::Home;
use crate::sim::Workload;
use crate::units::Bytes;

/// Devices with what they hold, then the predicted speeds.
pub fn table(fit: &Fit, machine: &Machine, workload: Workload) -> String {
    let mut out = String::new();
    let header = ["memory", "weights", "KV", "arenas", "rings", "reserve", "free"];
    let mut rows = vec![header.map(str::to_owned)];
    for (memory, spec) in machine.memories.iter_ids() {
        let MemoryUse { weights, states, arenas, rings } = fit.memories[memory];
        let parts = [weights, states, arenas, rings, spec.reserve, left(fit, machine, memory)].map(|b| b.to_string());
        let [weights, states, arenas, rings, reserve, free] = parts;
        rows.push([spec.name.clone(), weights, states, arenas, rings, reserve, free]);
    }
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    let (prompt, token) = speeds(fit, workload);
    let _ = writeln!(out, "predicted: prompt {prompt:.1} tokens/s, generation {token:.2} tokens/s");
    out
}

/// Tokens/s of the prompt and of generation.
fn speeds(fit: &Fit, workload: Workload) -> (f64, f64) {
    let rate = |tokens: f64, seconds: f64| if seconds > 0.0 { tokens / seconds } else { 0.0 };
    (rate(f64::from(workload.prompt.0), fit.prompt_time.seconds()), rate(1.0, fit.token_time.seconds()))
}

fn left(fit: &Fit, machine: &Machine, memory: MemoryId) -> Bytes {
    Bytes(machine.budget(memory).0.saturating_sub(fit.memories[memory].total().0))
}

/// One document: devices, the home of every weight, predicted speeds.
pub fn json(fit: &Fit, machine: &Machine, workload: Workload) -> String {
    let devices: Vec<Json> = machine
        .devices
        .iter()
        .map(|device| {
            let memory = device.memory;
            let MemoryUse { weights, states, arenas, rings } = fit.memories[memory];
            object!({
                "id": device.name, "uid": device.uid, "memory": machine.memories[memory].name,
                "weight_bytes": weights.0, "kv_bytes": states.0, "arena_bytes": arenas.0, "ring_bytes": rings.0,
                "reserve_bytes": machine.memories[memory].reserve.0 + device.overhead.0,
                "free_bytes": left(fit, machine, memory).0,
            })
        })
        .collect();
    let home = |h: &Home| object!({"memory": machine.memories[h.memory].name, "first": h.slice.range.start, "end": h.slice.range.end});
    let weights: Vec<Json> = fit
        .residency
        .weights
        .iter_ids()
        .map(|(id, homes)| {
            let weight = &fit.graph.weights()[id];
            object!({"name": weight.name, "count": weight.count, "homes": homes.iter().map(home).collect::<Vec<_>>()})
        })
        .collect();
    let (prompt, token) = speeds(fit, workload);
    let document = object!({
        "devices": devices,
        "weights": weights,
        "predicted": {"prompt_tokens_per_s": prompt, "generated_tokens_per_s": token},
    });
    format!("{document:#}\n")
}

/// `-ngl`, `-ts` and `-ot` as llama.cpp and ik_llama.cpp both read them. They place whole tensors: a stack of experts that is cut here stays in host
/// memory there, and so does the cache of a layer whose weights do.
pub fn flags(fit: &Fit, machine: &Machine) -> String {
    let layers = Layers::of(fit, machine);
    let on_devices = layers.memories.iter().filter(|m| **m != layers.host).count();
    let all = on_devices == layers.memories.len();
    let mut parts = vec![format!("-ngl {}", if all { on_devices + 1 } else { on_devices })];
    let split: Vec<String> = layers.order.iter().map(|m| layers.count(*m).to_string()).collect();
    if split.len() > 1 {
        parts.push(format!("-ts {}", split.join(",")));
    }
    let cached_by_host = |(id, state): (StateId, &State)| {
        let layer = layers.memories.get(state.layer as usize).copied().unwrap_or(layers.host);
        layer != layers.host && fit.residency.states[id] == layers.host
    };
    if fit.graph.states().iter_ids().any(cached_by_host) {
        parts.push("-nkvo".to_owned());
    }
    parts.extend(layers.overrides(fit));
    parts.join(" ")
}

/// Where the layers are, for flags.
struct Layers {
    memories: Vec<MemoryId>,
    /// Device memories in order of the layers that they have.
    order: Vec<MemoryId>,
    host: MemoryId,
}

impl Layers {
    fn of(fit: &Fit, machine: &Machine) -> Layers {
        let host = machine.memories.ids().find(|&m| machine.is_host(m)).unwrap_or(MemoryId(0));
        let count = fit.graph.states().iter().map(|s| s.layer as usize + 1).max().unwrap_or(0);
        let mut memories = vec![host; count];
        // A layer is where its first matrix is.
        for (id, homes) in fit.residency.weights.iter_ids().rev() {
            let weight = &fit.graph.weights()[id];
            let slot = layer_of(fit, id).and_then(|layer| memories.get_mut(layer));
            if let (Some(slot), 1, true) = (slot, weight.count, weight.rows > 1) {
                *slot = homes.first().map_or(host, |h| h.memory);
            }
        }
        let mut order: Vec<MemoryId> = Vec::new();
        for &memory in memories.iter().filter(|m| **m != host) {
            if !order.contains(&memory) {
                order.push(memory);
            }
        }
        Layers { memories, order, host }
    }

    fn count(&self, memory: MemoryId) -> usize {
        self.memories.iter().filter(|m| **m == memory).count()
    }

    /// Stacks that do not stand whole with their layer go to host memory, layers of one pattern together.
    fn overrides(&self, fit: &Fit) -> Option<String> {
        let mut layers: Vec<usize> = Vec::new();
        for (id, homes) in fit.residency.weights.iter_ids().filter(|(id, _)| fit.graph.weights()[*id].count > 1) {
            let Some(layer) = layer_of(fit, id) else { continue };
            let own = self.memories.get(layer).copied().unwrap_or(self.host);
            let whole = homes.len() == 1 && homes[0].memory == own;
            if own != self.host && !whole && !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        layers.sort_unstable();
        let names: Vec<String> = layers.iter().map(usize::to_string).collect();
        let pattern = format!("-ot 'blk\\.({})\\.ffn_(gate|up|down)_exps\\.weight=CPU'", names.join("|"));
        (!names.is_empty()).then_some(pattern)
    }
}

/// The layer in a tensor's name.
fn layer_of(fit: &Fit, id: WeightId) -> Option<usize> {
    let name = fit.graph.weights()[id].name.strip_prefix("blk.")?;
    name.split('.').next()?.parse().ok()
}
