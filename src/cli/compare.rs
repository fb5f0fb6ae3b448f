//! `compare`: the same tokens on several devices, node by node → how far each is from the first, and time by family; as
//! text or JSON.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use serde::Serialize;

use super::args::{self, ModelArg};
use super::budget::{Budget, budget, budgets};
use super::cards::{Cards, DeviceName};
use super::progress::Bar;
use super::{Usage, note, open};
use crate::backend;
use crate::bench::{
    Against, Comparison, FLOAT_BOUND, FamilyTime, Kind, Model, NodeDifference, OtherToken, QUANTISED_BOUND, Record,
    Trial, compare, host, tokens,
};
use crate::device::DeviceSpec;
use crate::gguf::Gguf;
use crate::inspect::escape;
use crate::tensor::DType;
use crate::text::{Encode, Tokenizer};
use crate::units::{Bytes, Tokens};

/// Compare what devices compute, node by node, with the first of them
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Devices, the first of which the others are compared with: cpu, vulkan:0 and so on
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', required = true, value_parser = DeviceName::parse)]
    devices: Vec<DeviceName>,
    /// Text to compare with
    #[arg(short, long, value_name = "TEXT", conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Number of tokens to compare with, random but the same each time; also for models without a tokenizer
    #[arg(long, value_name = "N", default_value_t = 32, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    tokens: u32,
    /// How far a node's normalised mean squared error may be [default: 1e-5 behind float weights, 2e-3 behind quantised ones]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = bound)]
    bound: Option<f64>,
    /// Show every node in order of execution instead of the worst
    #[arg(long)]
    all: bool,
    /// One JSON document that explains itself
    #[arg(long, conflicts_with = "all")]
    json: bool,
    /// Also write that document to a file
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Timed runs of each node, behind one that is not; 0 measures no times
    #[arg(short, long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=10000))]
    repetitions: u32,
    /// Threads, of each device [default: physical cores available to the process]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: Option<u32>,
    /// Most tokens computed in one step; 1 compares what generation computes with [-ub]
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    ubatch_size: u32,
    /// Type of cached keys [-ctk]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = args::cache_type)]
    cache_type_k: DType,
    /// Type of cached values [-ctv]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = args::cache_type)]
    cache_type_v: DType,
    /// Memory that a device may take: a number of MiB for each, or one for all, or by name, such as vulkan:0=64MiB,cpu=2GiB,
    /// where others keep theirs [default: what is available]
    #[arg(long, value_name = "MIB|DEVICE=SIZE,...", value_delimiter = ',', allow_negative_numbers = true, value_parser = budget)]
    budget: Vec<Budget>,
    /// Keep weights in the file mapping where a device can use them there
    #[arg(long)]
    mmap: bool,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster compare model.gguf --devices cpu,vulkan:0
  loadmaster compare model.gguf --devices cpu,vulkan:0 -p 'Once upon a time' -ub 1 --all
  loadmaster compare model.gguf --devices vulkan:0,vulkan:1 --tokens 128 --json | jq '.rows[].first_divergence'
  loadmaster compare model.gguf --devices cpu,vulkan:0 -o bench-results/compare.json";

/// Nodes that are shown of each device.
const SHOWN: usize = 10;

/// What it is that `--json` says.
const WHAT: &str = "the same tokens on several devices, node by node, each row a device against the first: nmse is the \
mean squared difference over the mean square of the reference, null where it is not finite; nanoseconds are medians of \
single nodes, each submitted alone, summed over the nodes of a family and all steps";

/// The document.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    record: Record<Against>,
    #[serde(flatten)]
    model: Model,
    /// All that were compared; the first is the reference.
    devices: Vec<DeviceFacts>,
    tokens: TokenFacts,
    type_k: DType,
    type_v: DType,
    repetitions: u32,
    families: Vec<FamilyTime>,
}

/// A device as a record has it.
#[derive(Serialize)]
struct DeviceFacts {
    device: String,
    kind: &'static str,
    /// What computes.
    name: String,
    /// What drives it; none beside this program itself.
    driver: Option<String>,
    threads: u32,
}

/// What was computed.
#[derive(Serialize)]
struct TokenFacts {
    /// Where ids come from: `text` or `random`.
    source: &'static str,
    /// Most of a step.
    step: u32,
    ids: Vec<u32>,
}

