//! All buffers of a backend, and ranges that lie in them.

use std::sync::Arc;

use super::driver::DeviceBytes;
use crate::backend::{BackendError, BufferId, BufferSpan};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::units::Bytes;

/// Buffers by their ids.
#[derive(Default)]
pub struct Buffers {
    all: IndexVec<BufferId, Option<Arc<DeviceBytes>>>,
}

impl Buffers {
    /// Takes one in.
    pub fn add(&mut self, memory: DeviceBytes) -> BufferId {
        self.all.push(Some(Arc::new(memory)))
    }

    /// Gives one back, when nobody uses it any more.
    ///
    /// # Errors
    /// There is no such buffer, here and below.
    pub fn remove(&mut self, device: &str, id: BufferId) -> Result<Arc<DeviceBytes>, BackendError> {
        let found = self.all.get_mut(id).and_then(Option::take);
        found.ok_or_else(|| BackendError::NoBuffer { device: device.into(), buffer: id })
    }

    /// Bytes of all.
    pub fn allocated(&self) -> Bytes {
        self.all.iter().flatten().map(|memory| Bytes::of_len(memory.len())).sum()
    }

    /// One of them.
    ///
    /// # Errors
    /// As for [`Buffers::remove`].
    pub fn get(&self, device: &str, buffer: BufferId) -> Result<&Arc<DeviceBytes>, BackendError> {
        let found = self.all.get(buffer).and_then(Option::as_ref);
        found.ok_or_else(|| BackendError::NoBuffer { device: device.into(), buffer })
    }

    /// One of them, and where a span that lies in it begins.
    ///
    /// # Errors
    /// As for [`Buffers::remove`], or the span leaves the buffer.
    pub fn place(&self, device: &str, at: BufferSpan) -> Result<(&Arc<DeviceBytes>, u64), BackendError> {
        let memory = self.get(device, at.buffer)?;
        let Span { offset, len } = at.span;
        let (all, end) = (Bytes::of_len(memory.len()), offset.0.checked_add(len.0));
        if end.is_none_or(|end| end > all.0) {
            let (device, buffer, span) = (device.into(), at.buffer, at.span);
            return Err(BackendError::OutOfBuffer { device, buffer, span, len: all });
        }
        Ok((memory, offset.0))
    }
}
