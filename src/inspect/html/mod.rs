//! A report → one HTML page that needs nothing else: totals, a map of layers by device, the step in virtual time, memory
//! over time, and a table of nodes to search. Names from files are escaped for text and attributes, and in the page's data
//! so that no name ends the script; the page forbids itself the network.

mod chart;
mod frame;
mod map;
mod nodes;

use std::fmt::Write;

use super::{Planned, Report, Source};
use crate::plan::MemoryUse;
use crate::units::Bytes;

pub use self::frame::{Page, markup, page};

const SCRIPT: &str = include_str!("page.js");

/// Colours for devices; with more of them, the number in each cell tells them apart.
const COLOURS: usize = 8;

/// The page; a part that could not be made is there as the reason why.
pub fn html(report: &Report<'_>) -> String {
    let title = title(report);
    let mut body = format!("<header><h1>{title}</h1>\n");
    let mut script = None;
    match (&report.graph, &report.plan) {
        (Ok(_), Ok(planned)) => {
            sections(planned, &mut body);
            script = Some(SCRIPT);
        }
        (Err(why), _) => missing("no graph", why, &mut body),
        (Ok(_), Err(why)) => missing("no plan", why, &mut body),
    }
    page(&Page { title: &title, style: "", body: &body, script })
}

fn title(report: &Report<'_>) -> String {
    let name = match report.source {
        Source::File(gguf) => gguf.shards().next().map_or(String::new(), |(name, _)| name.to_owned()),
        Source::Shape(shape) => shape.file().to_owned(),
    };
    markup(&name)
}

fn missing(what: &str, why: &str, out: &mut String) {
    let _ = writeln!(out, "<p>{what}: {}</p></header>", markup(why));
}

fn sections(planned: &Planned<'_>, out: &mut String) {
    let timeline = planned.timeline();
    totals(planned, timeline.end(), out);
    out.push_str("</header>\n<main>\n<section><h2>Layers</h2>\n");
    map::map(planned, out);
    out.push_str("</section>\n<section><h2>One step in virtual time</h2>\n");
    chart::lanes(planned, &timeline, out);
    out.push_str("</section>\n<section><h2>Arena and ring over time</h2>\n");
    chart::memory(planned, &timeline, out);
    out.push_str("</section>\n<section><h2>Nodes</h2>\n");
    nodes::nodes(planned, out);
    out.push_str("</section>\n</main>\n");
}

fn totals(planned: &Planned<'_>, time: crate::units::Nanos, out: &mut String) {
    let plan = planned.plan;
    let batch = plan.batch;
    let moved: Bytes = plan.transfers.iter().map(|t| t.span.len).sum();
    let streamed: Bytes = plan.uploads.iter().map(|u| u.span.len).sum();
    let cards = [
        ("step", format!("{}, {} rows of logits", batch.tokens, batch.outputs.0)),
        ("predicted time", time.to_string()),
        ("nodes", planned.graph.len().to_string()),
        ("splits", plan.splits.len().to_string()),
        ("values that cross", format!("{} of {moved}", plan.transfers.len())),
        ("weights streamed", format!("{} of {streamed}", plan.uploads.len())),
    ];
    out.push_str("<dl class=\"cards\">\n");
    for (name, value) in cards {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    out.push_str("</dl>\n<dl class=\"memories\">\n");
    for (id, used) in plan.memories.iter_ids() {
        let budget = planned.machine.budget(id);
        let MemoryUse { weights, states, arenas, rings } = *used;
        let part = |bytes: Bytes| 100.0 * bytes.0 as f64 / budget.0.max(1) as f64;
        let _ = writeln!(out, "<div><dt>{}</dt><dd>{} of {budget}", markup(planned.memory_raw(id)), used.total());
        out.push_str("<div class=\"bar\" aria-hidden=\"true\">");
        for (class, bytes) in [("w", weights), ("c", states), ("a", arenas), ("r", rings)] {
            let _ = write!(out, "<i class=\"{class}\" style=\"width:{:.2}%\"></i>", part(bytes));
        }
        let _ = writeln!(
            out,
            "</div><small>weights {weights} · cache {states} · arenas {arenas} · rings {rings}</small></dd></div>"
        );
    }
    out.push_str("</dl>\n");
}

impl Planned<'_> {
    fn memory_raw(&self, id: crate::device::MemoryId) -> &str {
        &self.machine.memories[id].name
    }
}
