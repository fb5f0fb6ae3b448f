//! `sim`: a model, a machine and a workload → how fast it would run there and what it would wait for, in virtual time.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use serde::Serialize;

use super::args::{CacheArgs, GpuLayers, ModelArg, SplitArgs, gpu_layers};
use super::planning::{Subject, offload};
use super::{devices, planning};
use crate::device::Machine;
use crate::fit::{DecodePhase, Request, Wishes, fit};
use crate::graph::{Batch, Graph};
use crate::inspect::escape;
use crate::models::{CacheSpec, Model, Sliding};
use crate::plan::{MemoryUse, Offload, Policy};
use crate::sim::{Causes, Overlap, Phase, Rows, Simulation, causes, levels, simulate, trace};
use crate::tensor::DType;
use crate::units::{Bytes, Nanos, Tokens, Workload};

/// Say how fast a model would run on a machine, and what it would wait for; runs nothing
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The machine: the name of a shipped one, or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    machine: String,
    /// Most tokens computed in one step [-ub]
    #[arg(long, visible_alias = "batch", value_name = "N", default_value_t = 512, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    ubatch_size: u32,
    /// Tokens of the prompt, and tokens generated behind it
    #[arg(long, value_name = "PP:TG", default_value = "512:128", value_parser = workload)]
    workload: Workload,
    /// Layers that must be on accelerators, from the last [-ngl]; auto: as many as pay
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", allow_hyphen_values = true, value_parser = gpu_layers)]
    n_gpu_layers: Option<GpuLayers>,
    /// All experts stay with the processor [-cmoe]
    #[arg(long)]
    cpu_moe: bool,
    #[command(flatten)]
    caches: CacheArgs,
    #[command(flatten)]
    split: SplitArgs,
    /// When ops whose weights the processor has run on an accelerator: never, auto, or from N tokens on
    #[arg(long, value_name = "RULE", default_value = "auto", value_parser = offload)]
    offload: Offload,
    /// Stream all experts of a layer, not those alone that a batch is expected to choose
    #[arg(long)]
    all_experts: bool,
    /// No device copies while it computes
    #[arg(long)]
    no_overlap: bool,
    /// Measured rows (JSON) that the machine's rates are made to explain first
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// Write what happens when, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster sim qwen2.5-32b-q4_k_m --machine rtx4080 -ngl 40
  loadmaster sim qwen2.5-32b-q4_k_m --machine rtx4080 -ngl 0 --kv accelerator -ub 2048 --workload 2048:0 --trace t.json
  loadmaster sim deepseek-v3-iq1_s --machine rtx3090x2-ddr4 -cmoe --workload 4096:128 -ub 4096";

/// `PP:TG`; one of them may be 0.
pub(super) fn workload(text: &str) -> Result<Workload, String> {
    let needed = || format!("needed two numbers up to {} such as 512:128", super::args::MOST_TOKENS);
    let number = |n: &str| n.parse().ok().filter(|&n: &u32| i64::from(n) <= super::args::MOST_TOKENS).map(Tokens);
    let (prompt, generate) = text.split_once(':').ok_or_else(needed)?;
    match (number(prompt), number(generate)) {
        (Some(Tokens(0)), Some(Tokens(0))) | (None, _) | (_, None) => Err(needed()),
        (Some(prompt), Some(generate)) => Ok(Workload { prompt, generate }),
    }
}

pub(super) fn run(args: Args) -> Result<()> {
    let model = Subject::open(&args.model.path())?.model()?;
    let mut machine = devices::described(&args.machine)?.machine()?;
    let mut out = io::stdout().lock();
    if let Some(path) = &args.calibrate {
        let (calibrated, rows) = calibrated(&model, &machine, path)?;
        machine = calibrated;
        if !args.json {
            out.write_all(rows.as_bytes())?;
        }
    }
    let machine = if args.no_overlap { Overlap::Off } else { Overlap::Spec }.of(&machine);
    let request = args.request();
    let Workload { prompt, generate } = args.workload;
    let cells = Tokens(prompt.0.saturating_add(generate.0));
    let shape = (cells, request.ubatch);
    let graphs = |batch: Batch| graph(&model, batch.tokens, shape).map_err(|e| e.to_string());
    let found = fit(&graphs, &machine, &request).context("nothing fits")?;
    let decode = found.decode_phase.as_ref().map_or(&found.decode, |phase| &phase.decode);
    let simulation = simulate(&found.prefill, decode, &machine, &request.policy, args.workload);
    if let Some(path) = &args.trace {
        fs::write(path, trace(&machine, &simulation)).with_context(|| format!("{}: cannot write", path.display()))?;
    }
    let report = Report::of(&machine, &simulation, found.decode_phase.as_ref());
    let shown = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
    out.write_all(shown.as_bytes())?;
    Ok(out.flush()?)
}

impl Args {
    fn request(&self) -> Request {
        let policy = Policy { offload: self.offload, chosen_experts: !self.all_experts, ..Policy::default() };
        let wishes = Wishes {
            gpu_layers: self.n_gpu_layers.and_then(GpuLayers::asked),
            host_moe_layers: if self.cpu_moe { u32::MAX } else { 0 },
            cache: self.caches.home(),
            together: self.split.together(),
            ..Wishes::default()
        };
        let ubatch = Tokens(self.ubatch_size).min(self.workload.prompt).max(Tokens(1));
        Request { ubatch, workload: self.workload, policy, wishes }
    }
}

fn graph(model: &Model, tokens: Tokens, (cells, step): (Tokens, Tokens)) -> Result<Graph> {
    let sliding = Some(Sliding { sequences: 1, step });
    let cache = CacheSpec { cells, keys: DType::F16, values: DType::F16, sliding };
    Ok(model.graph(Batch { tokens, outputs: Tokens(1) }, cache)?)
}

