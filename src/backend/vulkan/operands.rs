//! Where the operands of a split lie: windows of buffers, refused where a kernel could not see them.

use std::ops::Range;

use super::build::{Bound, Builder, Matrix, Value, WeightRows};
use super::kernel;
use super::memory::Window;
use super::program::Slot;
use crate::backend::{BackendError, BufferSpan, CacheRows, bound as operands};
use crate::graph::{InputId, NodeId, StateId, WeightId};
use crate::plan::Span;
use crate::tensor::DType;
use crate::units::Bytes;

impl Builder<'_> {
    /// What is bound for the split.
    pub fn operands(&self) -> operands::Bound<'_> {
        operands::Bound { device: self.device, work: self.work }
    }

    /// The value of a node.
    pub fn value(&self, id: NodeId) -> Result<Value, BackendError> {
        let (graph, span) = (self.work.graph, self.operands().value(id)?.span);
        let out = graph.node(id).out;
        let row = graph.value_bytes(id).0 / u64::from(graph.rows(out.rows).0.max(1));
        Ok(Value { span, dim: out.rows, cols: out.cols, row })
    }

    /// All rows of a value.
    pub fn bound(&self, value: &Value) -> Result<Bound, BackendError> {
        self.whole(BufferSpan { buffer: self.work.bindings.arena, span: value.span })
    }

    /// Some rows of a value.
    pub fn bound_rows(&self, value: &Value, rows: &Range<u32>) -> Result<Bound, BackendError> {
        let offset = value.span.offset + Bytes(value.row * u64::from(rows.start));
        let len = Bytes(value.row * u64::from(rows.end - rows.start));
        self.whole(BufferSpan { buffer: self.work.bindings.arena, span: Span { offset, len } })
    }

    /// An input.
    pub fn input(&self, id: InputId) -> Result<Bound, BackendError> {
        self.whole(self.operands().input(id)?)
    }

    /// A weight of f32 elements that is no matrix.
    pub fn vector(&self, id: WeightId) -> Result<Bound, BackendError> {
        let weight = &self.work.graph.weights()[id];
        if weight.dtype != DType::F32 {
            return Err(self.refuse_weight(id, format!("is of type {}, needed f32", weight.dtype)));
        }
        self.whole(self.operands().weight(id, &(0..weight.count))?)
    }

    /// The matrices in `range` of a weight.
    pub fn matrix(&self, id: WeightId, range: Range<u32>) -> Result<Matrix, BackendError> {
        let weight = &self.work.graph.weights()[id];
        let refuse = |why: String| self.refuse_weight(id, why);
        let row_bytes = weight.dtype.row_bytes(weight.cols.into()).filter(|_| kernel::can_read(weight.dtype));
        let row = row_bytes.ok_or_else(|| refuse(format!("has type {}, which no kernel reads", weight.dtype)))?.0;
        let at = self.operands().weight(id, &range)?;
        let (memory, bytes) = self.buffers.range(self.device, at)?;
        let (mut windows, mut from, mut first) = (Vec::new(), bytes.start, range.start * weight.rows);
        while from < bytes.end {
            let found = memory.window(self.gpu, &(from..bytes.end), row);
            let (window, held) =
                found.ok_or_else(|| refuse(format!("has rows of {row} bytes, more than a kernel sees")))?;
            let end = first + (held / row) as u32;
            windows.push(WeightRows { window, rows: first..end });
            (from, first) = (from + held, end);
        }
        if weight.dtype == DType::F32 && windows.iter().any(|w| w.window.lead % 4 != 0) {
            return Err(refuse("begins at a byte that is no multiple of 4".into()));
        }
        Ok(Matrix { dtype: weight.dtype, rows: weight.rows, cols: weight.cols, row_bytes: row as u32, windows })
    }

    /// A cache, in `at` its first byte, and its rows.
    pub fn state(&self, id: StateId) -> Result<(Bound, CacheRows), BackendError> {
        let (at, rows) = self.operands().state(id)?;
        let written = self.buffers.get(self.device, at.buffer)?.written(self.gpu);
        written.map_err(|why| self.operands().refuse_state(id, why))?;
        let bound = self.whole(at)?;
        Ok((Bound { at: 4 * bound.at, ..bound }, rows))
    }

    /// All of a range, which begins at a multiple of four bytes.
    pub fn whole(&self, at: BufferSpan) -> Result<Bound, BackendError> {
        let (memory, bytes) = self.buffers.range(self.device, at)?;
        let needed = bytes.end - bytes.start;
        let found = memory.window(self.gpu, &bytes, 1);
        match found {
            Some((window, held)) if held == needed && window.lead % 4 == 0 => {
                Ok(Bound { at: window.lead / 4, slot: Slot::Window(window) })
            }
            Some(_) | None => {
                let most = self.gpu.caps.binding;
                Err(self.refuse(format!("has an operand of {needed} bytes; a kernel sees at most {most} of a buffer, from a multiple of 4 on")))
            }
        }
    }

    /// Some of the arena, for a binding that is not used.
    pub fn spare(&self) -> Result<Window, BackendError> {
        let memory = self.buffers.get(self.device, self.work.bindings.arena)?;
        let found = memory.window(self.gpu, &(0..16), 1);
        Ok(found.ok_or_else(|| self.refuse("has no arena".into()))?.0)
    }

    fn refuse(&self, why: String) -> BackendError {
        self.operands().refuse(self.at, why)
    }

    fn refuse_weight(&self, id: WeightId, why: String) -> BackendError {
        self.operands().refuse_weight(id, why)
    }
}