pub(super) fn run(args: Args) -> Result<()> {
    if args.devices.len() < 2 {
        bail!(Usage(format!("--devices has {} name, needed two or more to compare", args.devices.len())));
    }
    let path = args.model.path();
    let gguf = Arc::new(open::gguf(&path)?);
    let (source, ids) = ids(&args, &gguf)?;
    let (devices, facts) = devices(&args)?;
    let comparison = compared(&args, &gguf, devices, &ids)?;
    let Comparison { against, families } = comparison;
    let commit = option_env!("LOADMASTER_COMMIT").unwrap_or_default().to_owned();
    let document = Document {
        record: Record::new(Kind::Compare, WHAT, against, commit, super::bench::now()),
        model: Model::of(&gguf, path.display().to_string()),
        devices: facts,
        tokens: TokenFacts { source, step: args.ubatch_size.min(ids.len() as u32), ids },
        type_k: args.cache_type_k,
        type_v: args.cache_type_v,
        repetitions: args.repetitions,
        families,
    };
    let json = serde_json::to_string_pretty(&document)? + "\n";
    if let Some(file) = &args.out {
        fs::write(file, &json).with_context(|| format!("{}: cannot write the record", file.display()))?;
        note(&format!("record: {}", file.display()));
    }
    let shown = if args.json { json } else { text(&document, &args) };
    Ok(io::stdout().lock().write_all(shown.as_bytes())?)
}

fn bound(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| *x >= 0.0);
    number.ok_or_else(|| "needed a number that is not below 0".to_owned())
}

/// The tokens of the text, or as many as were asked for.
fn ids(args: &Args, gguf: &Gguf) -> Result<(&'static str, Vec<u32>)> {
    let Some(text) = &args.prompt else {
        let vocab = crate::models::Model::from_gguf(gguf)?.hparams().vocab;
        return Ok(("random", tokens(vocab).take(args.tokens as usize).collect()));
    };
    let tokenizer = Tokenizer::from_metadata(gguf.metadata());
    let tokenizer = tokenizer.context("the model cannot read text; --tokens N compares without")?;
    let ids = tokenizer.encode(text, Encode { add_special: true, parse_special: true });
    match ids.is_empty() {
        true => bail!(Usage("-p has no tokens, needed at least one".to_owned())),
        false => Ok(("text", ids.iter().map(|id| id.0).collect())),
    }
}

/// A device, with what it may take.
type Opened = (DeviceSpec, Bytes);

/// What is opened, and what records say of it.
fn devices(args: &Args) -> Result<(Vec<Opened>, Vec<DeviceFacts>)> {
    let cards = Cards::of(&args.devices);
    let threads = args.threads.unwrap_or_else(host::physical_cores);
    let available = host::available_memory().unwrap_or(Bytes(1 << 60));
    let share = Bytes(available.0 / args.devices.len().max(1) as u64);
    let budgets = budgets(&args.budget, &args.devices)?;
    let (mut all, mut facts) = (Vec::new(), Vec::new());
    for (&device, budget) in args.devices.iter().zip(budgets) {
        let (spec, budget) = cards.device(device, threads, (budget, share))?;
        let about = cards.about(device).map(|about| (about.name.to_owned(), Some(about.driver.to_owned())));
        let (name, driver) = about.unwrap_or_else(|| (host::cpu_name(), None));
        facts.push(DeviceFacts { device: spec.name.clone(), kind: spec.kind.name(), name, driver, threads });
        all.push((spec, budget));
    }
    Ok((all, facts))
}

fn compared(args: &Args, gguf: &Arc<Gguf>, devices: Vec<Opened>, ids: &[u32]) -> Result<Comparison> {
    let trial = Trial {
        gguf,
        devices,
        open: &backend::open,
        ids,
        step: Tokens(args.ubatch_size),
        cache: (args.cache_type_k, args.cache_type_v),
        keep_mapping: args.mmap,
        repetitions: args.repetitions,
        bound: args.bound,
    };
    let (loading, nodes) = (Bar::bytes("loading"), Bar::steps("nodes"));
    let done = compare(&trial, &|done, total| loading.at(done.0, total.0), &|done, total| {
        nodes.at(done as u64, total as u64);
    });
    done.context("the devices cannot be compared")
}

/// The report for people.
fn text(document: &Document, args: &Args) -> String {
    let Document { record, model, devices, tokens, .. } = document;
    let (count, step) = (tokens.ids.len(), tokens.step);
    let mut out = format!("{}: {count} {} tokens, {step} at a time\n", escape(&model.model_type), tokens.source);
    for facts in devices {
        let driver = facts.driver.as_ref().map_or(String::new(), |driver| format!("; {}", escape(driver)));
        out += &format!("  {}: {}{driver}; threads: {}\n", facts.device, escape(&facts.name), facts.threads);
    }
    for against in &record.rows {
        out += &format!("\n{} against {}:\n{}", against.device, devices[0].device, summary(against, args.bound));
        out += &nodes(against, args.all);
    }
    out + &times(document)
}

