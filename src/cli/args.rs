//! Groups of options that several subcommands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Usage;
use super::budget::{Budget, budget, budgets};
use super::cards::{Cards, DeviceName, processor};
use crate::device::{BackendKind, DeviceSpec, Machine};
use crate::graph::CACHE_TYPES;
use crate::kv::KvLayout;
use crate::plan::Offload;
use crate::residency::CacheHome;
use crate::sample::SampleOptions;
use crate::tensor::DType;
use crate::units::Bytes;

/// The most tokens of a context or a test; more would not fit any memory.
pub(super) const MOST_TOKENS: i64 = 1 << 26;

/// The most devices; each has workers of its own.
const MOST_DEVICES: u32 = 64;

/// The model file, by position or with -m.
#[derive(Debug, Args)]
pub(super) struct ModelArg {
    /// Model file (GGUF); of a split model any part
    #[arg(value_name = "MODEL", required_unless_present = "model")]
    positional: Option<PathBuf>,
    /// The same as MODEL
    #[arg(short = 'm', long = "model", value_name = "MODEL", conflicts_with = "positional")]
    model: Option<PathBuf>,
}

impl ModelArg {
    /// The file; empty only where the parser was not asked for one.
    pub fn path(&self) -> PathBuf {
        self.model.as_ref().or(self.positional.as_ref()).cloned().unwrap_or_default()
    }
}

/// Where caches live.
#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// Where caches live [default: layer; fit: accelerator where that is faster]
    #[arg(long, value_enum)]
    kv: Option<Kv>,
    /// The same as --kv host [-nkvo]
    #[arg(long, conflicts_with = "kv")]
    no_kv_offload: bool,
}

/// What `--kv` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kv {
    /// With their layers
    Layer,
    /// On accelerators, also those of layers whose weights are streamed
    Accelerator,
    /// With the processor
    Host,
}

impl CacheArgs {
    /// What was asked for.
    pub fn home(&self) -> Option<CacheHome> {
        let told = self.kv.map(|kv| match kv {
            Kv::Layer => CacheHome::Layer,
            Kv::Accelerator => CacheHome::Accelerator,
            Kv::Host => CacheHome::Host,
        });
        told.or(self.no_kv_offload.then_some(CacheHome::Host))
    }
}

/// How a model is run.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineArgs {
    /// Threads, of each device [default: physical cores available to the process]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub threads: Option<u32>,
    /// Most tokens of a batch; a step has no more than this either
    #[arg(short, long, value_name = "N", default_value_t = 2048, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch_size: u32,
    /// Most tokens computed in one step [-ub]
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub ubatch_size: u32,
    /// Type of cached keys [-ctk]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    pub cache_type_k: DType,
    /// Type of cached values [-ctv]: f32, f16, bf16, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    pub cache_type_v: DType,
    /// How cells of the cache are given out: any page serves, or those of one step lie side by side
    #[arg(long, value_enum, value_name = "LAYOUT", default_value_t = Layout::Paged)]
    pub kv: Layout,
    /// Layers to put on cards, from the last, and the others with the processor [-ngl]; `auto`: every weight where `fit`
    /// predicts it to be fastest, the default beside cards; drivers that compute on the processor have a share by budgets
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", allow_hyphen_values = true, value_parser = gpu_layers)]
    pub n_gpu_layers: Option<GpuLayers>,
    /// Devices over which the layers are dealt: cpu, cuda:0, vulkan:0 and so on; each `cpu` has a memory of its own, as a card has
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "cpu", value_parser = DeviceName::parse)]
    pub devices: Vec<DeviceName>,
    #[command(flatten)]
    pub split: SplitArgs,
    /// Memory that a device may take: a number of MiB for each, or one for all, or by name, such as vulkan:0=64MiB,cpu=2GiB,
    /// where others keep theirs [default: what is available]
    #[arg(long, value_name = "MIB|DEVICE=SIZE,...", value_delimiter = ',', allow_negative_numbers = true, value_parser = budget)]
    pub budget: Vec<Budget>,
    /// Keep weights in the file mapping instead of rearranging them in memory: starts sooner, computes slower
    #[arg(long)]
    pub mmap: bool,
    /// When ops whose weights the processor has run on a card; commands that plan have an option of their own.
    #[arg(skip = Offload::Auto)]
    pub offload: Offload,
}

/// What `--kv` of commands that run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Layout {
    /// Pages of 16
    Paged,
    /// Neighbours; brought together when there are none
    Contiguous,
}

/// What several devices do of a layer.
#[derive(Clone, Debug, Args)]
pub(super) struct SplitArgs {
    /// What several devices share: layers, each with its own, or every layer, cut into parts [-sm]
    #[arg(long, value_enum, value_name = "MODE", default_value_t = SplitMode::Layer)]
    pub split_mode: SplitMode,
    /// Devices that work on a layer together under --split-mode tensor, paired by their links [default: all]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_gpu: Option<u32>,
}

impl SplitArgs {
    /// Devices that work on a layer together.
    pub fn together(&self) -> u32 {
        match self.split_mode {
            SplitMode::Layer => 1,
            SplitMode::Tensor => self.max_gpu.unwrap_or(u32::MAX),
        }
    }
}

/// What devices share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SplitMode {
    /// Each has layers of its own
    Layer,
    /// Groups work on every layer together: heads and hidden columns are cut
    Tensor,
}

/// What was asked of GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GpuLayers {
    /// So many layers.
    Count(u32),
    /// All of them.
    All,
    /// Where they are predicted to be fastest.
    Auto,
}

impl EngineArgs {
    /// How cells are given out.
    pub fn layout(&self) -> KvLayout {
        match self.kv {
            Layout::Paged => KvLayout::default(),
            Layout::Contiguous => KvLayout::Contiguous,
        }
    }

