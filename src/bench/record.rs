//! A measurement as a file that explains itself: llama-bench's row with its keys and columns of devices and of the plan,
//! and a record of rows with the machine they were measured on. Pure data; the caller writes it.

use serde::{Deserialize, Serialize};

use super::activities::ActivityTime;
use super::families::DeviceTime;
use super::foresight::{Foresight, MemoryFacts};
use super::host;
use super::spread::Spread;
use super::timing::{Samples, Test};
use crate::gguf::Gguf;
use crate::tensor::DType;

/// The facts about a model file that every row repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Path as given.
    pub model_filename: String,
    /// Such as `llama 1.2B Q4_0`: architecture, parameters, the type of most bytes.
    pub model_type: String,
    /// Bytes of all tensors.
    pub model_size: u64,
    /// Elements of all tensors.
    pub model_n_params: u64,
}

impl Model {
    /// The facts about an open file.
    pub fn of(gguf: &Gguf, filename: String) -> Model {
        let model_n_params: u64 = gguf.tensors().iter().map(|t| t.shape.elements()).sum();
        let model_size = gguf.tensors().iter().map(|t| t.bytes.0).sum();
        let arch = gguf.metadata().str("general.architecture").ok().flatten().unwrap_or("unknown");
        let most = DType::ALL.iter().max_by_key(|&&dtype| {
            let of_type = gguf.tensors().iter().filter(|t| t.dtype == dtype);
            of_type.map(|t| t.bytes.0).sum::<u64>()
        });
        let dtype = most.map_or_else(String::new, |t| t.name().to_uppercase());
        let model_type = format!("{arch} {} {dtype}", parameters(model_n_params));
        Model { model_filename: filename, model_type, model_size, model_n_params }
    }
}

/// One line of `llama-bench -o json`, and what is known here beside it. What did not run has no samples and says why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the keys of llama-bench, as far as they have no words of their own")]
pub struct Row {
    pub build_commit: String,
    pub build_number: u32,
    pub cpu_info: String,
    pub gpu_info: String,
    pub backends: String,
    #[serde(flatten)]
    pub model: Model,
    #[serde(flatten)]
    pub settings: Settings,
    pub test_time: String,
    pub avg_ns: u64,
    pub stddev_ns: u64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    pub samples_ns: Vec<u64>,
    pub samples_ts: Vec<f64>,
    /// Median of the nanoseconds of all repetitions.
    pub median_ns: u64,
    /// Median of how far they are from that.
    pub mad_ns: u64,
    /// Tokens a second at the median.
    pub median_ts: f64,
    /// What the plan said before.
    #[serde(flatten)]
    pub foresight: Foresight,
    /// Every memory, planned and allocated.
    pub memories: Vec<MemoryFacts>,
    /// Every piece of work of a step of the usual size, planned and measured; in records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub activities: Vec<ActivityTime>,
    /// Why this combination did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_run: Option<String>,
}

/// What a row was asked for: rows of two records with equal settings and an equal model measure the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the keys of llama-bench, as far as they have no words of their own")]
pub struct Settings {
    /// Names as for `--devices`, with commas between them.
    pub devices: String,
    /// -1: not asked for; -2: all.
    pub n_gpu_layers: i64,
    /// Whether every weight is where that was predicted to be fastest, instead of in proportion to budgets.
    #[serde(default)]
    pub fitted: bool,
    /// `layer` or `tensor`.
    pub split_mode: String,
    /// `never`, `auto`, or rows from which weights in host memory are streamed.
    pub offload: String,
    /// What each device may take, or one number for all; 0: what it has; empty: what is available.
    pub budget_mib: Vec<u64>,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub n_threads: u32,
    pub type_k: DType,
    pub type_v: DType,
    pub use_mmap: bool,
    pub n_prompt: u32,
    pub n_gen: u32,
    pub n_depth: u32,
}

impl Default for Settings {
    /// The usual ones, of no test.
    fn default() -> Settings {
        Settings {
            devices: "cpu".to_owned(),
            n_gpu_layers: -1,
            fitted: false,
            split_mode: "layer".to_owned(),
            offload: "auto".to_owned(),
            budget_mib: Vec::new(),
            n_batch: 2048,
            n_ubatch: 512,
            n_threads: 1,
            type_k: DType::F16,
            type_v: DType::F16,
            use_mmap: false,
            n_prompt: 0,
            n_gen: 0,
            n_depth: 0,
        }
    }
}

