//! Where the operands of a split lie on a card: addresses of buffers.

use std::ops::Range;

use super::build::Builder;
use crate::backend::{BackendError, BufferSpan, CacheRows, bound};
use crate::graph::{InputId, NodeId, RowDim, StateId, WeightId};
use crate::tensor::{DType, quant};

/// Rows of floats (or of choices).
#[derive(Clone, Copy)]
pub struct Value {
    /// Where they are.
    pub at: u64,
    /// The rows that it has.
    pub dim: RowDim,
    /// Numbers of a row.
    pub cols: u32,
}

/// A weight matrix, or some of a stack.
#[derive(Clone, Copy)]
pub struct Matrix {
    /// Where the first row is.
    pub at: u64,
    /// Its type.
    pub dtype: DType,
    /// Rows of a matrix.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// Bytes of a row.
    pub row_bytes: u32,
}

impl Builder<'_> {
    /// What is bound for the split.
    pub fn operands(&self) -> bound::Bound<'_> {
        bound::Bound { device: self.device, work: self.work }
    }

    /// The address of a span.
    pub fn address(&self, at: BufferSpan) -> Result<u64, BackendError> {
        self.buffers.place(self.device, at).map(|(memory, at)| memory.address(at))
    }

    /// The value of a node.
    pub fn value(&self, id: NodeId) -> Result<Value, BackendError> {
        let out = self.work.graph.node(id).out;
        Ok(Value { at: self.address(self.operands().value(id)?)?, dim: out.rows, cols: out.cols })
    }

    /// An input.
    pub fn input(&self, id: InputId) -> Result<u64, BackendError> {
        self.address(self.operands().input(id)?)
    }

    /// A weight of f32 elements that is no matrix.
    pub fn vector(&self, id: WeightId) -> Result<u64, BackendError> {
        let weight = &self.work.graph.weights()[id];
        if weight.dtype != DType::F32 {
            return Err(self.operands().refuse_weight(id, format!("is of type {}, needed f32", weight.dtype)));
        }
        self.aligned(id, 4, &(0..weight.count))
    }

    /// The same, or nowhere.
    pub fn vector_or_null(&self, id: Option<WeightId>) -> Result<u64, BackendError> {
        id.map_or(Ok(0), |id| self.vector(id))
    }

    /// The matrices in `range` of a weight.
    pub fn matrix(&self, id: WeightId, range: &Range<u32>) -> Result<Matrix, BackendError> {
        let weight = &self.work.graph.weights()[id];
        let refuse = |why: String| self.operands().refuse_weight(id, why);
        let row = weight.dtype.row_bytes(weight.cols.into()).filter(|_| quant::can_decode(weight.dtype));
        let row = row.and_then(|row| u32::try_from(row.0).ok());
        let row_bytes = row.ok_or_else(|| refuse(format!("has type {}, which no kernel reads", weight.dtype)))?;
        let at = self.aligned(id, begins_at(weight.dtype), range)?;
        Ok(Matrix { at, dtype: weight.dtype, rows: weight.rows, cols: weight.cols, row_bytes })
    }

    fn aligned(&self, id: WeightId, multiple: u64, range: &Range<u32>) -> Result<u64, BackendError> {
        let at = self.address(self.operands().weight(id, range)?)?;
        match at % multiple {
            0 => Ok(at),
            _ => {
                let why = format!("begins at a byte that is no multiple of {multiple}");
                Err(self.operands().refuse_weight(id, why))
            }
        }
    }

    /// A cache, and its rows.
    pub fn state(&self, id: StateId) -> Result<(u64, CacheRows), BackendError> {
        let (at, rows) = self.operands().state(id)?;
        let at = self.address(at)?;
        let misplaced = || self.operands().refuse_state(id, "begins at a byte that is no multiple of 16".into());
        at.is_multiple_of(16).then_some((at, rows)).ok_or_else(misplaced)
    }
}

/// Rows of a weight may begin at multiples of this.
fn begins_at(dtype: DType) -> u64 {
    use DType::{F32, Iq4Xs, Mxfp4, Q2K, Q4_1, Q4K, Q5_1, Q5K};
    match dtype {
        F32 | Q4_1 | Q5_1 | Q2K | Q4K | Q5K | Iq4Xs => 4,
        Mxfp4 => 1,
        _ => 2,
    }
}

/// A number of a dimension, as kernels know it.
pub fn dim_word(dim: RowDim) -> u32 {
    match dim {
        RowDim::Tokens => 0,
        RowDim::Outputs => 1,
    }
}
