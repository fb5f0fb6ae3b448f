//! Layers → rows of cells, one a family of ops, coloured and numbered by device; hatched where weights are streamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{COLOURS, markup};
use crate::device::DeviceId;
use crate::graph::{Family, NodeId};
use crate::inspect::Planned;

/// Families in the order in which a layer meets them.
const FAMILIES: [Family; 8] = [
    Family::Rows,
    Family::Norm,
    Family::MatMul,
    Family::Rope,
    Family::Cache,
    Family::Attention,
    Family::Elementwise,
    Family::Moe,
];

/// Nodes of a cell by device, and whether weights are streamed for them.
type Cell = BTreeMap<(DeviceId, bool), u32>;

/// The map and its legend.
pub(super) fn map(planned: &Planned<'_>, out: &mut String) {
    let streamed = streamed(planned);
    let mut rows: BTreeMap<Option<u32>, BTreeMap<Family, Cell>> = BTreeMap::new();
    for (id, node) in planned.graph.nodes() {
        let key = (planned.plan.placements[id].device, streamed.contains(&id));
        let cells = rows.entry(node.layer).or_default();
        *cells.entry(node.op.family()).or_default().entry(key).or_default() += 1;
    }
    let used: BTreeSet<Family> = rows.values().flat_map(|cells| cells.keys().copied()).collect();
    let families: Vec<Family> = FAMILIES.into_iter().filter(|f| used.contains(f)).collect();
    legend(planned, out);
    let _ = write!(out, "<div class=\"map\" style=\"--families:{}\">\n<b></b>", families.len());
    for family in &families {
        let _ = write!(out, "<b>{}</b>", family.name());
    }
    out.push('\n');
    let outside = rows.remove(&None);
    for (layer, cells) in rows.iter().filter_map(|(layer, cells)| Some(((*layer)?, cells))) {
        row(planned, &layer.to_string(), &families, cells, out);
    }
    if let Some(cells) = outside {
        row(planned, "other", &families, &cells, out);
    }
    out.push_str("</div>\n");
}

/// Nodes whose weights are streamed.
pub(super) fn streamed(planned: &Planned<'_>) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    for upload in planned.plan.uploads.iter() {
        let reads = |n: &&NodeId| planned.graph.node(**n).op.weight_operands().contains(&upload.slice.weight);
        found.extend(planned.plan.splits[upload.split].nodes.iter().filter(reads));
    }
    found
}

fn legend(planned: &Planned<'_>, out: &mut String) {
    out.push_str("<p class=\"legend\">");
    for (id, device) in planned.machine.devices.iter_ids() {
        let (number, name) = (id.0, markup(&device.name));
        let _ = write!(out, "<span><i class=\"d{}\">{number}</i> {name}</span> ", number as usize % COLOURS);
    }
    out.push_str("<span><i class=\"s\">&nbsp;</i> weights streamed</span></p>\n");
}

fn row(planned: &Planned<'_>, label: &str, families: &[Family], cells: &BTreeMap<Family, Cell>, out: &mut String) {
    let _ = write!(out, "<b>{label}</b>");
    for family in families {
        out.push_str("<span>");
        for (&(device, streamed), count) in cells.get(family).into_iter().flatten() {
            let class = if streamed { " s" } else { "" };
            let note = if streamed { ", streamed" } else { "" };
            let name = markup(&planned.machine.devices[device].name);
            let colour = device.0 as usize % COLOURS;
            let _ = write!(
                out,
                "<i class=\"d{colour}{class}\" style=\"flex:{count}\" title=\"{count} {} on {name}{note}\">{}</i>",
                family.name(),
                device.0
            );
        }
        out.push_str("</span>");
    }
    out.push('\n');
}
