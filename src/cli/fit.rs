//! `fit`: where every weight, run of experts and cache would live on a machine, and the flags that make other engines
//! load the model that way.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};

use super::args::{CacheArgs, GpuLayers, ModelArg, SplitArgs, cache_type, gpu_layers};
use super::planning::{Subject, offload};
use super::{Usage, devices};
use crate::fit::{Extent, Override, Request, Sizes, Wishes, fit_sizes, flags, json, table};
use crate::graph::Batch;
use crate::inspect::prose;
use crate::models::{CacheSpec, Sliding};
use crate::plan::{Offload, Policy};
use crate::tensor::DType;
use crate::units::{Bytes, Tokens, Workload};

/// Find a home for every weight, expert and cache on a machine, so that everything fits and the workload takes least time
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The machine: the name of a shipped one, or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    machine: String,
    /// Tokens that the cache holds [default: the model's context, at most 4096]; 0: the model's; auto: as many as leave
    /// accelerators what they hold with 4096
    #[arg(short, long, value_name = "N|auto", allow_hyphen_values = true, value_parser = context)]
    ctx_size: Option<Size>,
    /// Tokens of the prompt, and tokens generated behind it, that are to take least time
    #[arg(long, value_name = "PP:TG", default_value = "512:128", value_parser = workload)]
    workload: Workload,
    /// When ops whose weights the processor has run on an accelerator: never, auto, or from N tokens on
    #[arg(long, value_name = "RULE", default_value = "auto", value_parser = offload)]
    offload: Offload,
    /// Layers whose experts stay with the processor, from the first
    #[arg(long, visible_alias = "ncmoe", value_name = "N", default_value_t = 0)]
    n_cpu_moe: u32,
    /// All experts stay with the processor [-cmoe]
    #[arg(long)]
    cpu_moe: bool,
    #[command(flatten)]
    caches: CacheArgs,
    #[command(flatten)]
    split: SplitArgs,
    /// Proportions of the layers, a device or group of devices each [-ts]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = proportion)]
    tensor_split: Option<Vec<f64>>,
    /// Tensors that live with a device of your choice: matched by their names; the first pattern decides [-ot]
    #[arg(long, value_name = "REGEX=DEVICE,...", value_parser = overrides)]
    override_tensor: Vec<Overrides>,
    /// MiB that stay free: of every accelerator, or DEVICE=MIB of one; may be given several times
    #[arg(long, value_name = "[DEVICE=]MIB", value_parser = margin)]
    fit_margin: Vec<(Option<String>, Bytes)>,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Emit::Table)]
    emit: Emit,
    /// Most tokens computed in one step; auto: with which the workload takes least time [-ub]
    #[arg(long, value_name = "N|auto", default_value = "512", allow_hyphen_values = true, value_parser = ubatch)]
    ubatch_size: Size,
    /// Type of cached keys [-ctk]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    cache_type_k: DType,
    /// Type of cached values [-ctv]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    cache_type_v: DType,
    /// Layers that must be on accelerators, from the last [-ngl]; auto: as many as pay
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", allow_hyphen_values = true, value_parser = gpu_layers)]
    n_gpu_layers: Option<GpuLayers>,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// Memories with what they hold, and the predicted speeds
    Table,
    /// One document with the home of every weight
    Json,
    /// Flags for llama.cpp
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// Flags for ik_llama.cpp
    #[value(name = "ik_llama.cpp")]
    IkLlamaCpp,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster fit kimi-k2.5-ud-iq3_xxs --machine kimi-8gpu -c 32768 -ub 2560
  loadmaster fit qwen2.5-32b-q4_k_m --machine rtx4080 --emit llama.cpp
  loadmaster fit model.gguf --machine rtx4090 -ngl 30 --fit-margin 2048";

