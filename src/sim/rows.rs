//! Measured rows as a JSON file → a machine that explains them, and what it predicts of the others.
//!
//! ```json
//! {
//!  "format": "loadmaster-rows", "version": 1,
//!  "about": "free text: who measured what on which machine",
//!  "overlap": false,
//!  "chosen_experts": false,
//!  "rows": [
//!   {"tokens": 2048, "tokens_per_second": 1030.55, "solves": "accelerators", "homes": {"layers": 45}, "offload": 32},
//!   {"tokens": 2048, "seconds": 2.913, "solves": "accelerators", "homes": {"layers": 0, "cache": "accelerator"}, "offload": 32},
//!   {"tokens": 2048, "tokens_per_second": 817.11, "homes": {"layers": 20}, "offload": 32}
//!  ]
//! }
//! ```
//!
//! A row is one step of `tokens` tokens with one row of logits: its time is `seconds`, or follows from
//! `tokens_per_second`. `homes` are [`Flags`]: `layers`, `experts_on_host`, `cache` (`layer`, `accelerator`, `host`).
//! `offload` is `"never"`, `"auto"`, or the least tokens from which ops leave the processor. `overlap` and
//! `chosen_experts` say what the measured engine did. Two rows that solve for a side calibrate it, first
//! `accelerators`, then `host`; rows that solve for nothing are predicted only. Unknown fields are refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{CalibrateError, Overlap, Row, Setting, Side, calibrate, step_time};
use crate::device::Machine;
use crate::fit::{FitError, Wishes, propose};
use crate::graph::Graph;
use crate::plan::{Offload, PlanError, Policy};
use crate::residency::{CacheHome, Residency};
use crate::units::{Nanos, Tokens};

const FORMAT: &str = "loadmaster-rows";
const VERSION: u32 = 1;

/// The longest file; a row has about a hundred bytes.
const MOST_BYTES: usize = 1 << 20;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    format: String,
    version: u32,
    /// Where the numbers come from.
    #[serde(default)]
    pub about: String,
    /// Whether the measured engine copied while it computed.
    #[serde(default)]
    pub overlap: bool,
    /// Whether it brought only the experts that a batch chose.
    #[serde(default)]
    pub chosen_experts: bool,
    /// The rows.
    pub rows: Vec<Measurement>,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// Tokens of the step.
    pub tokens: Tokens,
    /// Its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Or its rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// What it calibrates, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solves: Option<Side>,
    /// Where weights and caches lived.
    #[serde(default)]
    pub homes: Flags,
    /// What decided where ops ran.
    pub offload: Rule,
}

/// How the measured engine was told to load the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flags {
    /// How many of the last layers lived on accelerators; more than there are put the output there as well.
    pub layers: u32,
    /// Whether experts stayed with the processor all the same.
    pub experts_on_host: bool,
    /// Where caches lived.
    pub cache: CacheHome,
}

impl From<Flags> for Wishes {
    fn from(Flags { layers, experts_on_host, cache }: Flags) -> Wishes {
        let host_moe_layers = if experts_on_host { u32::MAX } else { 0 };
        Wishes { gpu_layers: Some(layers), host_moe_layers, cache: Some(cache), ..Wishes::default() }
    }
}

/// When ops leave the processor, in a file's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Rule {
    /// From so many tokens on.
    From(Tokens),
    /// By a word.
    Named(Named),
}

/// The words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// Never.
    Never,
    /// Where the predicted time is less.
    Auto,
}

impl From<Rule> for Offload {
    fn from(rule: Rule) -> Offload {
        match rule {
            Rule::From(tokens) => Offload::AtLeast(tokens),
            Rule::Named(Named::Never) => Offload::Never,
            Rule::Named(Named::Auto) => Offload::Auto,
        }
    }
}

