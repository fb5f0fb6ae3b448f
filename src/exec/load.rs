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
use crate::residency::{Home, Layout, Residency, Storage, weight_bytes};
use crate::tensor::panel::{self, PANEL_ROWS};
use crate::units::Bytes;

/// Called with the bytes done so far and the bytes in all.
pub type Progress<'a> = &'a (dyn Fn(Bytes, Bytes) + Sync);

/// Bytes that a thread packs before it hands them on.
const PIECE: usize = 1 << 20;

/// Where each slice of a weight lies.
type Bound = IndexVec<WeightId, Vec<BoundSlice>>;

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
) -> Result<Bound, ExecError> {
    on_threads(backend.spec().workers as usize, || load_all(graph, residency, gguf, backend, progress))?
}

/// Runs `job` on a pool of threads of our own, since rayon's global ones panic where the system refuses threads. They
/// have ended on return: joined one by one, as a scope alone waits for their work but not for what ends them.
fn on_threads<T: Send>(threads: usize, job: impl FnOnce() -> T + Send) -> Result<T, ExecError> {
    std::thread::scope(|scope| {
        let mut handles = Vec::with_capacity(threads);
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).spawn_handler(|thread| {
            handles.push(std::thread::Builder::new().spawn_scoped(scope, || thread.run())?);
            Ok(())
        });
        let pool = builder.build().map_err(|why| ExecError::Threads(why.to_string()))?;
        let done = pool.install(job);
        drop(pool);
        for handle in handles {
            // A panic of the job has come out of `install`; a thread that still died has nothing more to say.
            let _ = handle.join();
        }
        Ok(done)
    })
}

fn load_all(
    graph: &Graph,
    residency: &Residency,
    gguf: &Arc<Gguf>,
    backend: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Bound, ExecError> {
    let homes = || residency.weights.iter_ids().flat_map(|(id, homes)| homes.iter().map(move |h| (id, h)));
    let size = |(id, home): (WeightId, &Home)| home.allocated(&graph.weights()[id]);
    let allocated: Bytes = homes().map(size).sum();
    let buffer = backend.alloc(BufferKind::Device, allocated)?;
    let meter = Meter { done: AtomicU64::new(0), total: allocated, progress };
    let mut bound: Bound = graph.weights().iter().map(|_| Vec::new()).collect();
    let mut offset = Bytes::ZERO;
    for (id, home) in homes() {
        let weight = &graph.weights()[id];
        let tensor = tensor_of(gguf, weight)?;
        let at = match home.storage {
            Storage::Allocated => {
                let at = BufferSpan { buffer, span: Span { offset, len: weight_bytes(weight, home.layout) } };
                offset += size((id, home));
                put(weight, home.layout, gguf.bytes(tensor), backend, at, &meter)?;
                gguf.release(tensor);
                at
            }
            Storage::Mapped => {
                let buffer = adopt(gguf, &weight.name, backend)?;
                BufferSpan { buffer, span: Span { offset: Bytes::ZERO, len: tensor.bytes } }
            }
        };
        bound[id].push(BoundSlice { slice: home.slice.clone(), layout: home.layout, at });
    }
    Ok(bound)
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
