//! Tensor shapes: one to four dimensions in GGUF order, innermost first.
//! A shape that exists has no zero dimension and an element count that fits 63 bits, so products never overflow.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most dimensions a tensor has (ggml's `GGML_MAX_DIMS`).
pub const MAX_DIMS: usize = 4;

/// Dimensions, innermost first: `dims()[0]` is the number of columns, that is, the length of a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
pub struct Shape {
    dims: [u64; MAX_DIMS],
    len: u8,
}

/// Why dimensions are no shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// None, or more than four.
    #[error("a shape needs 1 to {MAX_DIMS} dimensions, found {found}")]
    Rank {
        /// How many were given.
        found: usize,
    },
    /// A dimension of zero.
    #[error("dimension {axis} of {dims:?} is 0, needed at least 1")]
    Zero {
        /// Which one.
        axis: usize,
        /// All dimensions.
        dims: Vec<u64>,
    },
    /// More elements than 63 bits count.
    #[error("the product of {dims:?} is past 2^63 elements")]
    TooLarge {
        /// All dimensions.
        dims: Vec<u64>,
    },
}

impl Shape {
    /// A shape of one to four dimensions, innermost first.
    pub fn new(dims: &[u64]) -> Result<Shape, ShapeError> {
        if dims.is_empty() || dims.len() > MAX_DIMS {
            return Err(ShapeError::Rank { found: dims.len() });
        }
        if let Some(axis) = dims.iter().position(|&d| d == 0) {
            return Err(ShapeError::Zero { axis, dims: dims.to_vec() });
        }
        let product = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        if product.is_none_or(|n| n > i64::MAX as u64) {
            return Err(ShapeError::TooLarge { dims: dims.to_vec() });
        }
        let mut padded = [1; MAX_DIMS];
        padded[..dims.len()].copy_from_slice(dims);
        Ok(Shape { dims: padded, len: dims.len() as u8 })
    }

    /// The dimensions, innermost first.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..usize::from(self.len)]
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Elements in a row: the innermost dimension.
    pub fn row_len(&self) -> u64 {
        self.dims[0]
    }

    /// The number of rows: the product of all dimensions but the innermost.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.dims(), f)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<Vec<u64>> for Shape {
    type Error = ShapeError;
    fn try_from(dims: Vec<u64>) -> Result<Shape, ShapeError> {
        Shape::new(&dims)
    }
}

impl From<Shape> for Vec<u64> {
    fn from(shape: Shape) -> Vec<u64> {
        shape.dims().to_vec()
    }
}
