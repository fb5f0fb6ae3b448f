//! A report's graph → a Graphviz document: one box a node, one arrow a value, a colour a family, a cluster a layer.

use std::fmt::Write;

use super::{Report, escape, weight_type};
use crate::graph::{Family, Graph, NodeId};

/// The graph as DOT; without a graph, a document that holds the reason.
pub fn dot(report: &Report<'_>) -> String {
    let mut out =
        "digraph model {\n  rankdir=TB;\n  node [shape=box, style=filled, fontname=\"monospace\"];\n".to_owned();
    // Writing to a String does not fail.
    match &report.graph {
        Ok(graph) => nodes(report, graph, &mut out),
        Err(why) => drop(writeln!(out, "  none [label={}];", quoted(why))),
    }
    out.push_str("}\n");
    out
}

fn nodes(report: &Report<'_>, graph: &Graph, out: &mut String) {
    let mut layer = None;
    for (id, node) in graph.nodes() {
        if node.layer != layer {
            if layer.is_some() {
                out.push_str("  }\n");
            }
            if let Some(n) = node.layer {
                let _ = writeln!(out, "  subgraph cluster_{n} {{\n    label=\"layer {n}\";");
            }
            layer = node.layer;
        }
        let label = label(report, graph, id);
        let colour = colour(node.op.family());
        let _ = writeln!(out, "  {id} [label={}, fillcolor=\"{colour}\"];", quoted(&label));
    }
    if layer.is_some() {
        out.push_str("  }\n");
    }
    for (id, node) in graph.nodes() {
        for from in node.op.node_operands() {
            let _ = writeln!(out, "  {from} -> {id};");
        }
    }
}

fn label(report: &Report<'_>, graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let dtype = weight_type(graph, &node.op).map_or(String::new(), |t| format!(" {t}"));
    let device = match &report.plan {
        Ok(planned) => format!("\n{}", planned.device(planned.plan.placements[id].device)),
        Err(_) => String::new(),
    };
    format!("{}\n{}{dtype}{device}", escape(&node.name), node.op.family().name())
}

fn colour(family: Family) -> &'static str {
    match family {
        Family::Rows => "#e8e8e8",
        Family::Norm => "#fff3bf",
        Family::MatMul => "#d0ebff",
        Family::Rope => "#e5dbff",
        Family::Cache => "#ffe8cc",
        Family::Attention => "#d3f9d8",
        Family::Elementwise => "#f1f3f5",
        Family::Moe => "#ffdeeb",
    }
}

/// A quoted DOT string; newlines become line breaks of the label, everything dangerous is escaped.
fn quoted(text: &str) -> String {
    let lines: Vec<String> =
        text.lines().map(|l| super::one_line(l).replace('\\', "\\\\").replace('"', "\\\"")).collect();
    format!("\"{}\"", lines.join("\\n"))
}
