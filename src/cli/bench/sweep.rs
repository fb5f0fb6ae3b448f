//! Options that take several values → every combination of them as the options of an engine.

use std::fmt;

use clap::Args;

use crate::bench::{Settings, host};
use crate::cli::args::{EngineArgs, GpuLayers, Layout, SplitArgs, SplitMode, cache_type, gpu_layers};
use crate::cli::budget::{Budget, budget, recorded};
use crate::cli::cards::{Cards, DeviceName};
use crate::cli::planning::offload;
use crate::plan::Offload;
use crate::tensor::DType;

/// How a model is run, with several values of what a sweep may be over.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine; of options with several values every combination is measured")]
pub(super) struct SweepArgs {
    /// Devices over which the layers are dealt: cpu, vulkan:0 and so on; given again, other devices
    #[arg(long, value_name = "NAME,...", default_value = "cpu", value_parser = device_set)]
    devices: Vec<DeviceSet>,
    /// Layers to put on cards, from the last, and the others with the processor [-ngl]
    #[arg(long, visible_alias = "gpu-layers", value_name = "N,...", value_delimiter = ',', allow_hyphen_values = true, value_parser = gpu_layers)]
    n_gpu_layers: Vec<GpuLayers>,
    /// What several devices share: layers, each with its own, or every layer, cut into parts [-sm]
    #[arg(long, value_enum, value_name = "MODE,...", value_delimiter = ',', default_value = "layer")]
    split_mode: Vec<SplitMode>,
    /// Devices that work on a layer together under --split-mode tensor, paired by their links [default: all]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=64))]
    max_gpu: Option<u32>,
    /// When ops whose weights the processor has run on a card: never, auto, or from N tokens on; under --mmap, as cards
    /// cannot read rearranged weights
    #[arg(long, value_name = "RULE,...", value_delimiter = ',', default_value = "auto", value_parser = offload)]
    offload: Vec<Offload>,
    /// Memory that a device may take: a number of MiB for each, or one for all, or by name, such as vulkan:0=64MiB,cpu=2GiB,
    /// where others keep theirs [default: what is available]
    #[arg(long, value_name = "MIB|DEVICE=SIZE,...", value_delimiter = ',', allow_negative_numbers = true, value_parser = budget)]
    budget: Vec<Budget>,
    /// Threads, of each device [default: physical cores available to the process]
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: Vec<u32>,
    /// Most tokens of a batch; a step has no more than this either
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "2048", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: Vec<u32>,
    /// Most tokens computed in one step [-ub]
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "512", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    ubatch_size: Vec<u32>,
    /// Type of cached keys [-ctk]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', default_value = "f16", value_parser = cache_type)]
    cache_type_k: Vec<DType>,
    /// Type of cached values [-ctv]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', default_value = "f16", value_parser = cache_type)]
    cache_type_v: Vec<DType>,
    /// How cells of the cache are given out: any page serves, or those of one step lie side by side
    #[arg(long, value_enum, value_name = "LAYOUT", default_value_t = Layout::Paged)]
    kv: Layout,
    /// Keep weights in the file mapping instead of rearranging them in memory: starts sooner, computes slower
    #[arg(long)]
    mmap: bool,
}

/// Devices that compute together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DeviceSet(Vec<DeviceName>);

fn device_set(text: &str) -> Result<DeviceSet, String> {
    text.split(',').map(DeviceName::parse).collect::<Result<_, _>>().map(DeviceSet)
}

impl fmt::Display for DeviceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&names(&self.0))
    }
}

