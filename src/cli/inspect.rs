//! `inspect`: what is in a model file, its graph, and what would run where.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};

use super::args::{EngineArgs, ModelArg};
use super::open;
use crate::bench::host;
use crate::device::{BackendKind, Machine, MemoryId};
use crate::exec::homes;
use crate::graph::{Batch, Graph};
use crate::index::Id;
use crate::inspect::{Report, dot, json, shape, text};
use crate::models::{CacheSpec, Model, ModelError};
use crate::plan::{Policy, plan};
use crate::text::Tokenizer;
use crate::units::{Bytes, Tokens};

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
    /// Tokens of the step that the graph is for
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Tokens that the cache holds [default: the model's context, at most 4096; 0: the model's]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=super::args::MOST_TOKENS))]
    ctx_size: Option<u32>,
    #[command(flatten)]
    engine: EngineArgs,
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
  loadmaster inspect model.gguf --batch 512 --format json | jq '.graph.nodes | length'
  loadmaster inspect model.gguf --format dot | dot -Tsvg > model.svg
  loadmaster inspect model.gguf --emit shape > model.json";

pub(super) fn run(args: Args) -> Result<()> {
    let gguf = open::gguf(&args.model.path())?;
    if let Some(Emit::Shape) = args.emit {
        return Ok(io::stdout().write_all(shape(&gguf).as_bytes())?);
    }
    let threads = args.engine.threads.unwrap_or_else(host::physical_cores);
    let budget = host::available_memory().unwrap_or(Bytes(1 << 60));
    let machine = Machine::single(BackendKind::Cpu, threads, budget);
    let model = Model::from_gguf(&gguf);
    let graph = model.as_ref().map_err(ToString::to_string).and_then(|model| {
        let context = open::context(&gguf, args.ctx_size).map_err(|e| e.to_string())?;
        graph(model, &args, context).map_err(|e| e.to_string())
    });
    let plan = match &graph {
        Ok(graph) => {
            let homes = homes(graph, &gguf, MemoryId::from_index(0), args.engine.mmap);
            plan(graph, &homes, &machine, &Policy::default()).map_err(|e| e.to_string())
        }
        Err(_) => Err("there is no graph".to_owned()),
    };
    let unused = match (&model, &graph) {
        (Ok(model), Ok(_)) => model.unused_tensors()?,
        (Ok(_) | Err(_), _) => Vec::new(),
    };
    let notes = match Tokenizer::from_metadata(gguf.metadata()) {
        Ok(tokenizer) => open::tokenizer_notes(&tokenizer),
        Err(why) => vec![why.to_string()],
    };
    let report = Report {
        gguf: &gguf,
        machine: &machine,
        graph: graph.as_ref().map_err(Clone::clone),
        plan: plan.as_ref().map_err(Clone::clone),
        unused: &unused,
        notes: &notes,
    };
    let shown = match args.format {
        Format::Text => text(&report),
        Format::Json => json(&report),
        Format::Dot => dot(&report),
    };
    let mut out = io::stdout().lock();
    out.write_all(shown.as_bytes())?;
    Ok(out.flush()?)
}

fn graph(model: &Model, args: &Args, context: Tokens) -> Result<Graph, ModelError> {
    let batch = Batch { tokens: Tokens(args.batch), outputs: Tokens(1) };
    let EngineArgs { cache_type_k: keys, cache_type_v: values, .. } = args.engine;
    model.graph(batch, CacheSpec { cells: context, keys, values })
}