impl Settings {
    /// The same for a test.
    pub fn of(self, test: Test) -> Settings {
        let (n_prompt, n_gen) = match test {
            Test::Prompt(n) => (n, 0),
            Test::Generate(n) => (0, n),
        };
        Settings { n_prompt, n_gen, ..self }
    }

    /// Layers on cards in the words of `-ngl`: a number, `auto`, `all`, or `-` where all is dealt by budgets.
    pub fn layers(&self) -> String {
        match (self.n_gpu_layers, self.fitted) {
            (_, true) => "auto".to_owned(),
            (-1, false) => "-".to_owned(),
            (-2, false) => "all".to_owned(),
            (count, false) => count.to_string(),
        }
    }

    /// `pp256` or `tg32`.
    pub fn test(&self) -> String {
        if self.n_prompt > 0 { format!("pp{}", self.n_prompt) } else { format!("tg{}", self.n_gen) }
    }

    /// Tokens that pass through the model in one repetition.
    pub fn tokens(&self) -> u32 {
        self.n_prompt.saturating_add(self.n_gen)
    }
}

impl Row {
    /// Puts the numbers of a test into a row that holds everything else.
    pub fn with(mut self, samples: &Samples) -> Row {
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (samples.mean_ns(), samples.mean_rate());
        (self.avg_ns, self.stddev_ns) = (avg_ns as u64, stddev_ns as u64);
        (self.avg_ts, self.stddev_ts) = (avg_ts, stddev_ts);
        (self.samples_ns, self.samples_ts) = (samples.ns.clone(), samples.rates());
        if let Some(spread) = Spread::of(&samples.ns) {
            (self.median_ns, self.mad_ns) = (spread.median, spread.mad);
            self.median_ts = spread.rate(samples.test.tokens());
        }
        self
    }

    /// Median and spread of its samples; none if it did not run.
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(&self.samples_ns)
    }

    /// Tokens a second at the median of its samples.
    pub fn rate(&self) -> Option<f64> {
        self.spread().map(|spread| spread.rate(self.settings.tokens()))
    }

    /// Tokens a second, had the plan been right.
    pub fn predicted_rate(&self) -> Option<f64> {
        self.foresight.rate(self.settings.tokens())
    }
}

/// What a record has rows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The tests of llama-bench.
    Bench,
    /// Those of llama-batched-bench.
    Batched,
    /// Devices against each other, node by node.
    Compare,
}

/// The form of the records that this program writes, and the latest that it reads.
pub const VERSION: u32 = 1;

/// What `--record` writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<R> {
    /// What it has rows of.
    pub kind: Kind,
    /// The form of this file.
    pub version: u32,
    /// The same in words.
    pub what: String,
    /// The program and its version.
    pub program: String,
    /// The revision it was built from, as far as known.
    pub commit: String,
    /// When, in UTC.
    pub date: String,
    /// The machine.
    pub machine: MachineFacts,
    /// Time by family of ops, if it was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time_by_family: Vec<DeviceTime>,
    /// One row a test.
    pub rows: Vec<R>,
}

/// The machine of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// The processor's name.
    pub cpu: String,
    /// Architecture and operating system, as Rust names them.
    pub target: String,
    /// Physical cores that the process may use.
    pub cores: u32,
    /// Memory that was free to use, in bytes.
    pub memory_available: Option<u64>,
    /// Runnable tasks over the last minute, five and fifteen: above `cores`, others were computing too.
    pub load_average: Option<[f64; 3]>,
    /// The adapters of this computer, where rows are about some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<Adapter>,
}

/// An adapter of a record's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// What devices are named by: `vulkan:0` and so on.
    pub device: String,
    /// As its driver says.
    pub name: String,
    /// The driver, with its version.
    pub driver: String,
}

impl MachineFacts {
    /// This machine now.
    pub fn here() -> MachineFacts {
        MachineFacts {
            cpu: host::cpu_name(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            cores: host::physical_cores(),
            memory_available: host::available_memory().map(|b| b.0),
            load_average: host::load_average(),
            adapters: Vec::new(),
        }
    }
}

impl<R> Record<R> {
    /// A record of rows measured here and now; `what` says of what, `date` is RFC 3339.
    pub fn new(kind: Kind, what: &str, rows: Vec<R>, commit: String, date: String) -> Record<R> {
        Record {
            kind,
            version: VERSION,
            what: what.to_owned(),
            program: format!("loadmaster {}", env!("CARGO_PKG_VERSION")),
            commit,
            date,
            machine: MachineFacts::here(),
            time_by_family: Vec::new(),
            rows,
        }
    }
}

fn parameters(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{:.0}K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.1}B", n as f64 / 1e9),
    }
}