pub(super) fn run(args: Args) -> Result<()> {
    if args.split.together() > 1 && matches!(args.emit, Emit::LlamaCpp | Emit::IkLlamaCpp) {
        let needed =
            "the flags of other engines name layers, and with --split-mode tensor every device has a part of each";
        return Err(Usage(format!("{needed}: needed --emit table or json")).into());
    }
    let subject = Subject::open(&args.model.path())?;
    let machine = devices::described(&args.machine)?.machine()?;
    let model = subject.model()?;
    let own = model.hparams().context;
    let context = match args.ctx_size {
        None => Some(own.min(4096)),
        Some(Size::Tokens(0)) => Some(own),
        Some(Size::Tokens(asked)) => Some(asked),
        Some(Size::Auto) => None,
    };
    let ubatch = match args.ubatch_size {
        Size::Tokens(asked) => Some(Tokens(asked)),
        Size::Auto => None,
    };
    let sizes = Sizes { context: context.map(Tokens), ubatch, most: Tokens(own) };
    let graphs = |batch: Batch, extent: Extent| {
        let sliding = Some(Sliding { sequences: 1, step: extent.ubatch });
        let cache = CacheSpec { cells: extent.context, keys: args.cache_type_k, values: args.cache_type_v, sliding };
        model.graph(batch, cache).map_err(|e| e.to_string())
    };
    let request = Request {
        ubatch: ubatch.unwrap_or_default(),
        workload: args.workload,
        policy: Policy { offload: args.offload, ..Policy::default() },
        wishes: wishes(&args),
    };
    let found = fit_sizes(&graphs, &machine, &request, sizes).context("nothing fits")?.fit;
    let shown = match args.emit {
        Emit::Table => table(&found, &machine, args.workload),
        Emit::Json => json(&found, &machine, args.workload),
        Emit::LlamaCpp | Emit::IkLlamaCpp => {
            flags(&found, &machine)
                + "
"
        }
    };
    Ok(io::stdout().write_all(prose(&shown).as_bytes())?)
}

fn wishes(args: &Args) -> Wishes {
    Wishes {
        gpu_layers: args.n_gpu_layers.and_then(GpuLayers::asked),
        tensor_split: args.tensor_split.clone(),
        together: args.split.together(),
        host_moe_layers: if args.cpu_moe { u32::MAX } else { args.n_cpu_moe },
        cache: args.caches.home(),
        overrides: args.override_tensor.iter().flat_map(|o| o.0.clone()).collect(),
        margins: args.fit_margin.clone(),
    }
}

/// What `-c` and `-ub` take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Tokens(u32),
    Auto,
}

fn context(text: &str) -> Result<Size, String> {
    size(text, 0, super::args::MOST_TOKENS)
}

fn ubatch(text: &str) -> Result<Size, String> {
    size(text, 1, 65536)
}

fn size(text: &str, least: i64, most: i64) -> Result<Size, String> {
    if text == "auto" {
        return Ok(Size::Auto);
    }
    let number = text.parse().ok().filter(|&n: &u32| (least..=most).contains(&i64::from(n)));
    number.map(Size::Tokens).ok_or_else(|| format!("needed auto, or a number from {least} to {most}"))
}

/// The pairs of one `-ot`.
#[derive(Clone, Debug)]
struct Overrides(Vec<Override>);

fn overrides(text: &str) -> Result<Overrides, String> {
    Override::parse(text).map(Overrides)
}

/// As `sim` takes it, with a prompt.
fn workload(text: &str) -> Result<Workload, String> {
    let asked = super::sim::workload(text)?;
    if asked.prompt > Tokens(0) {
        Ok(asked)
    } else {
        Err("needed two numbers such as 512:128, the first at least 1".into())
    }
}

fn proportion(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| "needed numbers of 0 or more".into())
}

fn margin(text: &str) -> Result<(Option<String>, Bytes), String> {
    let (device, mib) = match text.rsplit_once('=') {
        Some((device, mib)) => (Some(device.to_owned()), mib),
        None => (None, text),
    };
    let mib: Option<u64> = mib.parse().ok().filter(|&n| n < 1 << 32);
    mib.map(|n| (device, Bytes::mib(n))).ok_or_else(|| "needed a number of MiB, or DEVICE=MIB".into())
}
