//! Plans and a model file → steps that compute: weights go home once, plans are made once a batch bucket, a step only
//! writes inputs, submits splits and reads logits. Never decides where anything runs; that is the plan's.

mod admit;
mod bucket;
mod cells;
mod chosen;
mod devices;
mod flight;
mod flights;
mod homes;
mod items;
mod lanes;
mod load;
mod nodes;
mod part;
mod session;
mod step;
mod together;

use std::ops::Range;

use thiserror::Error;

use crate::backend::BackendError;
use crate::device::MemoryId;
use crate::graph::{Batch, Graph};
use crate::plan::{Event, PlanError, SplitId};
use crate::residency::Axis;
use crate::tensor::quant::QuantError;

pub use devices::Open;
pub use homes::{dealt, dealt_as, homes, laid_out};
pub use load::Progress;
pub use nodes::{Made, Nodes};
pub use session::{Session, SessionLimits, Setup, StepInput};
pub use together::Together;

/// Makes the graph of a batch bucket; all its graphs have the same weights and states in the same order.
pub trait GraphSource: Send + Sync {
    /// The graph for `batch`.
    ///
    /// # Errors
    /// The model cannot be built.
    fn graph(&self, batch: Batch) -> Result<Graph, Box<dyn std::error::Error + Send + Sync>>;
}

/// What the devices did in one step, and when: times count from when noting began.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// The bucket, see [`Session::planned`].
    pub batch: Batch,
    /// In the order in which they began.
    pub events: Vec<Event>,
}

/// Why a session cannot start or go on.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum ExecError {
    #[error("no graph for {} and {} outputs: {why}", batch.tokens, batch.outputs.0)]
    Graph { batch: Batch, why: Box<dyn std::error::Error + Send + Sync> },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Quant(#[from] QuantError),
    #[error("weight {name}: the model file has no such tensor of {needed} bytes")]
    Weight { name: String, needed: u64 },
    #[error(
        "a step of {tokens} tokens and {outputs} outputs; this session takes at most {most_tokens} and {most_outputs}"
    )]
    TooLarge { tokens: usize, outputs: usize, most_tokens: u32, most_outputs: u32 },
    #[error("the system refuses threads: {0}")]
    Threads(String),
    #[error("the session was given up when a device failed")]
    Closed,
    #[error("{what} has {found} entries, needed {needed}")]
    Length { what: &'static str, needed: usize, found: usize },
    #[error("token id {id} is not below the vocabulary's {vocab}")]
    TokenId { id: u32, vocab: u32 },
    #[error("output row {row} is not below the step's {tokens} tokens")]
    OutputRow { row: u32, tokens: usize },
    #[error("{what} lives in {memory}, from which no device of this machine computes")]
    NoKeeper { what: String, memory: MemoryId },
    #[error("weight {name}: a home has {axis:?} {range:?}, needed whole matrices of {count}, of a part in a copy")]
    Slice { name: String, axis: Axis, range: Range<u32>, count: u32 },
    #[error("weight {name} is brought for {split} after {after}, needed an earlier split")]
    Late { name: String, split: SplitId, after: SplitId },
    #[error("{first} and {second} both compute from {memory}, needed a memory for each")]
    Shared { memory: String, first: String, second: String },
}
