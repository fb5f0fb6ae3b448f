//! The latest row of every combination as a table, what did not run, and the files that are no records.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::per_second;
use super::series::{Group, Measured, all_settings};
use crate::bench::record::Settings;
use crate::inspect::markup;
use crate::units::{Bytes, Nanos};

/// Rows that are shown; more would make a page that no browser likes.
const MOST_ROWS: usize = 2000;

type Groups<'a> = BTreeMap<Group, BTreeMap<Settings, Measured<'a>>>;

const HEAD: &str = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"rows\"><table><thead><tr><th>model\
<th>test<th>devices<th>settings<th>tokens/s<th>predicted<th>step<th>memory<th>plan<th>commit</tr></thead><tbody>\n";

/// What ran.
pub(super) fn rows(groups: &Groups<'_>, out: &mut String) {
    out.push_str("<section><h2>Rows</h2>\n<p>Medians, with the median absolute deviation.</p>\n");
    out.push_str(HEAD);
    let ran = || groups.values().flat_map(BTreeMap::values).filter(|found| found.row.rate().is_some());
    ran().take(MOST_ROWS).for_each(|found| row(*found, out));
    out.push_str("</tbody></table></div>\n");
    if let more @ 1.. = ran().count().saturating_sub(MOST_ROWS) {
        let _ = writeln!(out, "<p>{more} more rows are left out.</p>");
    }
    out.push_str("</section>\n");
}

fn row(found: Measured<'_>, out: &mut String) {
    let Measured { record, row } = found;
    let (Some(spread), settings) = (row.spread(), &row.settings) else { return };
    let deviation = 100.0 * spread.mad as f64 / spread.median.max(1) as f64;
    let step = Nanos(spread.median / u64::from(row.foresight.n_steps.max(1)));
    let memory = row.memories.iter().fold(0u64, |sum, memory| sum.saturating_add(memory.allocated.unwrap_or(0)));
    let plan = row.foresight.plan.as_deref().unwrap_or("").trim_start_matches("xxh64 ");
    let cells = [
        ("", row.model.model_type.clone()),
        ("", settings.test()),
        ("devices", settings.devices.clone()),
        ("settings", all_settings(settings)),
        ("tokens/s", format!("{} ± {deviation:.1} %", per_second(spread.rate(settings.tokens())))),
        ("predicted", row.predicted_rate().map_or_else(String::new, per_second)),
        ("step", step.to_string()),
        ("memory", Bytes(memory).to_string()),
        ("plan", plan.chars().take(8).collect()),
        ("commit", record.commit.chars().take(10).collect()),
    ];
    out.push_str("<tr>");
    for (name, cell) in cells {
        let name = if name.is_empty() { String::new() } else { format!(" data-name=\"{name}\"") };
        let _ = write!(out, "<td{name}>{}</td>", markup(&cell));
    }
    out.push_str("</tr>\n");
}

/// What did not, and why.
pub(super) fn not_run(groups: &Groups<'_>, out: &mut String) {
    let all = groups.values().flat_map(BTreeMap::values);
    let why = all.filter_map(|found| Some((found.row, found.row.not_run.as_ref()?)));
    let items = why.map(|(row, why)| {
        let (settings, test) = (all_settings(&row.settings), row.settings.test());
        format!("{} {test} on {}, {settings}: {why}", row.model.model_type, row.settings.devices)
    });
    list("Did not run", items, out);
}

/// Files that are no records.
pub(super) fn left_out(files: &[(String, String)], out: &mut String) {
    list("Files left out", files.iter().map(|(file, why)| format!("{file}: {why}")), out);
}

fn list(title: &str, items: impl Iterator<Item = String>, out: &mut String) {
    let mut items = items.take(MOST_ROWS).peekable();
    if items.peek().is_none() {
        return;
    }
    let _ = writeln!(out, "<section><h2>{title}</h2>\n<ul>");
    items.for_each(|item| _ = writeln!(out, "<li>{}</li>", markup(&item)));
    out.push_str("</ul></section>\n");
}
