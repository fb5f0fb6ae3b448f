//! A fit → a table or JSON. Pure.

use std::fmt::Write;

use serde_json::{Value as Json, json as object};

use super::{DecodePhase, Fit};
use crate::device::{DeviceSpec, Machine, MemoryId};
use crate::graph::{State, WeightId};
use crate::index::IndexVec;
use crate::plan::MemoryUse;
use crate::residency::{Home, Residency};
use crate::units::{Bytes, Workload};

type Uses = IndexVec<MemoryId, MemoryUse>;

/// Devices with what they hold, in both phases where these differ, then the predicted speeds.
pub fn table(fit: &Fit, machine: &Machine, workload: Workload) -> String {
    let mut out = memories(&fit.memories, machine);
    if let Some(phase) = &fit.decode_phase {
        let brought: Bytes = phase.brought.iter().copied().sum();
        let _ = writeln!(out, "behind the prompt {brought} of weights are brought in {}:", phase.bring_time);
        out += &memories(&phase.memories, machine);
    }
    let _ = writeln!(out, "context: {}, steps of at most {}", fit.context(), fit.ubatch());
    if let [first, others @ ..] = fit.whole.as_slice() {
        let more = if others.is_empty() { String::new() } else { format!(", and {} others", others.len()) };
        let _ = writeln!(out, "not cut: {}: {}{more}", first.node, first.why);
    }
    let (prompt, token) = speeds(fit, workload);
    let _ = writeln!(out, "predicted: prompt {prompt:.1} tokens/s, generation {token:.2} tokens/s");
    out
}

fn memories(uses: &Uses, machine: &Machine) -> String {
    let header = ["memory", "weights", "KV", "arenas", "rings", "reserve", "free"];
    let mut rows = vec![header.map(str::to_owned)];
    for (memory, spec) in machine.memories.iter_ids() {
        let MemoryUse { weights, states, arenas, rings } = uses[memory];
        let parts = [weights, states, arenas, rings, spec.reserve, left(uses, machine, memory)].map(|b| b.to_string());
        let [weights, states, arenas, rings, reserve, free] = parts;
        rows.push([spec.name.clone(), weights, states, arenas, rings, reserve, free]);
    }
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

/// Tokens/s of the prompt and of generation.
fn speeds(fit: &Fit, workload: Workload) -> (f64, f64) {
    let rate = |tokens: f64, seconds: f64| if seconds > 0.0 { tokens / seconds } else { 0.0 };
    let token = fit.decode_phase.as_ref().map_or(fit.token_time, |phase| phase.token_time);
    (rate(f64::from(workload.prompt.0), fit.prompt_time.seconds()), rate(1.0, token.seconds()))
}

fn left(uses: &Uses, machine: &Machine, memory: MemoryId) -> Bytes {
    machine.budget(memory).saturating_sub(uses[memory].total())
}

/// One document: devices, the home of every weight and cache, what decode has otherwise, predicted speeds.
pub fn json(fit: &Fit, machine: &Machine, workload: Workload) -> String {
    let (prompt, token) = speeds(fit, workload);
    let document = object!({
        "devices": devices(&fit.memories, machine),
        "weights": weights(fit, machine, |_| true, &fit.residency),
        "caches": caches(fit, machine),
        "decode_phase": fit.decode_phase.as_ref().map(|phase| decode_phase(fit, phase, machine)),
        "not_cut": fit.whole.iter().map(|w| object!({"node": w.node, "why": w.why})).collect::<Vec<_>>(),
        "context_tokens": fit.context().0,
        "ubatch_tokens": fit.ubatch().0,
        "predicted": {"prompt_tokens_per_s": prompt, "generated_tokens_per_s": token},
    });
    format!("{document:#}\n")
}

fn devices(uses: &Uses, machine: &Machine) -> Vec<Json> {
    let device = |device: &DeviceSpec| {
        let memory = device.memory;
        let MemoryUse { weights, states, arenas, rings } = uses[memory];
        object!({
            "id": device.name, "uid": device.uid, "memory": machine.memories[memory].name,
            "weight_bytes": weights.0, "kv_bytes": states.0, "arena_bytes": arenas.0, "ring_bytes": rings.0,
            "reserve_bytes": machine.memories[memory].reserve.0 + device.overhead.0,
            "free_bytes": left(uses, machine, memory).0,
        })
    };
    machine.devices.iter().map(device).collect()
}

/// The homes of the weights for which `shown` holds.
fn weights(fit: &Fit, machine: &Machine, shown: impl Fn(WeightId) -> bool, homes: &Residency) -> Vec<Json> {
    let home = |h: &Home| object!({"memory": machine.memories[h.memory].name, "first": h.slice.range.start, "end": h.slice.range.end});
    let weight = |(id, homes): (_, &Vec<Home>)| {
        let weight = &fit.graph.weights()[id];
        let homes: Vec<Json> = homes.iter().map(home).collect();
        let mut shown = object!({"name": weight.name, "count": weight.count, "homes": homes});
        if let Some(part) = &weight.part {
            shown["part"] = object!({"tensor": part.tensor, "first": part.first, "shape": [weight.count, weight.rows, weight.cols]});
        }
        shown
    };
    homes.weights.iter_ids().filter(|&(id, _)| shown(id)).map(weight).collect()
}

fn caches(fit: &Fit, machine: &Machine) -> Vec<Json> {
    let cache = |(id, state): (_, &State)| {
        let memory = &machine.memories[fit.residency.states[id]].name;
        object!({"name": state.name, "layer": state.layer, "memory": memory})
    };
    fit.graph.states().iter_ids().map(cache).collect()
}

/// Devices, and the weights that have other homes than in the prompt.
fn decode_phase(fit: &Fit, phase: &DecodePhase, machine: &Machine) -> Json {
    let moved = |id| phase.residency.weights[id] != fit.residency.weights[id];
    let brought: Bytes = phase.brought.iter().copied().sum();
    object!({
        "devices": devices(&phase.memories, machine),
        "weights": weights(fit, machine, moved, &phase.residency),
        "brought_bytes": brought.0,
        "bring_seconds": phase.bring_time.seconds(),
    })
}
