//! Two plans → what differs: nodes that moved, in runs of layers, with the reason of the second plan; bytes a memory,
//! splits, values that cross, streamed bytes and predicted time. Nodes are matched by name.

use std::collections::BTreeMap;

use serde::Serialize;

use super::escape::json_document;
use super::placement::{kind, within_layer};
use super::text::{line, table};
use super::{Planned, by, escape};
use crate::graph::NodeId;
use crate::plan::{Reason, Rule};
use crate::units::{Bytes, Nanos};

/// What differs between two plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Whether nothing does: same nodes, devices, reasons, sizes and offsets.
    pub equal: bool,
    /// Nodes on another device, or that only one of the graphs has.
    pub moved: Vec<Move>,
    /// Nodes on the same device for another reason.
    pub reasons: Vec<Move>,
    /// Bytes of each memory that either machine has.
    pub memories: Vec<MemoryChange>,
    /// Totals of the first plan.
    pub before: Totals,
    /// Totals of the second plan.
    pub after: Totals,
}

/// Nodes that moved alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Their names; layers as ranges: `blk.3-17.ffn_down`.
    pub nodes: String,
    /// How many.
    pub count: usize,
    /// The device before; none for nodes that only the second graph has.
    pub from: Option<String>,
    /// The device after; none for nodes that only the first graph has.
    pub to: Option<String>,
    /// Why they are where they are in the second plan.
    pub why: String,
}

/// A memory of this name in both plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryChange {
    /// The name.
    pub memory: String,
    /// Bytes before; none where the machine has no such memory.
    pub before: Option<Bytes>,
    /// Bytes after.
    pub after: Option<Bytes>,
}

/// A plan in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Tokens of the step.
    pub tokens: u32,
    /// Splits.
    pub splits: usize,
    /// Values that cross.
    pub transfers: usize,
    /// Their bytes.
    pub transferred: Bytes,
    /// Parts of weights that are streamed.
    pub uploads: usize,
    /// Their bytes.
    pub streamed: Bytes,
    /// Predicted time of a step.
    pub time: Nanos,
}

/// Compares two plans.
pub fn diff(before: &Planned<'_>, after: &Planned<'_>) -> Diff {
    let (moved, reasons) = moves(before, after);
    let memories = memories(before, after);
    let machines = before.machine.devices.iter().map(|d| &d.name).eq(after.machine.devices.iter().map(|d| &d.name));
    let same_memories = memories.iter().all(|m| m.before == m.after);
    let equal = moved.is_empty() && reasons.is_empty() && same_memories && machines && before.plan == after.plan;
    Diff { equal, moved, reasons, memories, before: totals(before), after: totals(after) }
}

fn totals(planned: &Planned<'_>) -> Totals {
    let plan = planned.plan;
    Totals {
        tokens: plan.batch.tokens.0,
        splits: plan.splits.len(),
        transfers: plan.transfers.len(),
        transferred: plan.transfers.iter().map(|t| t.span.len).sum(),
        uploads: plan.uploads.len(),
        streamed: plan.uploads.iter().map(|u| u.span.len).sum(),
        time: planned.timeline().end(),
    }
}

fn memories(before: &Planned<'_>, after: &Planned<'_>) -> Vec<MemoryChange> {
    let sizes = |planned: &Planned<'_>| -> Vec<(String, Bytes)> {
        planned.plan.memories.iter_ids().map(|(id, used)| (planned.memory(id), used.total())).collect()
    };
    let (old, new) = (sizes(before), sizes(after));
    let find = |sizes: &[(String, Bytes)], name: &str| sizes.iter().find(|(n, _)| n == name).map(|(_, bytes)| *bytes);
    let only_new = new.iter().filter(|(name, _)| find(&old, name).is_none());
    let names = old.iter().chain(only_new).map(|(name, _)| name);
    let change =
        |name: &String| MemoryChange { memory: name.clone(), before: find(&old, name), after: find(&new, name) };
    names.map(change).collect()
}

