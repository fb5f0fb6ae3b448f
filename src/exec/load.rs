//! Weights from the model file to their homes: used in place, copied, or repacked on all cores.
//! A weight that was copied gives its file pages back to the system.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::ExecError;
use crate::backend::{Backend, BackendError, BoundSlice, BufferId, BufferKind, BufferSpan, HostBytes, Queue};
use crate::gguf::{Gguf, TensorInfo};
use crate::graph::{Graph, Weight, WeightId};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::residency::{Home, Layout, Residency, weight_bytes};
use crate::tensor::DType;
use crate::tensor::panel::{self, PANEL_ROWS};
use crate::units::Bytes;

/// Called with the bytes done so far and the bytes in all.
pub type Progress<'a> = &'a (dyn Fn(Bytes, Bytes) + Sync);

/// Alignment of a weight in the buffer that holds copied weights.
const ALIGN: u64 = 64;

/// Bytes that a thread packs before it hands them on.
const PIECE: usize = 1 << 20;

/// All weights of one device.
pub struct Weights {
    /// Where each slice lies.
    pub bound: IndexVec<WeightId, Vec<BoundSlice>>,
    /// Bytes that were allocated for them.
    pub allocated: Bytes,
}

/// Puts every weight of `graph` where `residency` says, on the one device of `backend`.
///
/// # Errors
/// The file lacks a tensor, or the device lacks memory.
pub fn load(
    graph: &Graph,
    residency: &Residency,
    gguf: &Arc<Gguf>,
    backend: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Weights, ExecError> {
    // Threads of our own, joined at the end: rayon's global ones panic where the system refuses threads.
    let threads = rayon::ThreadPoolBuilder::new().num_threads(backend.spec().workers as usize);
    let loaded = threads.build_scoped(
        |thread| thread.run(),
        |pool| pool.install(|| load_all(graph, residency, gguf, backend, progress)),
    );
    loaded.map_err(|why| ExecError::Threads(why.to_string()))?
}

fn load_all(
    graph: &Graph,
    residency: &Residency,
    gguf: &Arc<Gguf>,
    backend: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Weights, ExecError> {
    let copied = |(id, home): (WeightId, &Home)| !in_place(&graph.weights()[id], home, gguf.alignment());
    let homes = || residency.weights.iter_ids().flat_map(|(id, homes)| homes.iter().map(move |h| (id, h)));
    let size = |id: WeightId, home: &Home| weight_bytes(&graph.weights()[id], home.layout).align_up(ALIGN);
    let allocated: Bytes = homes().filter(|&h| copied(h)).map(|(id, h)| size(id, h)).sum();
    let buffer = backend.alloc(BufferKind::Device, allocated)?;
    let meter = Meter { done: AtomicU64::new(0), total: allocated, progress };
    let mut bound: IndexVec<WeightId, Vec<BoundSlice>> = graph.weights().iter().map(|_| Vec::new()).collect();
    let mut offset = Bytes::ZERO;
    for (id, home) in homes() {
        let weight = &graph.weights()[id];
        let tensor = tensor_of(gguf, weight)?;
        let at = if copied((id, home)) {
            let at = BufferSpan { buffer, span: Span { offset, len: weight_bytes(weight, home.layout) } };
            offset += size(id, home);
            put(weight, home.layout, gguf.bytes(tensor), backend, at, &meter)?;
            gguf.release(tensor);
            at
        } else {
            let len = tensor.bytes;
            let buffer = adopt(gguf, &weight.name, backend)?;
            BufferSpan { buffer, span: Span { offset: Bytes::ZERO, len } }
        };
        bound[id].push(BoundSlice { slice: home.slice.clone(), layout: home.layout, at });
    }
    Ok(Weights { bound, allocated })
}

/// A matrix in the file's layout is used where it is; vectors are copied, and all floats of a file that does not align
/// them.
fn in_place(weight: &Weight, home: &Home, alignment: u64) -> bool {
    home.layout == Layout::Gguf && weight.rows > 1 && (weight.dtype != DType::F32 || alignment >= 4)
}

fn tensor_of<'a>(gguf: &'a Gguf, weight: &Weight) -> Result<&'a TensorInfo, ExecError> {
    let needed = weight.bytes();
    let found = gguf.tensor(&weight.name).filter(|t| t.bytes == needed && t.dtype == weight.dtype);
    found.ok_or_else(|| ExecError::Weight { name: weight.name.clone(), needed: needed.0 })
}

