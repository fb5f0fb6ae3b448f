//! `inspect`: what is in a model file, its graph, and what would run where.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Error, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use super::args::{EngineArgs, ModelArg};
use super::planning::{Asked, Site, Subject, offload};
use super::{Usage, open, planning};
use crate::inspect::{Planned, Report, Saved, diff, dot, html, json, text, why};
use crate::models::{CacheSpec, Model, Sliding};
use crate::plan::Offload;
use crate::text::Tokenizer;
use crate::units::Tokens;

/// Show what is in a model file, its graph, and what would run where
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write one part alone, in its file form
    #[arg(long, value_enum, value_name = "PART", conflicts_with = "format")]
    emit: Option<Emit>,
    /// Explain why one node runs where it runs; NODE is a name, or an id such as n12
    #[arg(long, value_name = "NODE", conflicts_with = "emit")]
    why: Option<String>,
    /// Machine to plan for: the name of a shipped one, or a JSON file [default: this one, as `run` uses it]
    #[arg(long, value_name = "NAME|FILE")]
    machine: Option<String>,
    /// Ops whose weights are in host memory: never, auto, or streamed to an accelerator from N rows on
    #[arg(long, value_name = "RULE", default_value = "auto", value_parser = offload)]
    offload: Offload,
    /// Tokens of the step that the graph is for
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Tokens that the cache holds [default: the model's context, at most 4096; 0: the model's]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=super::args::MOST_TOKENS))]
    ctx_size: Option<u32>,
    #[command(flatten)]
    against: Against,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Another plan, from which the one asked for is told apart. What is not given is as for the one asked for.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Compare with another plan")]
struct Against {
    /// Show what differs from the plan for this machine
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["emit", "why"])]
    against_machine: Option<String>,
    /// Show what differs from the plan for a step of N tokens
    #[arg(long, value_name = "N", conflicts_with_all = ["emit", "why"], value_parser = clap::value_parser!(u32).range(1..=65536))]
    against_batch: Option<u32>,
    /// Show what differs from the plan under this rule
    #[arg(long, value_name = "RULE", conflicts_with_all = ["emit", "why"], value_parser = offload)]
    against_offload: Option<Offload>,
    /// Show what differs from a plan that --format json saved
    #[arg(long, visible_alias = "diff", value_name = "FILE", conflicts_with_all = ["emit", "why", "against_machine", "against_batch", "against_offload"])]
    against_plan: Option<PathBuf>,
}

impl Against {
    fn is_asked(&self) -> bool {
        let Against { against_machine: machine, against_batch, against_offload, against_plan: plan } = self;
        machine.is_some() || against_batch.is_some() || against_offload.is_some() || plan.is_some()
    }
}

/// How a report is shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Tables
    Text,
    /// One JSON document: metadata, tensors, graph, plan
    Json,
    /// The graph for Graphviz
    Dot,
    /// One page to look at in a browser, without a network
    Html,
}

/// A part that is a file of its own.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Emit {
    /// The model without its weights: metadata, and the type and shape of every tensor
    Shape,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster inspect model.gguf
  loadmaster inspect qwen3-30b-a3b-q4_k_m --machine rtx4080 --batch 512 --why blk.3.ffn_down_exps
  loadmaster inspect model.gguf --machine rtx4090 --why output --format json | jq .possible
  loadmaster inspect model.gguf --machine rtx4090 --batch 512 --against-batch 1
  loadmaster inspect model.gguf --batch 512 --format json | jq '.graph.nodes | length'
  loadmaster inspect model.gguf --format dot | dot -Tsvg > model.svg
  loadmaster inspect model.gguf --format html > model.html
  loadmaster inspect model.gguf --emit shape > model.json";

