//! Nodes → the page's data, from which its script makes a table to search and filter.

use std::fmt::Write;

use serde_json::{Value as Json, json as object};

use super::map::streamed;
use crate::inspect::escape::json_document;
use crate::inspect::words::in_words;
use crate::inspect::{Planned, escape, placement, reason, weight_type};
use crate::plan::{node_time, upload_bytes};
use crate::residency::part_bytes;
use crate::units::Bytes;

/// Fields to search by, an empty table and the data.
pub(super) fn nodes(planned: &Planned<'_>, out: &mut String) {
    out.push_str(
        "<form id=\"filter\" autocomplete=\"off\"><label>search <input id=\"search\" type=\"search\" \
         placeholder=\"name, op or reason\"></label> <label>device <select id=\"device\"><option value=\"\">all\
         </option></select></label> <label>reason <select id=\"reason\"><option value=\"\">all</option></select></label> \
         <label class=\"check\"><input id=\"streamed\" type=\"checkbox\"> streamed</label></form>\n\
         <p id=\"count\" role=\"status\"></p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"nodes\">\
         <table><thead><tr><th>node<th>op<th>device<th>reason<th>value<th>weights<th>time</tr></thead>\
         <tbody id=\"rows\"></tbody></table></div>\n<button id=\"more\" hidden>show all</button>\n\
         <noscript><p>The table of nodes needs JavaScript; nothing is loaded.</p></noscript>\n",
    );
    let data = data(planned).to_string();
    let _ = writeln!(out, "<script type=\"application/json\" id=\"data\">{}</script>", in_script(&data));
}

fn data(planned: &Planned<'_>) -> Json {
    let streamed = streamed(planned);
    let Planned { graph, homes, machine, policy, plan } = *planned;
    let devices: Vec<String> = machine.devices.iter().map(|d| escape(&d.name)).collect();
    let nodes = graph.nodes().map(|(id, node)| {
        let placed = plan.placements[id];
        let device = &machine.devices[placed.device];
        let dtype = weight_type(graph, &node.op).map_or(String::new(), |t| format!(" {t}"));
        let part = |w| part_bytes(&graph.weights()[w], &node.op.matrices(w, graph.weights()[w].count));
        let weights: Bytes = node.op.weight_operands().into_iter().map(part).sum();
        let brought = upload_bytes(graph, homes, policy, id, device.memory);
        object!([
            escape(&node.name),
            format!("{}{dtype}", node.op.family().name()),
            placed.device.0,
            placement::kind(placed.reason),
            reason(graph, placed.reason),
            graph.value_bytes(id).to_string(),
            weights.to_string(),
            node_time(graph, policy, id, device).to_string(),
            if streamed.contains(&id) { brought.to_string() } else { String::new() },
            in_words(planned, id),
        ])
    });
    object!({ "devices": devices, "nodes": nodes.collect::<Vec<_>>() })
}

/// JSON that no HTML parser takes for the end of its script, nor a terminal for a command.
fn in_script(json: &str) -> String {
    json_document(json).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
