//! A plan → a table that is read in reviews: a small model node by node, a large one by runs of layers that are placed
//! alike, both with reasons, splits, transfers, streamed weights and memory. Stable: equal plans give equal text.

use std::collections::BTreeMap;

use super::summary::summary;
use super::text::{line, node_table};
use super::{device_name, escape};
use crate::device::{DeviceId, Machine};
use crate::graph::Graph;
use crate::plan::{Plan, Reason, Rule};

/// A model of at most so many layers is shown node by node.
const FEW_LAYERS: u32 = 4;

/// The table.
pub fn placement_table(graph: &Graph, plan: &Plan, machine: &Machine) -> String {
    let mut out = String::new();
    let (batch, nodes) = (graph.batch(), graph.len());
    line(&mut out, &format!("{nodes} nodes for {} and {} rows of logits", batch.tokens, batch.outputs.0));
    if graph.nodes().filter_map(|(_, n)| n.layer).all(|layer| layer < FEW_LAYERS) {
        out.push_str(&node_table(graph, Some((plan, machine))));
    } else {
        layers(graph, plan, machine, &mut out);
        reasons(plan, &mut out);
    }
    summary(graph, plan, machine, &mut out);
    out
}

/// Which nodes of a layer each device has, by their names within the layer.
type Pattern = BTreeMap<DeviceId, Vec<String>>;

fn layers(graph: &Graph, plan: &Plan, machine: &Machine, out: &mut String) {
    let mut patterns: BTreeMap<Option<u32>, Pattern> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let on = patterns.entry(node.layer).or_default().entry(plan.placements[id].device).or_default();
        on.push(escape(within_layer(&node.name, node.layer)));
    }
    let outside = patterns.remove(&None);
    let mut runs: Vec<(u32, u32, Pattern)> = Vec::new();
    for (layer, pattern) in patterns.into_iter().filter_map(|(layer, p)| Some((layer?, p))) {
        match runs.last_mut() {
            Some((_, last, same)) if *same == pattern && last.checked_add(1) == Some(layer) => *last = layer,
            Some(_) | None => runs.push((layer, layer, pattern)),
        }
    }
    for (first, last, pattern) in runs {
        let range = if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
        shown(&range, &pattern, machine, out);
    }
    if let Some(pattern) = outside {
        for (&device, nodes) in &pattern {
            line(out, &format!("outside of layers: {}: {}", device_name(machine, device), nodes.join(" ")));
        }
    }
}

/// The device with the most nodes of a layer has `the rest`, all others are listed.
fn shown(range: &str, pattern: &Pattern, machine: &Machine, out: &mut String) {
    let most = pattern.iter().max_by_key(|(d, nodes)| (nodes.len(), std::cmp::Reverse(**d))).map(|(&d, _)| d);
    for (&device, nodes) in pattern {
        let name = device_name(machine, device);
        let what = match (Some(device) == most, pattern.len()) {
            (true, 1) => format!("all {} nodes", nodes.len()),
            (true, _) => format!("the other {} nodes", nodes.len()),
            (false, _) => parts(nodes),
        };
        line(out, &format!("{range}: {name}: {what}"));
    }
}

/// `attn_q (ffn_up_exps ffn_down_exps)[2..64]`: neighbours that are of one run of experts name it once.
fn parts(nodes: &[String]) -> String {
    let run = |node: &String| node.rfind('[').unwrap_or(node.len());
    let groups = nodes.chunk_by(|a, b| a[run(a)..] == b[run(b)..]);
    let shown = groups.map(|group| {
        let names: Vec<&str> = group.iter().map(|node| &node[..run(node)]).collect();
        match &group[0][run(&group[0])..] {
            "" => names.join(" "),
            run => format!("({}){run}", names.join(" ")),
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// `ffn_down` of `blk.3.ffn_down`.
pub(super) fn within_layer(name: &str, layer: Option<u32>) -> &str {
    let Some(layer) = layer else { return name };
    name.strip_prefix(&format!("blk.{layer}.")).unwrap_or(name)
}

fn reasons(plan: &Plan, out: &mut String) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    plan.placements.iter().for_each(|p| *counts.entry(kind(p.reason)).or_default() += 1);
    let parts: Vec<String> = counts.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    line(out, &format!("reasons: {}", parts.join(", ")));
}

/// A reason without what differs from layer to layer.
pub(super) fn kind(reason: Reason) -> String {
    match reason {
        Reason::WeightHome(_) => "weight-home".to_owned(),
        Reason::StateHome(_) => "state-home".to_owned(),
        Reason::Offloaded { weight: _, rule } => format!("offloaded {}", rule_kind(rule)),
        Reason::Stays { weight: _, accelerator: _, rule } => format!("stays {}", rule_kind(rule)),
        Reason::Lane(_) => "lane".to_owned(),
        Reason::FollowsInput(_) => "follows-input".to_owned(),
        Reason::FollowsUser(_) => "follows-user".to_owned(),
        Reason::FirstDevice => "first-device".to_owned(),
    }
}

fn rule_kind(rule: Rule) -> String {
    match rule {
        Rule::Never | Rule::Threshold { .. } | Rule::NoKernel => super::by(rule),
        Rule::Priced(_) => "by price".to_owned(),
    }
}
