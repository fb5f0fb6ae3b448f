//! A measurement as a file that explains itself: llama-bench's row with its keys, and a record of rows with the machine
//! they were measured on. Pure data; the caller writes it.

use serde::Serialize;

use super::host;
use super::timing::{Samples, Test};
use crate::gguf::Gguf;
use crate::tensor::DType;

/// The facts about a model file that every row repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// One line of `llama-bench -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields are the keys of llama-bench")]
pub struct Row {
    pub build_commit: String,
    pub build_number: u32,
    pub cpu_info: String,
    pub gpu_info: String,
    pub backends: String,
    #[serde(flatten)]
    pub model: Model,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub n_threads: u32,
    pub type_k: DType,
    pub type_v: DType,
    pub n_gpu_layers: u32,
    pub use_mmap: bool,
    pub n_prompt: u32,
    pub n_gen: u32,
    pub n_depth: u32,
    pub test_time: String,
    pub avg_ns: u64,
    pub stddev_ns: u64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    pub samples_ns: Vec<u64>,
    pub samples_ts: Vec<f64>,
}

impl Row {
    /// Puts the numbers of a test into a row that holds everything else.
    pub fn with(mut self, samples: &Samples) -> Row {
        (self.n_prompt, self.n_gen) = match samples.test {
            Test::Prompt(n) => (n, 0),
            Test::Generate(n) => (0, n),
        };
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (samples.mean_ns(), samples.mean_rate());
        (self.avg_ns, self.stddev_ns) = (avg_ns as u64, stddev_ns as u64);
        (self.avg_ts, self.stddev_ts) = (avg_ts, stddev_ts);
        (self.samples_ns, self.samples_ts) = (samples.ns.clone(), samples.rates());
        self
    }

    /// `pp256` or `tg32`.
    pub fn test(&self) -> String {
        if self.n_prompt > 0 { format!("pp{}", self.n_prompt) } else { format!("tg{}", self.n_gen) }
    }
}

/// What `--record` writes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record<R> {
    /// What this file is.
    pub what: &'static str,
    /// The program and its version.
    pub program: String,
    /// The revision it was built from, as far as known.
    pub commit: String,
    /// When, in UTC.
    pub date: String,
    /// The machine.
    pub machine: MachineFacts,
    /// One row a test.
    pub rows: Vec<R>,
}

/// The machine of a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
        }
    }
}

impl<R> Record<R> {
    /// A record of rows measured here and now; `what` says of what, `date` is RFC 3339.
    pub fn new(what: &'static str, rows: Vec<R>, commit: String, date: String) -> Record<R> {
        Record {
            what,
            program: format!("loadmaster {}", env!("CARGO_PKG_VERSION")),
            commit,
            date,
            machine: MachineFacts::here(),
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