/// The machine that explains the rows of a file, and a table of them.
fn calibrated(model: &Model, machine: &Machine, path: &Path) -> Result<(Machine, String)> {
    let rows = Rows::parse(&planning::text(path)?).with_context(|| path.display().to_string())?;
    let most = rows.rows.iter().map(|row| row.tokens).max().unwrap_or(Tokens(1));
    // All buckets of a model can be built or none, but for their size.
    graph(model, most, (most, most))?;
    let built =
        |tokens| graph(model, tokens, (most, most)).expect("a smaller bucket of a model whose largest was built");
    let machine = rows.calibrate(machine, &built)?;
    let predicted = rows.predict(&machine, &built)?;
    let mut table = format!("{:>8}  {:>8}  {:>12}  {:>12}\n", "tokens", "layers", "measured", "predicted");
    for (row, time) in rows.rows.iter().zip(predicted) {
        let measured = row.time().unwrap_or_default().to_string();
        let (tokens, layers) = (row.tokens.0, row.homes.layers);
        table += &format!("{tokens:>8}  {layers:>8}  {measured:>12}  {:>12}\n", time.to_string());
    }
    Ok((machine, table + "\n"))
}

/// What is shown of a simulation.
#[derive(Serialize)]
struct Report {
    phases: Vec<PhaseReport>,
    /// What is brought behind the prompt, where decode has homes of its own.
    between: Option<Between>,
}

#[derive(Serialize)]
struct Between {
    bytes: Bytes,
    nanoseconds: Nanos,
}

#[derive(Serialize)]
struct PhaseReport {
    name: &'static str,
    tokens: Tokens,
    steps: u32,
    nanoseconds: Nanos,
    tokens_per_second: f64,
    /// Steps whose timeline was worked out, which the times of devices are of.
    shown: u32,
    devices: Vec<DeviceReport>,
    memories: Vec<MemoryReport>,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    #[serde(flatten)]
    causes: Causes,
}

#[derive(Serialize)]
struct MemoryReport {
    name: String,
    #[serde(flatten)]
    allocated: MemoryUse,
    total: Bytes,
    budget: Bytes,
    /// The most bytes that hold something needed at any time.
    used: Bytes,
}

impl Report {
    fn of(machine: &Machine, simulation: &Simulation, decode: Option<&DecodePhase>) -> Report {
        let phases = simulation.phases().map(|(name, phase)| PhaseReport {
            name,
            tokens: phase.tokens,
            steps: phase.steps,
            shown: phase.timeline.events.iter().map(|event| event.step + 1).max().unwrap_or(0),
            nanoseconds: phase.time,
            tokens_per_second: phase.rate(),
            devices: devices_of(machine, phase),
            memories: memories_of(machine, phase),
        });
        let between = decode.map(|phase| {
            let DecodePhase { brought, bring_time, .. } = phase;
            Between { bytes: brought.iter().copied().sum(), nanoseconds: *bring_time }
        });
        Report { phases: phases.collect(), between }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for phase in &self.phases {
            let (time, rate) = (phase.nanoseconds.to_string(), phase.tokens_per_second);
            let steps = if phase.steps == 1 { "step" } else { "steps" };
            text +=
                &format!("{}: {} in {} {steps}, {time}, {rate:.2} tokens/s\n", phase.name, phase.tokens, phase.steps);
            match phase.shown {
                shown if shown == phase.steps => {}
                1 => text += "  devices in each step:\n",
                shown => text += &format!("  devices in the first {shown} steps:\n"),
            }
            text += &table(["device", "compute", "transfer", "upload", "idle"], &phase.devices, |d| {
                let Causes { compute, transfer, upload, idle } = d.causes;
                (&d.name, [compute, transfer, upload, idle].map(|n| n.to_string()).to_vec())
            });
            let head = ["memory", "weights", "states", "arenas", "rings", "all", "of", "used"];
            text += &table(head, &phase.memories, |m| {
                let MemoryUse { weights, states, arenas, rings } = m.allocated;
                let bytes = [weights, states, arenas, rings, m.total, m.budget, m.used];
                (&m.name, bytes.map(|n| n.to_string()).to_vec())
            });
            text.push('\n');
        }
        if let Some(Between { bytes, nanoseconds }) = &self.between {
            text += &format!("between them {bytes} of weights are brought in {nanoseconds}\n");
        }
        text
    }
}

fn table<T, const N: usize>(head: [&str; N], rows: &[T], cells: impl Fn(&T) -> (&str, Vec<String>)) -> String {
    let line = |name: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>12}")).collect();
        format!("  {name:<12}{cells}\n")
    };
    let mut text = line(head[0], &head[1..].iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    for row in rows {
        let (name, cells) = cells(row);
        text += &line(name, &cells);
    }
    text
}

fn devices_of(machine: &Machine, phase: &Phase) -> Vec<DeviceReport> {
    let causes = causes(machine, &phase.plan, &phase.timeline);
    let report = |(id, &causes)| DeviceReport { name: escape(&machine.devices[id].name), causes };
    causes.iter_ids().map(report).collect()
}

fn memories_of(machine: &Machine, phase: &Phase) -> Vec<MemoryReport> {
    let levels = levels(machine, phase);
    let report = |(id, &allocated): (_, &MemoryUse)| MemoryReport {
        name: escape(&machine.memories[id].name),
        allocated,
        total: allocated.total(),
        budget: machine.budget(id),
        used: levels[id].iter().map(|level| level.total()).max().unwrap_or_default(),
    };
    phase.plan.memories.iter_ids().map(report).collect()
}