/// Nodes of one group: same name within the layer, devices and reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    from: Option<String>,
    to: Option<String>,
    name: String,
    in_layer: bool,
    why: String,
}

/// The nodes of a group: when it was first met, their layers, and the first one's quantities.
struct Group {
    first: usize,
    layers: Vec<u32>,
    count: usize,
    quantities: Option<String>,
}

/// Nodes that moved or are in one graph alone; nodes that stay for another reason.
fn moves(before: &Planned<'_>, after: &Planned<'_>) -> (Vec<Move>, Vec<Move>) {
    let old: BTreeMap<&str, NodeId> = before.graph.nodes().map(|(id, n)| (n.name.as_str(), id)).collect();
    let new: BTreeMap<&str, NodeId> = after.graph.nodes().map(|(id, n)| (n.name.as_str(), id)).collect();
    let (mut moved, mut reasons) = (Groups::default(), Groups::default());
    for (id, node) in after.graph.nodes() {
        let to = after.device(after.plan.placements[id].device);
        match old.get(node.name.as_str()) {
            None => moved.add(after, id, None, Some(to)),
            Some(&was) => {
                let from = before.device(before.plan.placements[was].device);
                if from != to {
                    moved.add(after, id, Some(from), Some(to));
                } else if said(before, was) != said(after, id) {
                    reasons.add(after, id, Some(from), Some(to));
                }
            }
        }
    }
    for (id, _) in before.graph.nodes().filter(|(_, n)| !new.contains_key(n.name.as_str())) {
        let from = before.device(before.plan.placements[id].device);
        moved.add(before, id, Some(from), None);
    }
    (moved.finish(), reasons.finish())
}

/// What makes a reason the same in both plans: its kind, and what is followed.
fn said(planned: &Planned<'_>, id: NodeId) -> String {
    let reason = planned.plan.placements[id].reason;
    match reason {
        Reason::FollowsInput(n) | Reason::FollowsUser(n) => {
            let node = planned.graph.node(n);
            format!("{} {}", kind(reason), escape(within_layer(&node.name, node.layer)))
        }
        Reason::WeightHome(_) | Reason::StateHome(_) | Reason::Lane(_) | Reason::FirstDevice => kind(reason),
        Reason::Offloaded { .. } | Reason::Stays { .. } => kind(reason),
    }
}

/// The quantities of this one node, where a reason has any that differ between nodes.
fn quantities(reason: Reason) -> Option<String> {
    match reason {
        Reason::Offloaded { weight: _, rule } | Reason::Stays { weight: _, accelerator: _, rule } => match rule {
            Rule::Priced(_) => Some(by(rule)),
            Rule::Never | Rule::Threshold { .. } | Rule::NoKernel => None,
        },
        Reason::FollowsInput(_) | Reason::FollowsUser(_) => None,
        Reason::WeightHome(_) | Reason::StateHome(_) | Reason::Lane(_) | Reason::FirstDevice => None,
    }
}

#[derive(Default)]
struct Groups {
    groups: BTreeMap<Key, Group>,
    met: usize,
}

impl Groups {
    fn add(&mut self, planned: &Planned<'_>, id: NodeId, from: Option<String>, to: Option<String>) {
        let node = planned.graph.node(id);
        let name = escape(within_layer(&node.name, node.layer));
        let in_layer = node.layer.is_some() && name != escape(&node.name);
        let key = Key { from, to, name, in_layer, why: said(planned, id) };
        let (first, quantities) = (self.met, quantities(planned.plan.placements[id].reason));
        let group = self.groups.entry(key).or_insert(Group { first, layers: Vec::new(), count: 0, quantities });
        group.count += 1;
        group.layers.extend(node.layer.filter(|_| in_layer));
        self.met += 1;
    }

