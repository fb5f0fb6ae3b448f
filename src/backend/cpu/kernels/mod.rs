//! What each op family computes on rows of floats, written once over [`Simd`](super::simd::Simd) and compiled for
//! every instruction set. Slices in, slices out: nothing here knows the graph, the pool or the arena.
//!
//! The order of every sum is fixed by the row alone, so a row's result does not depend on its batch.

pub mod attention;
pub mod cache;
pub mod cells;
mod dots;
pub mod elementwise;
pub mod moe;
pub mod norm;
pub mod rope;
mod weights;
