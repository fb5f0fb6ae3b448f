//! Records → one HTML page that needs nothing else: speed by backend, time by family, plan against reality, history by
//! commit, and all rows as a table. Text from records is escaped; equal records give equal bytes, in whatever order.

mod chart;
mod series;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use self::chart::{Bar, Line, Point, Powers, against, bars, lines};
use self::series::{Colours, Group, Measured, histories, in_time, labels, latest};
use super::families::DeviceTime;
use super::record::{Record, Row, Settings};
use super::spread::rate;
use crate::inspect::{Page, escape, markup, page};
use crate::units::{Bytes, Nanos};

/// What a page is made of.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// Records, with the names of their files.
    pub records: Vec<(String, Record<Row>)>,
    /// Files that are no such records, and why.
    pub left_out: Vec<(String, String)>,
}

/// Charts of a section; more are in the table alone.
const MOST_CHARTS: usize = 24;
/// Bars of a chart.
const MOST_BARS: usize = 16;
/// Lines of a chart: each has a colour of its own.
const MOST_LINES: usize = chart::COLOURS.len();
/// Dots of a chart, which are the latest.
const MOST_DOTS: usize = 2000;

/// The page.
pub fn report(reported: &Reported) -> String {
    let rows = in_time(&reported.records);
    let colours = Colours::of(&rows);
    let mut body = "<header><h1>Measurements</h1>\n".to_owned();
    cards(reported, &rows, &mut body);
    body.push_str("</header>\n<main>\n");
    let sections = [
        ("Speed by backend", SPEED, speed(&rows, &colours)),
        ("Time by family", FAMILIES, families(&reported.records)),
        ("Plan against reality", PLAN, plan(&rows, &colours)),
        ("History by commit", HISTORY, history(&rows, &colours)),
    ];
    for (title, words, figures) in sections {
        section((title, words), &figures, &mut body);
    }
    table::rows(&latest(&rows), &mut body);
    table::not_run(&latest(&rows), &mut body);
    table::left_out(&reported.left_out, &mut body);
    body.push_str("</main>\n");
    page(&Page { title: "Measurements", style: chart::STYLE, body: &body, script: None })
}

const SPEED: &str = "Tokens a second at the median of the latest record of each combination; whiskers reach from the slowest \
    sample to the fastest.";
const FAMILIES: &str =
    "Shares of one step on each device alone, every node submitted by itself, which costs a launch each.";
const PLAN: &str = "On the line the plan was right; above it, reality was more. A step's predicted time is that of the plan's \
    timeline at the machine's usual rates, a piece of work was noted in a run of its own, each waited for; memory is what the plan takes against what devices count as allocated.";
const HISTORY: &str = "Tokens a second of the same settings on the same machine, from record to record; marks reach one median \
    absolute deviation from the median.";

/// A chart with what is written beside it.
struct Figure {
    title: String,
    small: String,
    chart: String,
    legend: Vec<(usize, String)>,
}

fn section((title, words): (&str, &str), figures: &[Figure], out: &mut String) {
    let _ = writeln!(out, "<section><h2>{title}</h2>");
    if figures.is_empty() {
        out.push_str("<p>No record has any.</p>\n</section>\n");
        return;
    }
    let _ = writeln!(out, "<p>{words}</p>\n<div class=\"charts\">");
    for figure in figures.iter().take(MOST_CHARTS) {
        let Figure { title, small, chart, legend } = figure;
        let _ =
            write!(out, "<figure><figcaption>{}<small>{}</small></figcaption>\n{chart}", markup(title), markup(small));
        if !legend.is_empty() {
            out.push_str("<p class=\"legend\">");
            for (colour, name) in legend {
                let c = chart::COLOURS[colour % chart::COLOURS.len()];
                let colour = format!("#{:02x}{:02x}{:02x}", c.0, c.1, c.2);
                let _ = write!(out, "<span><i style=\"background:{colour}\">&nbsp;</i> {}</span> ", markup(name));
            }
            out.push_str("</p>\n");
        }
        out.push_str("</figure>\n");
    }
    out.push_str("</div>\n");
    if let more @ 1.. = figures.len().saturating_sub(MOST_CHARTS) {
        let _ = writeln!(out, "<p>{more} more are in the table alone.</p>");
    }
    out.push_str("</section>\n");
}

