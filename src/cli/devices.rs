//! `devices`: this computer or a described machine → a table, or the machine file that plans are made from.

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::{Usage, note};
use crate::backend::cuda::{self, CardFacts};
use crate::backend::vulkan::{self, AdapterFacts};
use crate::bench::{AdapterRates, calibrate, calibrate_adapter, host};
use crate::device::file::{MOST_BYTES, MachineFile};
use crate::device::{DeviceId, DeviceSpec, Machine, MemoryId, Rates};
use crate::index::Id;
use crate::inspect::{machine as table, prose};
use crate::units::{BytesPerSec, OpsPerSec};

/// Show the memories, devices and links that plans are made for, and how fast they are
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Write the machine file that the planner reads
    #[arg(long)]
    json: bool,
    /// Measure this computer's rates and those of its adapters, for a few seconds, instead of showing usual ones
    #[arg(long, conflicts_with = "machine")]
    calibrate: bool,
    /// Show a described machine: the name of a shipped one, or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    machine: Option<String>,
    /// Threads of the processor [default: physical cores available to the process]
    #[arg(short, long, value_name = "N", conflicts_with = "machine", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster devices                                 this computer, at usual rates
  loadmaster devices --calibrate --json > here.json  this computer, measured, as a machine file
  loadmaster devices --machine here.json
  loadmaster devices --machine rtx4090               a machine that is described inside the program";

pub(super) fn run(args: Args) -> Result<()> {
    let file = match &args.machine {
        Some(machine) => described(machine)?,
        None => this_computer(args.threads.unwrap_or_else(host::physical_cores), args.calibrate)?,
    };
    let machine = file.machine()?;
    let mut out = io::stdout().lock();
    if args.json {
        out.write_all(file.to_json().as_bytes())?;
    } else {
        if !file.about.is_empty() {
            writeln!(out, "{}\n", prose(&file.about))?;
        }
        out.write_all(table(&machine).as_bytes())?;
        if args.machine.is_none() {
            out.write_all(cuda_cards(args.calibrate)?.as_bytes())?;
            out.write_all(adapters(args.calibrate)?.as_bytes())?;
        }
    }
    Ok(out.flush()?)
}

/// What `--devices cuda:N` may name here, or why there is none.
fn cuda_cards(measured: bool) -> Result<String> {
    let cards = match cuda::cards() {
        Ok(cards) => cards,
        Err(why) => return Ok(format!("\ncuda: {why}\n")),
    };
    let mut text = "\ncuda:\n".to_owned();
    for facts in &cards {
        let CardFacts { device, name, driver, bus, architecture, multiprocessors, memory, free, .. } = facts;
        let (major, minor) = (architecture / 10, architecture % 10);
        text += &format!("  {device}  {name} at {bus}; {driver}; compute capability {major}.{minor}, ");
        text += &format!("{multiprocessors} multiprocessors; memory {memory}, {free} free now\n");
        match facts.refused() {
            Some(why) => text += &format!("    not driven: {why}\n"),
            None if measured => text += &rates_of(&facts.spec(MemoryId::from_index(0), 1), false)?,
            None => {}
        }
    }
    Ok(text)
}

/// What a card attains, measured now.
fn rates_of(spec: &DeviceSpec, software: bool) -> Result<String> {
    let found = calibrate_adapter(spec, software);
    found.map(|found| attained(&found)).with_context(|| format!("{}: the rates cannot be measured", spec.name))
}

/// What `--devices vulkan:N` may name here.
fn adapters(measured: bool) -> Result<String> {
    let all = vulkan::adapters();
    if all.is_empty() {
        return Ok("\nvulkan: no driver offers an adapter\n".to_owned());
    }
    let mut text = "\nvulkan:\n".to_owned();
    for facts in &all {
        let AdapterFacts { device, name, driver, bus, software, shared, memory, free, .. } = facts;
        let AdapterFacts { features, subgroup, buffer, binding, .. } = facts;
        let place = if bus.is_empty() { "" } else { " at " };
        let kind = if *software { ", on the processor" } else { "" };
        let (from, to) = subgroup;
        text += &format!("  {device}  {name}{place}{bus}{kind}; {driver}; subgroups of {from} to {to}");
        let whose = if *shared { " of the host's" } else { "" };
        text += &memory.map_or(String::new(), |memory| format!("; memory {memory}{whose}"));
        text += &free.map_or(String::new(), |free| format!(", {free} free now"));
        text += &format!("; buffers up to {buffer}, seen {binding} at a time; {}\n", features.join(", "));
        if measured {
            text += &rates_of(&facts.spec(MemoryId::from_index(0), 1), *software)?;
        }
    }
    Ok(text)
}

fn attained(found: &AdapterRates) -> String {
    let AdapterRates { rates, to, from } = found;
    let Rates { read, int8, f16, f32, node, split, hides: _ } = rates;
    let bytes = |rate: &BytesPerSec| format!("{:.2} GB/s", rate.0 / 1e9);
    let ops = |rate: &OpsPerSec| format!("{:.2} Gop/s", rate.0 / 1e9);
    let (read, to, from) = (bytes(read), bytes(to), bytes(from));
    let (int8, f16, f32) = (ops(int8), ops(f16), ops(f32));
    format!(
        "    measured: reads {read}, multiplies {int8} with q4_k, {f16} with f16, {f32} with f32; a node {node}, a split \
         {split}; host to device {to}, back {from}\n"
    )
}

/// The file of a shipped machine's name, or at a path.
pub(super) fn described(machine: &str) -> Result<MachineFile> {
    if let Some(text) = Machine::shipped_file(machine) {
        return Ok(MachineFile::parse(text)?);
    }
    let mut text = String::new();
    match File::open(machine) {
        // One byte more than the reader takes: what has no end is refused by its length.
        Ok(file) => file.take(MOST_BYTES as u64 + 1).read_to_string(&mut text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let names: Vec<&str> = Machine::shipped_names().collect();
            let names = names.join(", ");
            bail!(Usage(format!("--machine {machine}: there is no such file; shipped machines are {names}")))
        }
        Err(error) => Err(error),
    }
    .with_context(|| format!("{machine}: cannot read the machine file"))?;
    MachineFile::parse(&text).with_context(|| machine.to_owned())
}

fn this_computer(threads: u32, measured: bool) -> Result<MachineFile> {
    let mut machine = host::machine(threads);
    let device = DeviceId::from_index(0);
    if measured {
        note("measuring this computer's rates for a few seconds; they vary with what else runs");
        let free = machine.memories[machine.devices[device].memory].free;
        let rates = calibrate(threads, free, &machine.devices[device].rates);
        machine.devices[device].rates = rates.context("the rates cannot be measured")?;
    }
    let mut file = MachineFile::of(&machine);
    file.about = format!("This computer: {}.", host::cpu_name());
    let source = if measured {
        "Measured by `loadmaster devices --calibrate`: medians; `hides` is a usual share."
    } else {
        "Usual for two cores; `loadmaster devices --calibrate` measures."
    };
    file.devices.iter_mut().for_each(|d| d.rates.source = source.to_owned());
    file.memories.iter_mut().for_each(|m| m.source = "As the system says.".to_owned());
    Ok(file)
}