/// Why rows give no machine.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum RowsError {
    #[error("rows file: {found} bytes, needed at most {needed}")]
    Size { found: usize, needed: usize },
    #[error("rows file: {0}")]
    Json(#[from] serde_json::Error),
    #[error("rows file: format {format:?} version {version}, needed {FORMAT:?} version {VERSION}")]
    Format { format: String, version: u32 },
    #[error("rows[{row}]: {what}")]
    Row { row: usize, what: &'static str },
    #[error("{side:?} is solved for by two rows, found {found}")]
    Pair { side: Side, found: usize },
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
}

impl Measurement {
    /// Its time, if the row has one that makes sense.
    pub fn time(&self) -> Option<Nanos> {
        let seconds = match (self.seconds, self.tokens_per_second) {
            (Some(seconds), None) => seconds,
            (None, Some(rate)) => f64::from(self.tokens.0) / rate,
            (Some(_), Some(_)) | (None, None) => return None,
        };
        (seconds.is_finite() && seconds > 0.0 && seconds < 1e9).then(|| Nanos::of_seconds(seconds))
    }
}

impl Rows {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The text is no such file, or a row has no time.
    pub fn parse(text: &str) -> Result<Rows, RowsError> {
        if text.len() > MOST_BYTES {
            return Err(RowsError::Size { found: text.len(), needed: MOST_BYTES });
        }
        let rows: Rows = serde_json::from_str(text)?;
        if rows.format != FORMAT || rows.version != VERSION {
            return Err(RowsError::Format { format: rows.format, version: rows.version });
        }
        for (row, measured) in rows.rows.iter().enumerate() {
            let what = match measured.time() {
                None => "needed either seconds or tokens_per_second, positive",
                Some(_) if !(1..=65_536).contains(&measured.tokens.0) => "needed 1 to 65536 tokens",
                Some(_) => continue,
            };
            return Err(RowsError::Row { row, what });
        }
        Ok(rows)
    }

    /// Calibrates `machine` with the rows that solve for something. `graph` gives the graph of a number of tokens.
    ///
    /// # Errors
    /// A side has other than two rows, a row has no homes or no plan, or no rates explain both.
    pub fn calibrate(&self, machine: &Machine, graph: &impl Fn(Tokens) -> Graph) -> Result<Machine, RowsError> {
        let mut machine = machine.clone();
        for side in [Side::Accelerators, Side::Host] {
            let rows: Vec<&Measurement> = self.rows.iter().filter(|r| r.solves == Some(side)).collect();
            let pair = match rows.as_slice() {
                [] => continue,
                &[a, b] => [Case::of(self, a, &machine, graph)?, Case::of(self, b, &machine, graph)?],
                more => return Err(RowsError::Pair { side, found: more.len() }),
            };
            machine = calibrate(&machine, side, self.overlap(), [pair[0].row(), pair[1].row()])?;
        }
        Ok(machine)
    }

    /// The time that `machine` needs for each row.
    ///
    /// # Errors
    /// A row has no homes or no plan.
    pub fn predict(&self, machine: &Machine, graph: &impl Fn(Tokens) -> Graph) -> Result<Vec<Nanos>, RowsError> {
        let predicted = self.rows.iter().map(|row| {
            let Case { graph, residency, policy, .. } = &Case::of(self, row, machine, graph)?;
            Ok(step_time(graph, &Setting { residency, machine, policy, overlap: self.overlap() })?)
        });
        predicted.collect()
    }

    fn overlap(&self) -> Overlap {
        if self.overlap { Overlap::Spec } else { Overlap::Off }
    }
}

/// A row with all that its simulation needs.
struct Case {
    graph: Graph,
    residency: Residency,
    policy: Policy,
    time: Nanos,
}

impl Case {
    fn of(
        rows: &Rows,
        row: &Measurement,
        machine: &Machine,
        graph: &impl Fn(Tokens) -> Graph,
    ) -> Result<Case, RowsError> {
        let graph = graph(row.tokens);
        let residency = propose(&graph, machine, &row.homes.into())?;
        // What a prompt's tokens see on average of the prompt.
        let context = Tokens(row.tokens.0.div_ceil(2));
        let policy =
            Policy { offload: row.offload.into(), chosen_experts: rows.chosen_experts, context, ..Policy::default() };
        Ok(Case { graph, residency, policy, time: row.time().unwrap_or_default() })
    }

    fn row(&self) -> Row<'_> {
        Row { graph: &self.graph, residency: &self.residency, policy: &self.policy, time: self.time }
    }
}
