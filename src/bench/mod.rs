//! Timings and numeric comparisons of a running engine, as data: the tests of llama-bench and llama-batched-bench, perplexity, divergence from
//! another engine's logits, what a processor attains, and the facts about this computer. Never prints.

mod base_file;
mod batched;
mod calibrate;
mod divergence;
pub mod host;
mod perplexity;
mod record;
mod timing;

pub use base_file::{BaseError, BaseFile};
pub use batched::{Batched, BatchedRow, time_batched};
pub use calibrate::{CalibrateError, calibrate};
pub use divergence::{Divergence, DivergenceSummary, Estimate};
pub use perplexity::{Perplexity, PerplexityError, Scored, evaluate, score};
pub use record::{Model, Record, Row};
pub use timing::{Samples, Test, time};
