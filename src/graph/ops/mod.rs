//! Attributes and operands of every op, a file a family.
//! Each file says what the op computes; how a backend does it is the backend's business.

mod attention;
mod cache;
mod elementwise;
mod matmul;
mod moe;
mod norm;
mod rope;
mod rows;

pub use attention::{Attention, Mask, Values};
pub use cache::CacheWrite;
pub use elementwise::{Activation, Elementwise};
pub use matmul::{HeadMatMul, MatMul};
pub use moe::{Combine, ExpertGroups, ExpertPart, Experts, Gating, Moe, Route};
pub use norm::Norm;
pub use rope::{Rope, RopeStyle, Scaling};
pub use rows::{Embed, Rows, Select};

/// For attributes that graph files leave out where they say nothing.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A factor that graph files leave out.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(factor: &f32) -> bool {
    *factor == 1.0
}

/// What is meant where they do.
fn one() -> f32 {
    1.0
}