    /// Tokens of one step.
    pub fn step(&self) -> u32 {
        self.batch_size.min(self.ubatch_size)
    }

    /// The machine that was asked for, with `threads` each, where `available` is all the memory there is.
    pub fn machine(&self, cards: &Cards, threads: u32, available: Bytes) -> Result<Machine, Usage> {
        let count = self.devices.len() as u32;
        if count > MOST_DEVICES {
            return Err(Usage(format!("--devices has {count} names, at most {MOST_DEVICES} can be driven")));
        }
        let budgets = budgets(&self.budget, &self.devices)?;
        if !self.only_processors() {
            return self.mixed(cards, threads, &budgets, available);
        }
        let share = Bytes(available.0 / u64::from(count.max(1)));
        let mut budgets = budgets.into_iter().map(|budget| budget.unwrap_or(share));
        if count < 2 {
            return Ok(Machine::single(BackendKind::Cpu, threads, budgets.next().unwrap_or(available)));
        }
        let mut machine = Machine::isolated(BackendKind::Cpu, count, threads, Bytes::ZERO);
        for (memory, budget) in machine.memories.ids().zip(budgets) {
            (machine.memories[memory].total, machine.memories[memory].free) = (budget, budget);
        }
        Ok(machine)
    }
}

impl EngineArgs {
    /// Whether every weight is to be where that is predicted to be fastest.
    pub fn fitted(&self, cards: &Cards) -> bool {
        let hardware = |device: &DeviceName| cards.about(*device).is_some_and(|about| !about.software);
        match self.n_gpu_layers {
            Some(GpuLayers::Auto) => true,
            Some(GpuLayers::Count(_) | GpuLayers::All) => false,
            None => self.devices.iter().any(hardware),
        }
    }

    /// Whether no card is named.
    pub fn only_processors(&self) -> bool {
        self.devices.iter().all(|device| *device == DeviceName::Cpu)
    }

    /// The cards that are named.
    pub fn cards(&self) -> Cards {
        Cards::of(&self.devices)
    }

    /// What computes, as records name it, and the names of the cards.
    pub fn computing(&self, cards: &Cards) -> (String, String) {
        let names = self.devices.iter().filter_map(|&device| cards.about(device)).map(|about| about.name);
        let names: Vec<&str> = names.collect();
        let kinds = [("CPU", BackendKind::Cpu), ("CUDA", BackendKind::Cuda), ("Vulkan", BackendKind::Vulkan)];
        let named = |kind| self.devices.iter().any(|device| device.kind() == kind);
        let kinds: Vec<&str> = kinds.iter().filter(|(_, kind)| named(*kind)).map(|(name, _)| *name).collect();
        (kinds.join(","), names.join(", "))
    }

    /// Devices that are not all processors.
    fn mixed(
        &self,
        cards: &Cards,
        threads: u32,
        budgets: &[Option<Bytes>],
        available: Bytes,
    ) -> Result<Machine, Usage> {
        let share = Bytes(available.0 / self.devices.len().max(1) as u64);
        let processors = self.devices.iter().filter(|device| **device == DeviceName::Cpu).count();
        let mut devices: Vec<(DeviceSpec, Bytes)> = Vec::new();
        for (i, (device, &budget)) in self.devices.iter().zip(budgets).enumerate() {
            let (spec, budget) = match *device {
                DeviceName::Cpu => {
                    let name = if processors > 1 { format!("cpu:{i}") } else { "cpu".to_owned() };
                    (DeviceSpec { name: name.clone(), uid: name, ..processor(threads) }, budget.unwrap_or(share))
                }
                card => cards.device(card, threads, (budget, share))?,
            };
            if devices.iter().any(|(other, _)| other.name == spec.name) {
                return Err(Usage(format!("--devices names {} twice", spec.name)));
            }
            devices.push((spec, budget));
        }
        Ok(Machine::linked(devices))
    }
}

impl GpuLayers {
    /// The layers that must be on accelerators, where a number of them is asked for.
    pub fn asked(self) -> Option<u32> {
        match self {
            GpuLayers::Count(n) => Some(n),
            GpuLayers::All => Some(u32::MAX),
            GpuLayers::Auto => None,
        }
    }
}

pub(super) fn cache_type(text: &str) -> Result<DType, String> {
    let types = CACHE_TYPES;
    let names = || types.map(DType::name).join(", ");
    let found = DType::from_name(text).filter(|t| types.contains(t));
    found.ok_or_else(|| format!("a cache has one of the types {}", names()))
}

pub(super) fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text {
        "all" => Ok(GpuLayers::All),
        "auto" | "-1" => Ok(GpuLayers::Auto),
        "-2" => Ok(GpuLayers::All),
        number => number.parse().map(GpuLayers::Count).map_err(|_| "needed a number, auto or all".to_owned()),
    }
}

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(super) struct SampleArgs {
    /// Temperature; 0 always takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    temp: f32,
    /// Start of the random numbers [default: another each time]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,
    /// Keep the K most probable tokens; 0 or less keeps all
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true)]
    top_k: i64,
    /// Keep the fewest tokens whose probabilities sum to P; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep tokens at least P times as probable as the best; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    min_p: f32,
    /// Make recent tokens less probable by this factor; 1 does not
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repeat_penalty: f32,
    /// Tokens that count as recent; -1 all
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    repeat_last_n: i64,
}

impl SampleArgs {
    /// The options; without a seed, the clock gives one.
    pub fn options(&self) -> SampleOptions {
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |d| d.as_nanos() as u64)
        };
        SampleOptions {
            temperature: self.temp,
            top_k: usize::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            seed: self.seed.filter(|&s| s != -1).map_or_else(clock, |s| s as u64),
        }
    }
}
