//! The rows of a weight in its tensor's bytes: the file has rows of whole tensors, a part may have runs of them.

use std::ops::Range;

use crate::graph::{Part, Weight};
use crate::residency::part_bytes;
use crate::units::Bytes;

/// Bytes of the tensor that `weight` is, or is a part of.
pub(super) fn tensor_bytes(weight: &Weight) -> Bytes {
    match &weight.part {
        None => weight.bytes(),
        Some(Part { whole: [count, rows, cols], .. }) => {
            let whole = Weight { count: *count, rows: *rows, cols: *cols, part: None, ..weight.clone() };
            part_bytes(&whole, &(0..*count))
        }
    }
}

/// Where the rows of a weight are.
pub(super) struct Rows<'a> {
    tensor: &'a [u8],
    /// Bytes of a row of the weight, and of the tensor.
    own: usize,
    line: usize,
    /// Bytes of the tensor before the weight's first.
    start: usize,
    /// Bytes from one matrix of the tensor to the next.
    matrix: usize,
}

impl<'a> Rows<'a> {
    /// The rows of `weight` in the bytes of its tensor, [`tensor_bytes`] of them.
    pub fn of(weight: &Weight, tensor: &'a [u8]) -> Rows<'a> {
        let len = |cols: u32| weight.dtype.row_bytes(cols.into()).map_or(0, Bytes::index);
        let own = len(weight.cols);
        let ([_, rows, cols], [matrix, row, col]) = match &weight.part {
            None => ([weight.count, weight.rows, weight.cols], [0; 3]),
            Some(part) => (part.whole, part.first),
        };
        let line = len(cols);
        let stride = rows as usize * line;
        Rows { tensor, own, line, start: matrix as usize * stride + row as usize * line + len(col), matrix: stride }
    }

    /// Bytes of a row.
    pub fn row(&self) -> usize {
        self.own
    }

    /// Some rows of one matrix of the weight: in place, or gathered into `room`.
    pub fn bytes<'b>(&'b self, matrix: usize, rows: Range<usize>, room: &'b mut Vec<u8>) -> &'b [u8] {
        let start = |row: usize| self.start + matrix * self.matrix + row * self.line;
        if self.own == self.line {
            return &self.tensor[start(rows.start)..][..rows.len() * self.own];
        }
        room.clear();
        rows.for_each(|row| room.extend_from_slice(&self.tensor[start(row)..][..self.own]));
        room
    }
}
