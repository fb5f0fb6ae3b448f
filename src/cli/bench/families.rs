//! `bench --families`: the devices of a sweep, each with the whole model → time by family of ops.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::backend;
use crate::bench::{DeviceTime, FamilyTrial, Test, host, time_families};
use crate::cli::args::EngineArgs;
use crate::cli::cards::DeviceName;
use crate::cli::progress::Bar;
use crate::cli::{in_one_line, note, open};
use crate::index::Id;
use crate::units::{Bytes, Tokens};

/// Every device that is named, with a step of the longest prompt and one of a generated token; what cannot be measured
/// is told and left out.
pub(super) fn times(model: &Path, combinations: &[EngineArgs], tests: &[Test], repetitions: u32) -> Vec<DeviceTime> {
    let mut times = Vec::new();
    let mut seen: Vec<DeviceName> = Vec::new();
    for combination in combinations {
        for &device in &combination.devices {
            if seen.contains(&device) {
                continue;
            }
            seen.push(device);
            for tokens in steps(tests, combination.step()) {
                match time(model, combination, (device, tokens), repetitions) {
                    Ok(time) => times.push(time),
                    Err(why) => {
                        note(&format!("note: no time by family on {device}: {}", in_one_line(&why)));
                        break;
                    }
                }
            }
        }
    }
    times
}

/// Tokens of the steps of the longest prompt, and of generation.
fn steps(tests: &[Test], most: u32) -> Vec<Tokens> {
    let prompt = tests.iter().filter_map(|test| match *test {
        Test::Prompt(n) => Some(n.min(most)),
        Test::Generate(_) => None,
    });
    let generate = tests.iter().any(|test| matches!(test, Test::Generate(_))).then_some(1);
    let mut steps: Vec<Tokens> = prompt.max().into_iter().chain(generate).map(Tokens).collect();
    steps.dedup();
    steps
}

fn time(
    model: &Path,
    combination: &EngineArgs,
    (device, tokens): (DeviceName, Tokens),
    repetitions: u32,
) -> Result<DeviceTime> {
    let gguf = Arc::new(open::gguf(model)?);
    let alone = EngineArgs { devices: vec![device], budget: Vec::new(), ..combination.clone() };
    let threads = combination.threads.unwrap_or_else(host::physical_cores);
    let machine = alone.machine(&alone.cards(), threads, host::available_memory().unwrap_or(Bytes(1 << 60)))?;
    let spec = machine.devices[Id::from_index(0)].clone();
    let budget = machine.budget(spec.memory);
    let trial = FamilyTrial {
        gguf: &gguf,
        device: (spec, budget),
        open: &backend::open,
        tokens,
        cache: (combination.cache_type_k, combination.cache_type_v),
        keep_mapping: combination.mmap,
        repetitions,
    };
    let bar = Bar::bytes("loading");
    Ok(time_families(&trial, &|done, total| bar.at(done.0, total.0))?)
}