fn cards(reported: &Reported, rows: &[Measured<'_>], out: &mut String) {
    let records = || reported.records.iter().map(|(_, record)| record);
    let of = |what: &dyn Fn(&Record<Row>) -> String| records().map(what).collect::<BTreeSet<_>>().len();
    let dates: BTreeSet<&str> = records().map(|record| record.date.as_str()).collect();
    let day = |date: Option<&&str>| markup(&date.unwrap_or(&"").chars().take(10).collect::<String>());
    let not_run = rows.iter().filter(|found| found.row.not_run.is_some()).count();
    let cards = [
        ("records", reported.records.len().to_string()),
        ("rows", format!("{}, of which {not_run} did not run", rows.len())),
        ("commits", of(&|record| record.commit.clone()).to_string()),
        ("machines", of(&|record| record.machine.cpu.clone()).to_string()),
        ("from", day(dates.first())),
        ("to", day(dates.last())),
    ];
    out.push_str("<dl class=\"cards\">\n");
    for (name, value) in cards {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    out.push_str("</dl>\n");
}

/// A bar for every combination, in a chart for every group.
fn speed(rows: &[Measured<'_>], colours: &Colours) -> Vec<Figure> {
    let figure = |(group, rows): (Group, BTreeMap<Settings, Measured<'_>>)| {
        let ran: Vec<(&Settings, &Row)> = rows
            .iter()
            .map(|(settings, found)| (settings, found.row))
            .filter(|(_, row)| row.rate().is_some())
            .collect();
        let labels = labels(ran.iter().map(|(settings, _)| *settings));
        let mut all: Vec<Bar> =
            ran.into_iter().zip(labels).filter_map(|(row, label)| bar(row, label, colours)).collect();
        // The fastest come first; equals stay in order of their settings.
        all.sort_by(|a, b| b.parts[0].0.total_cmp(&a.parts[0].0));
        all.truncate(MOST_BARS);
        let (title, small) = group.title();
        let chart = bars(&format!("tokens a second: {title}"), &all, &per_second);
        (!all.is_empty()).then_some(Figure { title, small, chart, legend: Vec::new() })
    };
    latest(rows).into_iter().filter_map(figure).collect()
}

fn bar((settings, row): (&Settings, &Row), label: String, colours: &Colours) -> Option<Bar> {
    let (spread, tokens) = (row.spread()?, settings.tokens());
    let speed = spread.rate(tokens);
    Some(Bar {
        label: short(&label, 48),
        says: format!("{}/s", per_second(speed)),
        parts: vec![(speed, colours.get(&settings.devices))],
        whisker: Some((rate(tokens, spread.most), rate(tokens, spread.least))),
    })
}

/// A bar for every device, in a chart for every step of a model.
fn families(records: &[(String, Record<Row>)]) -> Vec<Figure> {
    type Step = (String, String, u32);
    let mut sorted: Vec<&(String, Record<Row>)> = records.iter().collect();
    sorted.sort_by(|a, b| (&a.1.date, &a.0).cmp(&(&b.1.date, &b.0)));
    let mut steps: BTreeMap<Step, BTreeMap<&str, &DeviceTime>> = BTreeMap::new();
    for (_, record) in sorted {
        let Some(row) = record.rows.first() else { continue };
        for time in &record.time_by_family {
            let step = (row.model.model_type.clone(), record.machine.cpu.clone(), time.tokens);
            steps.entry(step).or_default().insert(&time.device, time);
        }
    }
    let figure = |((model, cpu, tokens), devices): (Step, BTreeMap<&str, &DeviceTime>)| {
        let title = format!("{model}, a step of {tokens}");
        let shown = devices.into_iter().take(MOST_BARS);
        let all: Vec<Bar> = shown.map(|(device, time)| stacked(device, time)).collect();
        let legend = FAMILY_NAMES.iter().enumerate().map(|(i, name)| (i, (*name).to_owned())).collect();
        let chart = bars(&format!("time by family: {title}"), &all, &|share| format!("{share:.0} %"));
        Figure { title, small: cpu, chart, legend }
    };
    steps.into_iter().map(figure).collect()
}

/// Families in the order of their colours.
const FAMILY_NAMES: [&str; 8] = ["matmul", "attention", "moe", "norm", "rope", "cache", "elementwise", "rows"];

fn stacked(device: &str, time: &DeviceTime) -> Bar {
    let colour = |name: &str| FAMILY_NAMES.iter().position(|known| *known == name).unwrap_or(0);
    let sum = time.families.iter().fold(0u64, |sum, family| sum.saturating_add(family.nanoseconds));
    let share = |nanoseconds: u64| 100.0 * nanoseconds as f64 / sum.max(1) as f64;
    let mut parts: Vec<(f64, usize)> =
        time.families.iter().map(|f| (share(f.nanoseconds), colour(f.family.name()))).collect();
    parts.sort_by_key(|(_, colour)| *colour);
    Bar { label: short(device, 40), says: Nanos(sum).to_string(), parts, whisker: None }
}

/// Predicted and measured: the time of a step, and memory.
fn plan(rows: &[Measured<'_>], colours: &Colours) -> Vec<Figure> {
    let rows = &rows[rows.len().saturating_sub(MOST_DOTS)..];
    let times: Vec<(&str, Point)> = rows.iter().filter_map(|found| step(found.row, colours)).collect();
    let pieces = rows.iter().rev().flat_map(|found| pieces(found.row, colours)).take(MOST_DOTS);
    let pieces: Vec<(&str, Point)> = pieces.collect();
    let memory: Vec<(&str, Point)> = rows.iter().flat_map(|found| memory(found.row, colours)).collect();
    let figures = [
        scatter("time of a step", &times, Powers::Ten, &time),
        scatter("time of a split, transfer or upload", &pieces, Powers::Ten, &time),
        scatter("memory", &memory, Powers::Four, &size),
    ];
    figures.into_iter().flatten().collect()
}

/// A dot for every combination of every record.
fn scatter(title: &str, points: &[(&str, Point)], powers: Powers, unit: &dyn Fn(f64) -> String) -> Option<Figure> {
    let dots: Vec<Point> = points.iter().map(|(_, point)| *point).collect();
    let chart = against(&format!("measured against predicted {title}"), &dots, powers, unit);
    let small = "each combination of each record".to_owned();
    (!dots.is_empty()).then(|| Figure { title: title.to_owned(), small, chart, legend: ratios(points) })
}

fn step<'a>(row: &'a Row, colours: &Colours) -> Option<(&'a str, Point)> {
    let predicted = row.foresight.step()?.0 as f64;
    let measured = row.spread()?.median as f64 / f64::from(row.foresight.n_steps.max(1));
    let devices = &row.settings.devices;
    let seen = predicted > 0.0 && measured > 0.0;
    seen.then(|| (devices.as_str(), Point { predicted, measured, colour: colours.get(devices) }))
}

fn pieces<'a>(row: &'a Row, colours: &Colours) -> Vec<(&'a str, Point)> {
    let devices = row.settings.devices.as_str();
    let colour = colours.get(devices);
    let times = row.activities.iter().map(|time| (time.predicted_ns as f64, time.measured_ns as f64));
    let times = times.filter(|(predicted, measured)| *predicted > 0.0 && *measured > 0.0);
    times.map(|(predicted, measured)| (devices, Point { predicted, measured, colour })).collect()
}

fn memory<'a>(row: &'a Row, colours: &Colours) -> Vec<(&'a str, Point)> {
    let devices = row.settings.devices.as_str();
    let colour = colours.get(devices);
    let sizes = row.memories.iter().filter_map(|memory| Some((memory.planned() as f64, memory.allocated? as f64)));
    let sizes = sizes.filter(|(predicted, measured)| *predicted > 0.0 && *measured > 0.0);
    sizes.map(|(predicted, measured)| (devices, Point { predicted, measured, colour })).collect()
}

/// Of every set of devices the median of what was measured over what was predicted.
fn ratios(points: &[(&str, Point)]) -> Vec<(usize, String)> {
    let mut sets: BTreeMap<(&str, usize), Vec<f64>> = BTreeMap::new();
    for (devices, point) in points {
        sets.entry((devices, point.colour)).or_default().push(point.measured / point.predicted);
    }
    let median = |((devices, colour), mut ratios): ((&str, usize), Vec<f64>)| {
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        (colour, format!("{}: {median:.2} x what was predicted", escape(&short(devices, 40))))
    };
    sets.into_iter().map(median).collect()
}

/// A line for every combination that several records have, in a chart for every group.
fn history(rows: &[Measured<'_>], colours: &Colours) -> Vec<Figure> {
    let figure = |(group, series): (Group, BTreeMap<_, Vec<Measured<'_>>>)| {
        let mut series: Vec<Vec<Measured<'_>>> = series.into_values().filter(|rows| rows.len() > 1).collect();
        let (title, mut small) = group.title();
        if series.len() > MOST_LINES {
            small += &format!("; the first {MOST_LINES} of {} combinations", series.len());
            series.truncate(MOST_LINES);
        }
        let places: BTreeSet<(&str, &str)> = series.iter().flatten().map(|found| place(found)).collect();
        let names: Vec<String> = places.iter().map(|(_, commit)| short(commit, 8)).collect();
        let at = |found: &Measured<'_>| places.iter().position(|known| *known == place(found)).unwrap_or(0);
        // Lines of the same devices are told apart by colours, too.
        let alone = |rows: &[Measured<'_>]| colours.get(&rows[0].row.settings.devices);
        let colour = |i, rows: &[Measured<'_>]| if series.len() > 1 { i } else { alone(rows) };
        let drawn: Vec<Line> = series.iter().enumerate().map(|(i, rows)| line(rows, colour(i, rows), &at)).collect();
        let labels = labels(series.iter().map(|rows| &rows[0].row.settings));
        let legend = drawn.iter().zip(labels).map(|(line, label)| (line.colour, short(&label, 60))).collect();
        let chart = lines(&format!("tokens a second over commits: {title}"), &names, &drawn, &per_second);
        (!drawn.is_empty()).then_some(Figure { title, small, chart, legend })
    };
    histories(rows).into_iter().filter_map(figure).collect()
}

/// The medians of one combination, each one median absolute deviation wide.
fn line(rows: &[Measured<'_>], colour: usize, at: &dyn Fn(&Measured<'_>) -> usize) -> Line {
    let points = rows.iter().filter_map(|found| {
        let (spread, tokens) = (found.row.spread()?, found.row.settings.tokens());
        let (slow, fast) = (spread.median.saturating_add(spread.mad), spread.median.saturating_sub(spread.mad));
        Some((at(found), spread.rate(tokens), (rate(tokens, slow), rate(tokens, fast))))
    });
    Line { colour, points: points.collect() }
}

/// When a record was made, and of which commit.
fn place<'a>(found: &Measured<'a>) -> (&'a str, &'a str) {
    let commit = found.record.commit.as_str();
    (&found.record.date, if commit.is_empty() { &found.record.date } else { commit })
}

/// The beginning of a text, harmless.
fn short(text: &str, most: usize) -> String {
    let text = escape(text);
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Tokens a second.
fn per_second(x: f64) -> String {
    match x {
        _ if x >= 1e6 => format!("{:.1}M", x / 1e6),
        _ if x >= 1e4 => format!("{:.1}k", x / 1e3),
        _ if x >= 100.0 || x.fract() == 0.0 => format!("{x:.0}"),
        _ => format!("{x:.2}"),
    }
}

fn time(nanoseconds: f64) -> String {
    Nanos(nanoseconds as u64).to_string()
}

fn size(bytes: f64) -> String {
    Bytes(bytes as u64).to_string()
}