pub(super) fn run(args: Args) -> Result<()> {
    let subject = Subject::open(&args.model.path())?;
    if let Some(Emit::Shape) = args.emit {
        return show(&subject.shape());
    }
    let site = Site::resolve(args.machine.as_deref(), args.engine.threads)?;
    let model = subject.model();
    let asked = match &model {
        Ok(model) => args.asked(&subject, model, &site),
        Err(why) => Err(why.to_string()),
    };
    let made = asked.as_ref().map_err(Clone::clone).and_then(Asked::made);
    let planned = made.as_ref().map(|made| made.planned(&site.machine)).map_err(Clone::clone);
    if args.against.is_asked() {
        let planned = planned.map_err(Error::msg)?;
        return show(&args.compared(&subject, &model?, &site, &planned)?);
    }
    if let Some(asked) = &args.why {
        let why = why(&planned.map_err(Error::msg)?, asked)?;
        return show(&match args.format {
            Format::Text => why.to_text(),
            Format::Json => why.to_json(),
            Format::Dot | Format::Html => bail!(Usage("a node is explained as text or json".to_owned())),
        });
    }
    let uncut = asked.and_then(|asked| asked.graph());
    let graph = match (&made, &uncut) {
        (Ok(made), _) => Ok(&made.graph),
        (Err(_), uncut) => uncut.as_ref().map_err(Clone::clone),
    };
    let unused = match (&model, &graph) {
        (Ok(model), Ok(_)) => model.unused_tensors()?,
        (Ok(_) | Err(_), _) => Vec::new(),
    };
    let plan = match &graph {
        Ok(_) => planned,
        Err(_) => Err("there is no graph".to_owned()),
    };
    let report = Report {
        source: subject.source(),
        machine: &site.machine,
        graph,
        plan,
        unused: &unused,
        notes: &notes(&subject),
    };
    show(&match args.format {
        Format::Text => text(&report),
        Format::Json => json(&report),
        Format::Dot => dot(&report),
        Format::Html => html(&report),
    })
}

fn show(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// What is odd in a file beside its graph.
fn notes(subject: &Subject) -> Vec<String> {
    let Subject::File(gguf) = subject else { return Vec::new() };
    match Tokenizer::from_metadata(gguf.metadata()) {
        Ok(tokenizer) => open::tokenizer_notes(&tokenizer),
        Err(why) => vec![why.to_string()],
    }
}

impl Args {
    /// What differs between another plan and the one asked for.
    fn compared(&self, subject: &Subject, model: &Model, site: &Site, to: &Planned<'_>) -> Result<String> {
        let compare = |from: &Planned<'_>| match self.format {
            Format::Text => Ok(diff(from, to).to_text()),
            Format::Json => Ok(diff(from, to).to_json()),
            Format::Dot | Format::Html => Err(Usage("plans are compared as text or json".to_owned())),
        };
        if let Some(path) = &self.against.against_plan {
            let saved = Saved::parse(&planning::text(path)?).with_context(|| path.display().to_string())?;
            return Ok(compare(&saved.planned())?);
        }
        let other = self.against.against_machine.as_deref();
        let other = other.map(|name| Site::resolve(Some(name), self.engine.threads)).transpose()?;
        let site = other.as_ref().unwrap_or(site);
        let asked = self.asked(subject, model, site).map_err(Error::msg)?;
        let batch = self.against.against_batch.map_or(asked.batch, Tokens);
        let offload = self.against.against_offload.unwrap_or(asked.offload);
        let made = Asked { batch, offload, ..asked }.made().map_err(Error::msg)?;
        Ok(compare(&made.planned(&site.machine))?)
    }

    fn asked<'a>(&self, subject: &'a Subject, model: &'a Model, site: &'a Site) -> Result<Asked<'a>, String> {
        let cells = open::context_of(model.hparams().context, self.ctx_size).map_err(|e| e.to_string())?;
        let EngineArgs { cache_type_k: keys, cache_type_v: values, mmap: keep_mapping, .. } = self.engine;
        let sliding = Some(Sliding { sequences: 1, step: Tokens(self.engine.step()) });
        let cache = CacheSpec { cells, keys, values, sliding };
        // Both plans of a comparison have the homes of the larger step.
        let largest = Tokens(self.engine.step().max(self.batch).max(self.against.against_batch.unwrap_or(0)));
        let (batch, offload, together) = (Tokens(self.batch), self.offload, self.engine.split.together());
        Ok(Asked { subject, model, site, batch, largest, cache, offload, keep_mapping, together })
    }
}
