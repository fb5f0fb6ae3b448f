//! The bytes of a part of a tensor, which the file has as rows of whole tensors.

use std::borrow::Cow;

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

/// What `weight` is of its tensor's bytes: all, a run of rows in place, or runs of every row gathered.
pub(super) fn bytes<'a>(weight: &Weight, tensor: &'a [u8]) -> Cow<'a, [u8]> {
    let Some(Part { whole: [_, rows, cols], first: [matrix, row, col], .. }) = &weight.part else {
        return Cow::Borrowed(tensor);
    };
    let len = |cols: u32| weight.dtype.row_bytes(cols.into()).map_or(0, Bytes::index);
    let (own, line, skip) = (len(weight.cols), len(*cols), len(*col));
    let first_row = |m: u32| ((matrix + m) as usize * *rows as usize + *row as usize) * line;
    let is_one_run = weight.cols == *cols && (weight.rows == *rows || weight.count == 1);
    if is_one_run {
        let start = first_row(0);
        return Cow::Borrowed(&tensor[start..start + weight.bytes().index()]);
    }
    let mut part = Vec::with_capacity(weight.bytes().index());
    for m in 0..weight.count {
        for r in 0..weight.rows as usize {
            let start = first_row(m) + r * line + skip;
            part.extend_from_slice(&tensor[start..start + own]);
        }
    }
    Cow::Owned(part)
}