/// What there is to say in a few lines.
fn summary(against: &Against, bound: Option<f64>) -> String {
    let bounds = match bound {
        Some(bound) => format!("{bound:.0e}"),
        None => format!("{FLOAT_BOUND:.0e} behind float weights, {QUANTISED_BOUND:.0e} behind quantised ones"),
    };
    let first = against.nodes.iter().find(|node| node.diverges);
    let mut out = match first {
        None => format!("  every node is within its bound: {bounds}\n"),
        Some(node) => {
            let (nmse, bound) = (node.difference.nmse, node.bound);
            let all = against.nodes.iter().filter(|node| node.diverges).count();
            format!(
                "  first node beyond its bound: {}, nmse {nmse:.1e} > {bound:.0e}; {all} of {} are ({bounds})\n",
                node.name,
                against.nodes.len()
            )
        }
    };
    let logits = &against.logits;
    let (difference, same, rows) = (logits.difference, logits.same_greedy, logits.rows);
    out += &format!(
        "  logits: nmse {:.1e}, largest error {:.1e} where the largest is {:.1e}; same greedy token in {same} of {rows} rows\n",
        difference.nmse, difference.max_error, difference.max_abs_reference
    );
    if let Some(OtherToken { row, reference, found, ahead, error }) = logits.first_other {
        out += &format!(
            "  row {row} has token {found} instead of {reference}, which was ahead by {ahead:.1e}; the row's error is {error:.1e}\n"
        );
    }
    out
}

/// The worst nodes, or all.
fn nodes(against: &Against, all: bool) -> String {
    let mut shown: Vec<&NodeDifference> = against.nodes.iter().collect();
    let count = shown.len();
    if !all {
        // What is no number counts as the largest; equals stay in order of execution.
        let beyond = |node: &NodeDifference| {
            if node.difference.nmse.is_nan() {
                f64::INFINITY
            } else {
                node.difference.nmse / node.bound.max(f64::MIN_POSITIVE)
            }
        };
        shown.sort_by(|a, b| beyond(b).total_cmp(&beyond(a)));
        shown.truncate(SHOWN);
    }
    let mut out = match shown.len() < count {
        true => format!(
            "  the {SHOWN} of {count} nodes that are nearest to their bound, or farthest beyond it; --all shows every node\n"
        ),
        false => format!("  all {count} nodes\n"),
    };
    let head = ["node", "family", "type", "nmse", "bound", "max error", "max |reference|", ""];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(shown.into_iter().map(row));
    out += &aligned(&rows, 3);
    out
}

fn row(node: &NodeDifference) -> [String; 8] {
    let NodeDifference { name, family, dtype, difference, bound, diverges } = node;
    let mark = if *diverges { "beyond" } else { "" };
    let remark = match (difference.other_experts, difference.choices) {
        (Some(others @ 1..), Some(all)) => format!("{mark} {others} of {all} experts are others").trim().to_owned(),
        (Some(_) | None, Some(_) | None) => mark.to_owned(),
    };
    [
        escape(name),
        family.name().to_owned(),
        dtype.unwrap_or("").to_owned(),
        format!("{:.1e}", difference.nmse),
        format!("{bound:.0e}"),
        format!("{:.1e}", difference.max_error),
        format!("{:.1e}", difference.max_abs_reference),
        remark,
    ]
}

/// Time by family and device.
fn times(document: &Document) -> String {
    if document.repetitions == 0 {
        return String::new();
    }
    let mut rows = vec![["family", "nodes"].map(str::to_owned).to_vec()];
    rows[0].extend(document.devices.iter().map(|facts| facts.device.clone()));
    for time in &document.families {
        let mut row = vec![time.family.name().to_owned(), time.nodes.to_string()];
        row.extend(time.nanoseconds.iter().map(ToString::to_string));
        rows.push(row);
    }
    let runs = document.repetitions;
    let said = format!(
        "time by family: medians of {runs} runs of every node, summed over all steps; each run is submitted alone and waited for, which costs a launch\n"
    );
    format!("\n{said}{}", aligned(&rows, 1))
}

/// Columns as wide as their widest cell, two spaces apart: the first `left` and the one that may be empty at the end to the
/// left, numbers to the right.
fn aligned<R: AsRef<[String]>>(rows: &[R], left: usize) -> String {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.as_ref().get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let titled = |column: usize| rows.first().is_some_and(|head| !head.as_ref()[column].is_empty());
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.as_ref().iter().zip(&widths).enumerate() {
            line += &match column < left || !titled(column) {
                true => format!("  {cell:<width$}"),
                false => format!("  {cell:>width$}"),
            };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}