    fn finish(self) -> Vec<Move> {
        let mut groups: Vec<(Key, Group)> = self.groups.into_iter().collect();
        groups.sort_by_key(|(_, group)| group.first);
        let shown = |(key, group): (Key, Group)| {
            let example = if key.in_layer { format!("blk.{}: ", group.layers[0]) } else { String::new() };
            Move {
                nodes: if key.in_layer { format!("blk.{}.{}", ranges(&group.layers), key.name) } else { key.name },
                count: group.count,
                from: key.from,
                to: key.to,
                why: group.quantities.map_or(key.why.clone(), |q| format!("{} ({example}{q})", key.why)),
            }
        };
        groups.into_iter().map(shown).collect()
    }
}

/// `3-17,20` of ascending layers.
fn ranges(layers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some((_, last)) if layer <= *last => {}
            Some((_, last)) if last.checked_add(1) == Some(layer) => *last = layer,
            Some(_) | None => runs.push((layer, layer)),
        }
    }
    let shown = |&(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    runs.iter().map(shown).collect::<Vec<_>>().join(",")
}

impl Diff {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        if self.equal {
            line(&mut out, "the plans are equal");
        } else if self.moved.is_empty() {
            line(&mut out, "no node moved");
        } else {
            let count: usize = self.moved.iter().map(|m| m.count).sum();
            line(&mut out, &format!("moved: {count} nodes"));
            self.moved.iter().for_each(|m| line(&mut out, &format!("  {}", m.shown())));
        }
        if !self.reasons.is_empty() {
            let count: usize = self.reasons.iter().map(|m| m.count).sum();
            line(&mut out, &format!("same device, other reason: {count} nodes"));
            self.reasons.iter().for_each(|m| line(&mut out, &format!("  {}", m.shown())));
        }
        line(&mut out, "memory:");
        let bytes = |bytes: Option<Bytes>| bytes.map_or("-".to_owned(), |b| b.to_string());
        let rows = self.memories.iter().map(|m| {
            let change = if m.before == m.after { "the same".to_owned() } else { difference(m.before, m.after) };
            [m.memory.clone(), bytes(m.before), "->".to_owned(), bytes(m.after), change]
        });
        out.push_str(&table(&rows.collect::<Vec<_>>()));
        line(&mut out, "plan:");
        out.push_str(&table(&self.totals()));
        out
    }

    fn totals(&self) -> [[String; 4]; 5] {
        let (a, b) = (&self.before, &self.after);
        let row = |name: &str, before: String, after: String| [name.to_owned(), before, "->".to_owned(), after];
        [
            row("tokens", a.tokens.to_string(), b.tokens.to_string()),
            row("splits", a.splits.to_string(), b.splits.to_string()),
            row(
                "transfers",
                format!("{} of {}", a.transfers, a.transferred),
                format!("{} of {}", b.transfers, b.transferred),
            ),
            row("streamed", format!("{} of {}", a.uploads, a.streamed), format!("{} of {}", b.uploads, b.streamed)),
            row("predicted time", a.time.to_string(), b.time.to_string()),
        ]
    }

    /// As one JSON document, sizes in bytes and times in nanoseconds.
    pub fn to_json(&self) -> String {
        let document = serde_json::to_value(self).unwrap_or_default();
        json_document(&format!("{document:#}\n"))
    }
}

impl Move {
    fn shown(&self) -> String {
        let Move { nodes, count: _, from, to, why } = self;
        match (from, to) {
            (Some(from), Some(to)) if from == to => format!("{nodes}: {why}"),
            (Some(from), Some(to)) => format!("{nodes}: {from} -> {to}, {why}"),
            (Some(from), None) => format!("{nodes}: only in the first plan, on {from}, {why}"),
            (None, Some(to)) => format!("{nodes}: only in the second plan, on {to}, {why}"),
            (None, None) => format!("{nodes}: {why}"),
        }
    }
}

fn difference(before: Option<Bytes>, after: Option<Bytes>) -> String {
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    if after > before { format!("+{}", after - before) } else { format!("-{}", before - after) }
}