/// A tensor's bytes, holding on to the mapping.
struct Mapped {
    gguf: Arc<Gguf>,
    name: String,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.gguf.tensor(&self.name).map_or(&[], |t| self.gguf.bytes(t))
    }
}

fn adopt(gguf: &Arc<Gguf>, name: &str, backend: &dyn Backend) -> Result<BufferId, BackendError> {
    let bytes: HostBytes = Arc::new(Mapped { gguf: Arc::clone(gguf), name: name.to_owned() });
    backend.adopt(bytes)
}

struct Meter<'a> {
    done: AtomicU64,
    total: Bytes,
    progress: Progress<'a>,
}

impl Meter<'_> {
    fn add(&self, bytes: usize) {
        let done = self.done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        (self.progress)(Bytes(done), self.total);
    }
}

fn put(
    weight: &Weight,
    layout: Layout,
    bytes: &[u8],
    backend: &dyn Backend,
    at: BufferSpan,
    meter: &Meter<'_>,
) -> Result<(), BackendError> {
    match layout {
        Layout::Gguf => copy(bytes, backend, at, meter),
        Layout::Panel16 => {
            let row = bytes.len() / (weight.rows as usize * weight.count as usize);
            let matrix = at.span.len.index() / weight.count as usize;
            bytes.chunks_exact(row * weight.rows as usize).enumerate().try_for_each(|(i, rows)| {
                let offset = at.span.offset + Bytes::of_len(i * matrix);
                let span = Span { offset, len: Bytes::of_len(matrix) };
                pack(weight, row, rows, backend, BufferSpan { buffer: at.buffer, span }, meter)
            })
        }
    }
}

fn copy(bytes: &[u8], backend: &dyn Backend, at: BufferSpan, meter: &Meter<'_>) -> Result<(), BackendError> {
    bytes.par_chunks(PIECE).enumerate().try_for_each(|(i, piece)| {
        let span = Span { offset: at.span.offset + Bytes::of_len(i * PIECE), len: Bytes::of_len(piece.len()) };
        backend.write(Queue::Upload, BufferSpan { buffer: at.buffer, span }, piece, &[])?;
        meter.add(piece.len());
        Ok(())
    })
}

/// One matrix into panels, a few panels at a time.
fn pack(
    weight: &Weight,
    row: usize,
    rows: &[u8],
    backend: &dyn Backend,
    at: BufferSpan,
    meter: &Meter<'_>,
) -> Result<(), BackendError> {
    let panel_bytes = row * PANEL_ROWS;
    let group = (PIECE / panel_bytes).max(1);
    let pieces = rows.par_chunks(group * panel_bytes).enumerate();
    pieces.try_for_each_init(Vec::new, |packed, (i, rows)| {
        let panels = rows.len().div_ceil(panel_bytes);
        packed.resize(panels * panel_bytes, 0);
        for (rows, panel) in rows.chunks(panel_bytes).zip(packed.chunks_exact_mut(panel_bytes)) {
            panel::pack(weight.dtype, weight.cols as usize, rows, panel);
        }
        let offset = at.span.offset + Bytes::of_len(i * group * panel_bytes);
        let span = Span { offset, len: Bytes::of_len(packed.len()) };
        backend.write(Queue::Upload, BufferSpan { buffer: at.buffer, span }, packed, &[])?;
        meter.add(packed.len());
        Ok(())
    })
}
