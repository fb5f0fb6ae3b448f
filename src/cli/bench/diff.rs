//! `bench diff`: two records → which rows moved, and which only one of them has; as text or JSON.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::bench::{Change, RecordDiff, Settings, Side, Subject, Verdict, diff_records, read_record};
use crate::cli::budget::told;
use crate::inspect::{escape, one_line};

/// Say what moved between two records, and whether it is beyond the noise
#[derive(Debug, ClapArgs)]
#[command(after_help = RULE)]
pub(super) struct Args {
    /// The record to compare with
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// The record that is compared
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    /// Show every row, also those that did not move
    #[arg(long)]
    all: bool,
    /// One JSON document, with every row
    #[arg(long, conflicts_with = "all")]
    json: bool,
}

const RULE: &str = "\
Rows belong together where the model (type, bytes, parameters) and all settings are the same. A row has moved where the
intervals of both medians do not overlap and the medians are 1 % or more apart; an interval is the median ± 3 standard
errors of a median: 3 x 1.858 x MAD / √n for n samples whose median absolute deviation is MAD. With fewer than three
samples on a side noise is not known, and nothing is said. What differs from run to run but not within one, such as other
programs that compute, is not in the samples: a note says so where the machine was busy.

Examples:
  loadmaster bench model.gguf -r 10 --record before; loadmaster bench model.gguf -r 10 --record after
  loadmaster bench diff before/*.json after/*.json
  loadmaster bench diff a.json b.json --json | jq '.rows[] | select(.verdict == \"slower\")'";

pub(super) fn run(args: &Args) -> Result<()> {
    let diff = diff_records(&read_record(&args.before)?, &read_record(&args.after)?);
    let shown = if args.json { serde_json::to_string_pretty(&diff)? + "\n" } else { text(&diff, args.all) };
    Ok(io::stdout().lock().write_all(shown.as_bytes())?)
}

fn text(diff: &RecordDiff, all: bool) -> String {
    let mut out: String = diff.notes.iter().map(|note| format!("note: {}\n", one_line(note))).collect();
    let shown: Vec<&Change> = diff.rows.iter().filter(|row| all || row.verdict.moved() || row.other_plan).collect();
    if !shown.is_empty() {
        out += &format!("{:>10}  {:>10}  {:>7}  {:<8}  row\n", "before t/s", "after t/s", "ratio", "");
        shown.iter().for_each(|row| out += &line(row));
    }
    for (what, rows) in [("only before", &diff.only_before), ("only after", &diff.only_after)] {
        rows.iter().for_each(|subject| out += &format!("{what}: {}\n", about(subject)));
    }
    out + &summary(diff)
}

fn line(change: &Change) -> String {
    let speed = |side: &Side| side.median_ts.map_or("not run".to_owned(), |rate| format!("{rate:.2}"));
    let ratio = change.ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
    let (before, after, verdict) = (speed(&change.before), speed(&change.after), change.verdict.name());
    let plan = if change.other_plan { "; another plan" } else { "" };
    let why = change.after.not_run.as_ref().map_or(String::new(), |why| format!("; {}", one_line(why)));
    format!("{before:>10}  {after:>10}  {ratio:>7}  {verdict:<8}  {}{plan}{why}\n", about(&change.subject))
}

/// The row by its model, test and settings.
fn about(subject: &Subject) -> String {
    format!("{} {}: {}", escape(&subject.model_type), subject.settings.test(), escape(&words(&subject.settings)))
}

/// Settings in the words of the command line.
fn words(settings: &Settings) -> String {
    let Settings { devices, split_mode, offload, n_threads, n_batch, n_ubatch, .. } = settings;
    let Settings { type_k, type_v, use_mmap, budget_mib, .. } = settings;
    let budget = told(devices, budget_mib);
    let budget = if budget.is_empty() { String::new() } else { format!(" --budget {budget}") };
    let layers = match settings.layers().as_str() {
        "-" => String::new(),
        layers => format!(" -ngl {layers}"),
    };
    let mmap = if *use_mmap { " --mmap" } else { "" };
    format!(
        "--devices {devices}{layers} -sm {split_mode} --offload {offload} -t {n_threads} -b {n_batch} -ub {n_ubatch} -ctk {type_k} -ctv {type_v}{budget}{mmap}"
    )
}

/// How many rows became what.
fn summary(diff: &RecordDiff) -> String {
    let of = |verdict| diff.rows.iter().filter(|row| row.verdict == verdict).count();
    let counts = [
        (Verdict::Faster, "faster"),
        (Verdict::Slower, "slower"),
        (Verdict::Alike, "alike within the noise"),
        (Verdict::Unknown, "with too few samples to say"),
        (Verdict::Runs, "that did not run before"),
        (Verdict::Fails, "that ran before alone"),
        (Verdict::Neither, "that ran in neither"),
    ];
    let counts = counts.into_iter().map(|(verdict, words)| (of(verdict), words)).filter(|(count, _)| *count > 0);
    let words: Vec<String> = counts.map(|(count, words)| format!("{count} {words}")).collect();
    let (before, after) = (diff.only_before.len(), diff.only_after.len());
    let found = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    format!("rows of both records: {found}; only before: {before}, only after: {after}\n")
}
