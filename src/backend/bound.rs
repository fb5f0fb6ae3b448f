//! Where the operands of a split lie, for backends whose kernels read weights in the file's layout and rows of caches as
//! files hold them; refused where what is bound is not what the graph says.

use std::ops::Range;

use super::{BackendError, BufferSpan, CacheRows, SplitWork, bound_slice, same_len};
use crate::graph::{InputId, NodeId, StateId, WeightId};
use crate::plan::Span;
use crate::residency::{Layout, slice_bytes};
use crate::units::Bytes;

/// The operands of a split of a device.
#[derive(Clone, Copy)]
pub struct Bound<'a> {
    /// The device's name.
    pub device: &'a str,
    /// The split.
    pub work: &'a SplitWork<'a>,
}

impl Bound<'_> {
    /// The value of a node.
    ///
    /// # Errors
    /// Its span has not the bytes of all its rows.
    pub fn value(&self, id: NodeId) -> Result<BufferSpan, BackendError> {
        let span = self.work.values[id];
        same_len(self.device, self.work.graph.value_bytes(id), span.len.index())?;
        Ok(BufferSpan { buffer: self.work.bindings.arena, span })
    }

    /// An input.
    ///
    /// # Errors
    /// As for [`Bound::value`].
    pub fn input(&self, id: InputId) -> Result<BufferSpan, BackendError> {
        let rows = self.work.graph.rows(self.work.graph.inputs()[id].rows());
        let span = self.work.inputs[id];
        same_len(self.device, Bytes(4 * u64::from(rows.0)), span.len.index())?;
        Ok(BufferSpan { buffer: self.work.bindings.arena, span })
    }

    /// The bytes of the matrices in `range` of a weight.
    ///
    /// # Errors
    /// They are not bound, or lie in another layout.
    pub fn weight(&self, id: WeightId, range: &Range<u32>) -> Result<BufferSpan, BackendError> {
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

    /// A cache, and its rows.
    ///
    /// # Errors
    /// It is not bound, or has a type that is not kept.
    pub fn state(&self, id: StateId) -> Result<(BufferSpan, CacheRows), BackendError> {
        let state = &self.work.graph.states()[id];
        let untyped = || self.refuse_state(id, "has a type that this device cannot keep a cache in".into());
        let rows = CacheRows::of(state).ok_or_else(untyped)?;
        let at = self.work.bindings.states.get(id).copied().flatten();
        let at = at.ok_or_else(|| self.refuse_state(id, "is not bound".into()))?;
        same_len(self.device, state.bytes(), at.span.len.index())?;
        Ok((at, rows))
    }

    /// Why a node cannot be prepared.
    pub fn refuse(&self, id: NodeId, why: String) -> BackendError {
        self.refused(self.work.graph.node(id).name.clone(), why)
    }

    /// The same for a weight.
    pub fn refuse_weight(&self, id: WeightId, why: String) -> BackendError {
        self.refused(format!("weight {}", self.work.graph.weights()[id].name), why)
    }

    /// The same for a state.
    pub fn refuse_state(&self, id: StateId, why: String) -> BackendError {
        self.refused(format!("state {}", self.work.graph.states()[id].name), why)
    }

    fn refused(&self, node: String, why: String) -> BackendError {
        BackendError::Prepare { device: self.device.into(), node, why }
    }
}
