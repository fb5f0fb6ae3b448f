//! A report → tables for people: the file, its metadata, its tensors, the graph one node a line, memory, what is unused.

use std::fmt::Write;

use super::cache::CachePages;
use super::{Report, Source, escape, one_line, reason, weight_type};
use crate::gguf::Value;
use crate::graph::Graph;
use crate::index::Id;
use crate::plan::{MemoryUse, Plan};
use crate::tensor::{DType, Shape};
use crate::units::Bytes;

/// The longest metadata value that is shown whole, in characters.
const VALUE_WIDTH: usize = 96;

/// All of a report.
pub fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    file(report, &mut out);
    metadata(report, &mut out);
    tensors(report, &mut out);
    match &report.graph {
        Ok(graph) => graph_part(report, graph, &mut out),
        Err(why) => line(&mut out, &format!("\nno graph: {}", escape(why))),
    }
    if !report.unused.is_empty() {
        line(&mut out, &format!("\nunused: {} tensors that no node reads", report.unused.len()));
        report.unused.iter().for_each(|name| line(&mut out, &format!("  {}", escape(name))));
    }
    if !report.notes.is_empty() {
        line(&mut out, "\nnotes:");
        report.notes.iter().for_each(|note| line(&mut out, &format!("  {}", escape(note))));
    }
    out
}

/// One node a line: name, family and weight type, device, reason. Without a plan the last two are `-`.
pub fn node_table(graph: &Graph, plan: Option<(&Plan, &crate::device::Machine)>) -> String {
    let rows = graph.nodes().map(|(id, node)| {
        let dtype = weight_type(graph, &node.op).map_or(String::new(), |t| format!(" {t}"));
        let work = format!("{}{dtype}", node.op.family().name());
        let (device, why) = match plan {
            Some((plan, machine)) => {
                let placed = plan.placements[id];
                (escape(&machine.devices[placed.device].name), reason(graph, placed.reason))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        [escape(&node.name), work, device, why]
    });
    table(&rows.collect::<Vec<_>>())
}

fn file(report: &Report<'_>, out: &mut String) {
    match report.source {
        Source::File(gguf) => {
            for (name, size) in gguf.shards() {
                line(out, &format!("file {} ({size})", escape(name)));
            }
            let bytes: Bytes = gguf.tensors().iter().map(|t| t.bytes).sum();
            let (version, alignment, count) = (gguf.version(), gguf.alignment(), gguf.tensors().len());
            line(out, &format!("GGUF v{version}, alignment {alignment}, {count} tensors of {bytes}"));
        }
        Source::Shape(shape) => {
            let (count, bytes) = (shape.tensors().len(), shape.bytes());
            line(out, &format!("shape file {}: {count} tensors of {bytes}, without their bytes", escape(shape.file())));
            shape.about().lines().for_each(|about| line(out, &format!("  {}", escape(about))));
        }
    }
}

fn metadata(report: &Report<'_>, out: &mut String) {
    let rows: Vec<[String; 3]> = match report.source {
        Source::File(gguf) => {
            let all = gguf.metadata().iter();
            all.map(|(key, value)| [escape(key), value.kind().name().to_owned(), short(&value)]).collect()
        }
        Source::Shape(shape) => {
            let all = shape.metadata().iter();
            all.map(|(key, value)| [escape(key), String::new(), cut(one_line(&value.to_json().to_string()))]).collect()
        }
    };
    line(out, &format!("\nmetadata: {} keys", rows.len()));
    out.push_str(&table(&rows));
}

fn tensors(report: &Report<'_>, out: &mut String) {
    line(out, "\ntensors:");
    let row = |name: &str, dtype: DType, shape: &Shape, bytes: Bytes| {
        let dims: Vec<String> = shape.dims().iter().map(u64::to_string).collect();
        [escape(name), dtype.name().to_owned(), dims.join(" x "), bytes.to_string()]
    };
    let rows: Vec<[String; 4]> = match report.source {
        Source::File(gguf) => gguf.tensors().iter().map(|t| row(&t.name, t.dtype, &t.shape, t.bytes)).collect(),
        Source::Shape(shape) => shape.tensors().iter().map(|t| row(&t.name, t.dtype, &t.shape, t.bytes())).collect(),
    };
    out.push_str(&table(&rows));
}

fn graph_part(report: &Report<'_>, graph: &Graph, out: &mut String) {
    let batch = graph.batch();
    let (nodes, tokens, outputs) = (graph.len(), batch.tokens, batch.outputs.0);
    line(out, &format!("\ngraph: {nodes} nodes for {tokens} and {outputs} rows of logits"));
    let plan = report.plan.as_ref().ok().map(|planned| (planned.plan, report.machine));
    out.push_str(&node_table(graph, plan));
    match &report.plan {
        Ok(planned) => {
            memory(report, planned.plan, out);
            line(out, &format!("  {}", CachePages::of(graph)));
        }
        Err(why) => line(out, &format!("\nno plan: {}", escape(why))),
    }
}

fn memory(report: &Report<'_>, plan: &Plan, out: &mut String) {
    line(out, &format!("\nplan: {} splits", plan.splits.len()));
    for (memory, used) in plan.memories.iter_ids() {
        let MemoryUse { weights, states, arenas, rings } = *used;
        let name = escape(&report.machine.memories[memory].name);
        let total = used.total();
        line(
            out,
            &format!("  {name}: allocated {total}: weights {weights}, cache {states}, arenas {arenas}, rings {rings}"),
        );
    }
    for (device, arena) in plan.arenas.iter_ids() {
        let scratch = plan.splits.iter().filter(|s| s.device == device).map(|s| s.scratch.len).max();
        let name = escape(&report.machine.devices[device].name);
        let nodes = plan.placements.iter().filter(|p| p.device.index() == device.index()).count();
        let scratch = scratch.unwrap_or_default();
        line(out, &format!("  {name}: {nodes} nodes, arena {}, of it scratch {scratch}", arena.bytes));
    }
}

/// At most [`VALUE_WIDTH`] characters of a value.
fn short(value: &Value<'_>) -> String {
    let escaped = match value {
        Value::Str(text) => escape(&text.chars().take(VALUE_WIDTH + 1).collect::<String>()),
        // Texts in arrays come out quoted and escaped.
        other => one_line(&other.to_string()),
    };
    cut(escaped)
}

fn cut(text: String) -> String {
    match text.char_indices().nth(VALUE_WIDTH) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// Rows in columns as wide as their widest cell, two spaces apart, nothing trailing. A cell of more than [`VALUE_WIDTH`]
/// characters pushes its own row only: one long name must not be padding in every row.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().take(VALUE_WIDTH).count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut text = " ".to_owned();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String does not fail.
            let _ = write!(text, " {cell:width$} ");
        }
        line(&mut out, text.trim_end());
    }
    out
}

pub(super) fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}
