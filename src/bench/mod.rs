//! Timings and numeric comparisons of a running engine, as data: the tests of llama-bench and llama-batched-bench, perplexity, divergence from
//! another engine's logits, devices against each other node by node, what a processor or an adapter attains, and the facts about this computer. Never prints.

mod activities;
mod base_file;
mod batched;
mod calibrate;
mod compare;
mod difference;
mod divergence;
mod families;
mod foresight;
pub mod host;
mod moved;
mod perplexity;
mod record;
mod record_file;
mod report;
mod spread;
mod timing;

pub use activities::{ActivityKind, ActivityTime, time_activities};
pub use base_file::{BaseError, BaseFile};
pub use batched::{Batched, BatchedRow, time_batched};
pub use calibrate::{AdapterRates, CalibrateError, calibrate, calibrate_adapter};
pub use compare::{
    Against, CompareError, Comparison, FLOAT_BOUND, FamilyTime, NodeDifference, QUANTISED_BOUND, Trial, compare,
};
pub use difference::{Difference, LogitsDifference, OtherToken};
pub use divergence::{Divergence, DivergenceSummary, Estimate};
pub use families::{DeviceTime, FamilyError, FamilyNanos, FamilyTrial, time_families};
pub use foresight::{Foresight, MemoryFacts, foresee, memories};
pub use moved::{Change, LEAST_CHANGE, RecordDiff, Side, Subject, Verdict, diff_records};
pub use perplexity::{Perplexity, PerplexityError, Scored, evaluate, score};
pub use record::{Adapter, Kind, MachineFacts, Model, Record, Row, Settings, VERSION};
pub use record_file::{MOST_BYTES, RecordError, parse_record, read_record};
pub use report::{Reported, report};
pub use spread::Spread;
pub use timing::{Samples, Test, time, tokens};
