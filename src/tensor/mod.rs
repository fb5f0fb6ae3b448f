//! What a tensor is made of: element types, shapes, and the quantised block layouts with their scalar codecs.
//! Knows bytes and numbers only, never files, devices or graphs.

pub mod act;
mod dtype;
pub mod panel;
pub mod quant;
mod shape;

pub use dtype::{Block, DType};
pub use shape::{MAX_DIMS, Shape, ShapeError};
