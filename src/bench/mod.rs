//! Timings and numeric comparisons of a running engine, as data: llama-bench's tests, perplexity, divergence from
//! another engine's logits, what a processor attains, and the facts about this computer. Never prints.

mod base_file;
mod calibrate;
mod divergence;
pub mod host;
mod perplexity;
mod record;
mod timing;

pub use base_file::{BaseError, BaseFile};
pub use calibrate::{CalibrateError, calibrate};
pub use divergence::{Divergence, DivergenceSummary, Estimate};
pub use perplexity::{Perplexity, PerplexityError, Scored, evaluate, score};
pub use record::{Model, Record, Row};
pub use timing::{Samples, Test, time};
