//! Two records → what moved: rows of the same model and settings side by side, and whether they differ beyond their noise.
//! A row has moved where the intervals of both medians (± 3 standard errors, see [`Spread::interval`]) do not overlap and
//! the medians are 1 % or more apart.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::record::{MachineFacts, Record, Row, Settings};
use super::spread::{Spread, rate};

/// Less apart than this two medians count as equal, whatever the noise of their samples: a model that is loaded again lies
/// elsewhere in memory, which no sample of one run shows.
pub const LEAST_CHANGE: f64 = 0.01;

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More tokens a second, beyond the noise.
    Faster,
    /// Fewer, beyond the noise.
    Slower,
    /// No difference beyond the noise.
    Alike,
    /// Fewer than three samples on a side: noise is not known.
    Unknown,
    /// It did not run before.
    Runs,
    /// It does not run any more.
    Fails,
    /// It ran in neither.
    Neither,
}

impl Verdict {
    /// Whether there is something to look at.
    pub fn moved(self) -> bool {
        match self {
            Verdict::Faster | Verdict::Slower | Verdict::Runs | Verdict::Fails => true,
            Verdict::Alike | Verdict::Unknown | Verdict::Neither => false,
        }
    }

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Alike => "alike",
            Verdict::Unknown => "unknown",
            Verdict::Runs => "runs",
            Verdict::Fails => "fails",
            Verdict::Neither => "neither",
        }
    }
}

/// What a row is about: its model and its settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Subject {
    /// Architecture, parameters, type.
    pub model_type: String,
    /// Bytes of all tensors.
    pub model_size: u64,
    /// Elements of all tensors.
    pub model_n_params: u64,
    /// All that was asked for.
    #[serde(flatten)]
    pub settings: Settings,
}

impl Subject {
    /// What a row is about.
    pub fn of(row: &Row) -> Subject {
        Subject {
            model_type: row.model.model_type.clone(),
            model_size: row.model.model_size,
            model_n_params: row.model.model_n_params,
            settings: row.settings.clone(),
        }
    }
}

/// One side of a change; what did not run has no spread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Median and spread of its nanoseconds.
    pub spread: Option<Spread>,
    /// Tokens a second at the median.
    pub median_ts: Option<f64>,
    /// The hash of its plans.
    pub plan: Option<String>,
    /// Why it did not run.
    pub not_run: Option<String>,
}

impl Side {
    fn of(row: &Row) -> Side {
        let (spread, plan) = (row.spread(), row.foresight.plan.clone());
        Side { spread, median_ts: row.rate(), plan, not_run: row.not_run.clone() }
    }
}

/// A row that both records have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What it is about.
    #[serde(flatten)]
    pub subject: Subject,
    /// In the first record.
    pub before: Side,
    /// In the second.
    pub after: Side,
    /// Tokens a second after, over before, at the medians.
    pub ratio: Option<f64>,
    /// Whether its steps have other plans.
    pub other_plan: bool,
    /// What became of it.
    pub verdict: Verdict,
}

/// What differs between two records.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordDiff {
    /// What the records do not have alike beside rows, in words.
    pub notes: Vec<String>,
    /// Rows of both, in the order of the first.
    pub rows: Vec<Change>,
    /// Rows of the first alone.
    pub only_before: Vec<Subject>,
    /// Rows of the second alone.
    pub only_after: Vec<Subject>,
}

impl RecordDiff {
    /// Whether nothing moved, appeared or vanished; notes do not count.
    pub fn is_empty(&self) -> bool {
        let moved = self.rows.iter().any(|row| row.verdict.moved() || row.other_plan);
        !moved && self.only_before.is_empty() && self.only_after.is_empty()
    }
}

/// Rows by what they are about. Of several alike in a record, the first belongs to the first of the other, and so on.
pub fn diff_records(before: &Record<Row>, after: &Record<Row>) -> RecordDiff {
    let mut waiting: BTreeMap<Subject, VecDeque<&Row>> = BTreeMap::new();
    after.rows.iter().for_each(|row| waiting.entry(Subject::of(row)).or_default().push_back(row));
    let (mut rows, mut only_before) = (Vec::new(), Vec::new());
    for row in &before.rows {
        let subject = Subject::of(row);
        match waiting.get_mut(&subject).and_then(VecDeque::pop_front) {
            Some(other) => rows.push(change(subject, row, other)),
            None => only_before.push(subject),
        }
    }
    let only_after = waiting.into_iter().flat_map(|(subject, rows)| vec![subject; rows.len()]).collect();
    RecordDiff { notes: notes(before, after), rows, only_before, only_after }
}

fn change(subject: Subject, before: &Row, after: &Row) -> Change {
    let (before, after) = (Side::of(before), Side::of(after));
    let ratio = before.spread.zip(after.spread).map(|(before, after)| {
        let tokens = subject.settings.tokens().max(1);
        rate(tokens, after.median) / rate(tokens, before.median)
    });
    let other_plan = before.plan.is_some() && after.plan.is_some() && before.plan != after.plan;
    let verdict = verdict(before.spread, after.spread);
    Change { subject, before, after, ratio, other_plan, verdict }
}

fn verdict(before: Option<Spread>, after: Option<Spread>) -> Verdict {
    let (before, after) = match (before, after) {
        (Some(before), Some(after)) => (before, after),
        (None, Some(_)) => return Verdict::Runs,
        (Some(_), None) => return Verdict::Fails,
        (None, None) => return Verdict::Neither,
    };
    let (Some((least, most)), Some((least_after, most_after))) = (before.interval(), after.interval()) else {
        return Verdict::Unknown;
    };
    let apart = before.median.abs_diff(after.median) as f64;
    if apart < LEAST_CHANGE * before.median as f64 {
        Verdict::Alike
    } else if most_after < least {
        Verdict::Faster
    } else if least_after > most {
        Verdict::Slower
    } else {
        Verdict::Alike
    }
}

/// Facts that make rows hard to compare.
fn notes(before: &Record<Row>, after: &Record<Row>) -> Vec<String> {
    let (a, b) = (&before.machine, &after.machine);
    let adapters = |record: &Record<Row>| {
        let each =
            record.machine.adapters.iter().map(|found| format!("{} {}, {}", found.device, found.name, found.driver));
        each.collect::<Vec<_>>().join("; ")
    };
    let facts = [
        ("processor", a.cpu.clone(), b.cpu.clone()),
        ("target", a.target.clone(), b.target.clone()),
        ("cores", a.cores.to_string(), b.cores.to_string()),
        ("adapters", adapters(before), adapters(after)),
        ("program", before.program.clone(), after.program.clone()),
    ];
    let others = facts.into_iter().filter(|(_, a, b)| a != b);
    let others = others.map(|(what, a, b)| format!("another {what}: {a} -> {b}"));
    others.chain([("first", a), ("second", b)].into_iter().filter_map(busy)).collect()
}

/// Whether others computed beside a record, as far as its machine knows: a sweep itself keeps no more than all cores busy.
fn busy((which, machine): (&str, &MachineFacts)) -> Option<String> {
    let (load, cores) = (machine.load_average?[0], machine.cores);
    let said =
        || format!("beside the {which} others computed: load {load:.1} on {cores} cores; the samples do not show that");
    (load > 1.5 * f64::from(cores)).then(said)
}
