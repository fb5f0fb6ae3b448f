//! What a plan may decide by: the rule for weights in host memory, and what prices assume.

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Tokens};

/// When an op whose weight lives in host memory runs on an accelerator all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Never: everything runs where its weights live.
    Never,
    /// From this many rows on; 32 is the field's number.
    AtLeast(Tokens),
    /// Where the predicted time is less.
    Auto,
}

impl Offload {
    /// The rules whose whole plans `Auto` compares its own with: nothing moved, and everything.
    pub const WHOLES: [Offload; 2] = [Offload::Never, Offload::AtLeast(Tokens(1))];
}

/// What a plan may decide by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Ops whose weights live in host memory.
    pub offload: Offload,
    /// Streamed bytes after which a split is cut, so that the next one's weights come while it computes.
    pub chunk: Bytes,
    /// Cells that attention is assumed to read.
    pub context: Tokens,
    /// Whether a step of few rows brings of a layer's experts only those that it chose, once they are known, or always
    /// all of them, ahead of the computing.
    pub chosen_experts: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { offload: Offload::Auto, chunk: Bytes::mib(128), context: Tokens(512), chosen_experts: true }
    }
}
