//! All buffers of a backend: memory of the card, and host memory that it copies from; and ranges that lie in them.

use std::sync::Arc;

use super::driver::{DeviceBytes, LentBytes};
use crate::backend::{BackendError, BufferId, BufferSpan};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::units::Bytes;

/// Buffers by their ids.
#[derive(Default)]
pub struct Buffers {
    all: IndexVec<BufferId, Option<Buffer>>,
}

/// A buffer.
#[derive(Clone)]
pub enum Buffer {
    /// Of the card.
    Device(Arc<DeviceBytes>),
    /// Of the host, read-only.
    Lent(Arc<LentBytes>),
}

impl Buffer {
    fn bytes(&self) -> Bytes {
        match self {
            Buffer::Device(memory) => Bytes::of_len(memory.len()),
            Buffer::Lent(memory) => Bytes::of_len(memory.bytes().len()),
        }
    }
}

impl Buffers {
    /// Takes one in.
    pub fn add(&mut self, buffer: Buffer) -> BufferId {
        self.all.push(Some(buffer))
    }

    /// Gives one back, when nobody uses it any more.
    ///
    /// # Errors
    /// There is no such buffer, here and below.
    pub fn remove(&mut self, device: &str, id: BufferId) -> Result<Buffer, BackendError> {
        let found = self.all.get_mut(id).and_then(Option::take);
        found.ok_or_else(|| BackendError::NoBuffer { device: device.into(), buffer: id })
    }

    /// Bytes of the card in all.
    pub fn allocated(&self) -> Bytes {
        let own = |buffer: &&Buffer| matches!(buffer, Buffer::Device(_));
        self.all.iter().flatten().filter(own).map(Buffer::bytes).sum()
    }

    /// A buffer, and where a span that lies in it begins.
    ///
    /// # Errors
    /// As for [`Buffers::remove`], or the span leaves the buffer.
    pub fn source(&self, device: &str, at: BufferSpan) -> Result<(&Buffer, u64), BackendError> {
        let found = self.all.get(at.buffer).and_then(Option::as_ref);
        let buffer = found.ok_or_else(|| BackendError::NoBuffer { device: device.into(), buffer: at.buffer })?;
        let Span { offset, len } = at.span;
        let (all, end) = (buffer.bytes(), offset.0.checked_add(len.0));
        if end.is_none_or(|end| end > all.0) {
            let (device, buffer, span) = (device.into(), at.buffer, at.span);
            return Err(BackendError::OutOfBuffer { device, buffer, span, len: all });
        }
        Ok((buffer, offset.0))
    }

    /// The same of the card's memory.
    ///
    /// # Errors
    /// As for [`Buffers::source`], or the buffer is the host's.
    pub fn place(&self, device: &str, at: BufferSpan) -> Result<(&Arc<DeviceBytes>, u64), BackendError> {
        match self.source(device, at)? {
            (Buffer::Device(memory), at) => Ok((memory, at)),
            (Buffer::Lent(_), _) => Err(BackendError::ReadOnly { device: device.into(), buffer: at.buffer }),
        }
    }
}
