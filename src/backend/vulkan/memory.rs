//! Buffers of any size over a device's buffers, which have a largest one. A buffer that is larger is several, each of
//! which also holds the first bytes of the next: so every short range lies in one, and what is written there, twice.

use std::ops::Range;

use super::gpu::Gpu;
use crate::backend::{BackendError, BufferId, BufferSpan};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::units::Bytes;

/// Bytes that two neighbours both hold: no row of a weight is larger.
const SHARED: u64 = 8 << 20;

/// Sizes of device buffers are multiples of this.
const GRAIN: u64 = 256;

/// One device buffer.
pub struct Chunk {
    /// Its place in the whole.
    first: u64,
    /// Its bytes.
    bytes: u64,
    /// The buffer.
    pub buffer: wgpu::Buffer,
}

/// A buffer.
pub struct Memory {
    bytes: Bytes,
    chunks: Vec<Chunk>,
}

/// A part of a device buffer that a kernel sees.
#[derive(Clone)]
pub struct Window {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// Where the part begins.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes from there to what was asked for.
    pub lead: u32,
}

/// A range of a device buffer.
pub struct Place<'a> {
    /// The buffer.
    pub buffer: &'a wgpu::Buffer,
    /// Where in it.
    pub offset: u64,
    /// Which bytes of what was asked for.
    pub part: Range<usize>,
}

impl Memory {
    /// Zeroed bytes.
    pub fn new(gpu: &Gpu, bytes: Bytes) -> Result<Memory, String> {
        let most = gpu.caps.buffer;
        let shared = SHARED.min(most / 4 / GRAIN * GRAIN);
        let whole = bytes.0.max(1).next_multiple_of(GRAIN);
        let (mut chunks, mut first) = (Vec::new(), 0);
        loop {
            let size = (whole - first).min(most);
            let buffer = gpu.guarded(|| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })?;
            chunks.push(Chunk { first, bytes: size, buffer });
            if first + size >= whole {
                return Ok(Memory { bytes, chunks });
            }
            first += most - shared;
        }
    }

    /// Fails where a kernel that writes would do so in one of two neighbours only.
    pub fn written(&self, gpu: &Gpu) -> Result<&Memory, String> {
        let (bytes, most) = (self.bytes, Bytes(gpu.caps.buffer));
        match self.chunks.len() {
            1 => Ok(self),
            _ => Err(format!("is written by kernels and has {bytes}, a buffer of this device has at most {most}")),
        }
    }

    /// The device buffer that holds most from byte `at` on, and how many it holds.
    fn from(&self, at: u64) -> Option<(&Chunk, u64)> {
        let held = self.chunks.iter().filter(|c| c.first <= at && at < c.first + c.bytes);
        held.map(|c| (c, c.first + c.bytes - at)).max_by_key(|(_, left)| *left)
    }

    /// As much of `range` as a kernel can see at once, in whole `row`s: none where it can see not even one.
    pub fn window(&self, gpu: &Gpu, range: &Range<u64>, row: u64) -> Option<(Window, u64)> {
        let (chunk, left) = self.from(range.start)?;
        let at = range.start - chunk.first;
        let offset = at / gpu.align * gpu.align;
        let lead = at - offset;
        let most = left.min(gpu.caps.binding.checked_sub(lead)?).min(range.end - range.start);
        let rows = if most == range.end - range.start { most } else { most / row.max(1) * row };
        if rows == 0 && range.start < range.end {
            return None;
        }
        let bytes = (lead + rows).next_multiple_of(16).max(16).min(chunk.bytes - offset);
        Some((Window { buffer: chunk.buffer.clone(), offset, bytes, lead: lead as u32 }, rows))
    }

    /// Where all bytes of `range` are to be written: twice where neighbours share them.
    pub fn places(&self, range: Range<u64>) -> impl Iterator<Item = Place<'_>> {
        self.chunks.iter().filter_map(move |c| {
            let (start, end) = (range.start.max(c.first), range.end.min(c.first + c.bytes));
            let part = start.checked_sub(range.start)? as usize..end.checked_sub(range.start)? as usize;
            (part.start < part.end).then(|| Place { buffer: &c.buffer, offset: start - c.first, part })
        })
    }

    /// Where the bytes from `at` on can be read, and how many.
    pub fn place(&self, at: u64) -> Option<(&wgpu::Buffer, u64, u64)> {
        self.from(at).map(|(chunk, left)| (&chunk.buffer, at - chunk.first, left))
    }
}

/// All buffers of a backend.
#[derive(Default)]
pub struct Buffers {
    all: IndexVec<BufferId, Option<Memory>>,
}

impl Buffers {
    /// Takes one in.
    pub fn add(&mut self, memory: Memory) -> BufferId {
        self.all.push(Some(memory))
    }

    /// Gives one back.
    pub fn remove(&mut self, device: &str, id: BufferId) -> Result<(), BackendError> {
        self.get(device, id)?;
        self.all[id] = None;
        Ok(())
    }

    /// Bytes of all, as they were asked for.
    pub fn allocated(&self) -> Bytes {
        self.all.iter().flatten().map(|memory| memory.bytes).sum()
    }

    /// One of them.
    pub fn get(&self, device: &str, buffer: BufferId) -> Result<&Memory, BackendError> {
        let found = self.all.get(buffer).and_then(Option::as_ref);
        found.ok_or_else(|| BackendError::NoBuffer { device: device.into(), buffer })
    }

    /// One of them, and a range that lies in it.
    pub fn range(&self, device: &str, at: BufferSpan) -> Result<(&Memory, Range<u64>), BackendError> {
        let memory = self.get(device, at.buffer)?;
        let Span { offset, len } = at.span;
        match offset.0.checked_add(len.0) {
            Some(end) if end <= memory.bytes.0 => Ok((memory, offset.0..end)),
            Some(_) | None => {
                let (device, buffer, span, len) = (device.into(), at.buffer, at.span, memory.bytes);
                Err(BackendError::OutOfBuffer { device, buffer, span, len })
            }
        }
    }
}
