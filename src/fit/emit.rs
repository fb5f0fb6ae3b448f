//! A fit → a table or JSON. Pure.

use std::fmt::Write;

use serde_json::{Value as Json, json as object};

use super::Fit;
use crate::device::{Machine, MemoryId};
use crate::plan::MemoryUse;
use crate::residency::Home;
use crate::units::{Bytes, Workload};

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