fn names(devices: &[DeviceName]) -> String {
    devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Which settings differ between the combinations of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Varied {
    pub devices: bool,
    pub n_gpu_layers: bool,
    pub split_mode: bool,
    pub offload: bool,
    pub n_batch: bool,
    pub n_ubatch: bool,
    pub type_k: bool,
    pub type_v: bool,
}

impl SweepArgs {
    /// Every combination, the first option's values slowest.
    pub fn combinations(&self) -> Vec<EngineArgs> {
        let layers: Vec<Option<GpuLayers>> = or_none(&self.n_gpu_layers);
        let threads: Vec<Option<u32>> = or_none(&self.threads);
        let mut all = vec![self.first()];
        vary(&mut all, &self.devices, |args, set| args.devices = set.0.clone());
        vary(&mut all, &layers, |args, layers| args.n_gpu_layers = *layers);
        vary(&mut all, &self.split_mode, |args, mode| args.split.split_mode = *mode);
        vary(&mut all, &self.offload, |args, rule| args.offload = *rule);
        vary(&mut all, &threads, |args, threads| args.threads = *threads);
        vary(&mut all, &self.batch_size, |args, size| args.batch_size = *size);
        vary(&mut all, &self.ubatch_size, |args, size| args.ubatch_size = *size);
        vary(&mut all, &self.cache_type_k, |args, dtype| args.cache_type_k = *dtype);
        vary(&mut all, &self.cache_type_v, |args, dtype| args.cache_type_v = *dtype);
        all
    }

    /// What differs between them, but for threads, which every table has.
    pub fn varied(&self) -> Varied {
        Varied {
            devices: self.devices.len() > 1,
            n_gpu_layers: self.n_gpu_layers.len() > 1,
            split_mode: self.split_mode.len() > 1,
            offload: self.offload.len() > 1,
            n_batch: self.batch_size.len() > 1,
            n_ubatch: self.ubatch_size.len() > 1,
            type_k: self.cache_type_k.len() > 1,
            type_v: self.cache_type_v.len() > 1,
        }
    }

    /// What all combinations have alike; the rest is filled in.
    fn first(&self) -> EngineArgs {
        EngineArgs {
            threads: None,
            batch_size: 0,
            ubatch_size: 0,
            cache_type_k: DType::F16,
            cache_type_v: DType::F16,
            kv: self.kv,
            n_gpu_layers: None,
            devices: Vec::new(),
            split: SplitArgs { split_mode: SplitMode::Layer, max_gpu: self.max_gpu },
            budget: self.budget.clone(),
            mmap: self.mmap,
            offload: Offload::Auto,
        }
    }
}

fn or_none<T: Copy>(values: &[T]) -> Vec<Option<T>> {
    if values.is_empty() { vec![None] } else { values.iter().copied().map(Some).collect() }
}

/// Every combination with every value.
fn vary<T>(all: &mut Vec<EngineArgs>, values: &[T], set: impl Fn(&mut EngineArgs, &T)) {
    let with = |args: &EngineArgs, value: &T| {
        let mut args = args.clone();
        set(&mut args, value);
        args
    };
    *all = all.iter().flat_map(|args| values.iter().map(move |value| with(args, value))).collect();
}

/// The settings of a combination as records have them, of no test yet.
pub(super) fn settings(args: &EngineArgs, cards: &Cards) -> Settings {
    Settings {
        devices: names(&args.devices),
        n_gpu_layers: match args.n_gpu_layers {
            Some(GpuLayers::Count(n)) => n.into(),
            Some(GpuLayers::All) => -2,
            Some(GpuLayers::Auto) | None => -1,
        },
        fitted: args.fitted(cards),
        split_mode: match args.split.split_mode {
            SplitMode::Layer => "layer".to_owned(),
            SplitMode::Tensor => args.split.max_gpu.map_or("tensor".to_owned(), |most| format!("tensor of {most}")),
        },
        offload: match args.offload {
            Offload::Never => "never".to_owned(),
            Offload::AtLeast(rows) => rows.0.to_string(),
            Offload::Auto => "auto".to_owned(),
        },
        budget_mib: recorded(&args.budget, &args.devices),
        n_batch: args.batch_size,
        n_ubatch: args.step(),
        n_threads: args.threads.unwrap_or_else(host::physical_cores),
        type_k: args.cache_type_k,
        type_v: args.cache_type_v,
        use_mmap: args.mmap,
        ..Settings::default()
    }
}
