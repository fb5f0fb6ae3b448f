//! Where the operands of a split lie: windows of buffers, refused where a kernel could not see them.

use std::ops::Range;

use super::build::{Bound, Builder, Matrix, Value, WeightRows};
use super::kernel;
use super::memory::Window;
use super::program::Slot;
use crate::backend::{BackendError, BufferSpan, bound_slice, same_len};
use crate::graph::{CACHE_TYPES, InputId, NodeId, State, StateId, WeightId};
use crate::plan::Span;
use crate::residency::{Layout, slice_bytes};
use crate::tensor::DType;
use crate::units::Bytes;

/// The rows of a cache: bytes of one, of a head in it, and of 32 elements.
#[derive(Clone, Copy, Debug)]
pub struct CacheRows {
    /// Of a row.
    pub row: u32,
    /// Of a head.
    pub head: u32,
    /// Of 32 elements.
    pub run: u32,
}

impl CacheRows {
    /// Those of a state, if its type can be kept.
    pub fn of(state: &State) -> Option<CacheRows> {
        let bytes = |elements: u64| state.dtype.row_bytes(elements).and_then(|bytes| u32::try_from(bytes.0).ok());
        let keeps = CACHE_TYPES.contains(&state.dtype);
        let row = u32::try_from(state.row_bytes().0).ok().filter(|_| keeps)?;
        Some(CacheRows { row, head: bytes(state.head_dim.into())?, run: bytes(32)? })
    }
}

impl Builder<'_> {
    /// The value of a node.
    pub fn value(&self, id: NodeId) -> Result<Value, BackendError> {
        let (graph, span) = (self.work.graph, self.work.values[id]);
        same_len(self.device, graph.value_bytes(id), span.len.index())?;
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
        let rows = self.work.graph.rows(self.work.graph.inputs()[id].rows());
        let span = self.work.inputs[id];
        same_len(self.device, Bytes(4 * u64::from(rows.0)), span.len.index())?;
        self.whole(BufferSpan { buffer: self.work.bindings.arena, span })
    }

    /// A weight of f32 elements that is no matrix.
    pub fn vector(&self, id: WeightId) -> Result<Bound, BackendError> {
        let weight = &self.work.graph.weights()[id];
        if weight.dtype != DType::F32 {
            return Err(self.refuse_weight(id, format!("is of type {}, needed f32", weight.dtype)));
        }
        self.whole(self.slice(id, &(0..weight.count))?)
    }

    /// The matrices in `range` of a weight.
    pub fn matrix(&self, id: WeightId, range: Range<u32>) -> Result<Matrix, BackendError> {
        let weight = &self.work.graph.weights()[id];
        let refuse = |why: String| self.refuse_weight(id, why);
        let row_bytes = weight.dtype.row_bytes(weight.cols.into()).filter(|_| kernel::can_read(weight.dtype));
        let row = row_bytes.ok_or_else(|| refuse(format!("has type {}, which no kernel reads", weight.dtype)))?.0;
        let at = self.slice(id, &range)?;
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

    /// The bytes of the matrices in `range` of a weight.
    fn slice(&self, id: WeightId, range: &Range<u32>) -> Result<BufferSpan, BackendError> {
        let weight = &self.work.graph.weights()[id];
        let bound = bound_slice(self.device, self.work, id, range)?;
        if bound.layout != Layout::Gguf {
            return Err(self.refuse_weight(id, format!("lies in {:?}, needed the file's layout", bound.layout)));
        }
        same_len(self.device, slice_bytes(weight, &bound.slice.range, bound.layout), bound.at.span.len.index())?;
        let before = slice_bytes(weight, &(bound.slice.range.start..range.start), bound.layout);
        let span = Span { offset: bound.at.span.offset + before, len: slice_bytes(weight, range, bound.layout) };
        Ok(BufferSpan { span, ..bound.at })
    }

    /// A cache, in `at` its first byte, and its rows.
    pub fn state(&self, id: StateId) -> Result<(Bound, CacheRows), BackendError> {
        let state = &self.work.graph.states()[id];
        let refuse = |why: String| {
            let (device, node) = (self.device.to_owned(), format!("state {}", state.name));
            BackendError::Prepare { device, node, why }
        };
        let untyped = || refuse("has a type that this device cannot keep a cache in".into());
        let rows = CacheRows::of(state).ok_or_else(untyped)?;
        let at = self.work.bindings.states.get(id).copied().flatten();
        let at = at.ok_or_else(|| refuse("is not bound".into()))?;
        same_len(self.device, state.bytes(), at.span.len.index())?;
        self.buffers.get(self.device, at.buffer)?.written(self.gpu).map_err(refuse)?;
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
        let node = self.work.graph.node(self.at).name.clone();
        BackendError::Prepare { device: self.device.into(), node, why }
    }

    fn refuse_weight(&self, id: WeightId, why: String) -> BackendError {
        let node = format!("weight {}", self.work.graph.weights()[id].name);
        BackendError::Prepare { device: self.device.into(), node, why }
    }
}
