//! Weights from the model file to their homes on all devices: used in place, copied, or repacked on all cores.
//! A weight that was copied gives its file pages back to the system.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::ExecError;
use super::part::{Rows, tensor_bytes};
use crate::backend::{Backend, BackendError, BoundSlice, BufferId, BufferKind, BufferSpan, HostBytes, Queue};
use crate::device::{DeviceId, MemoryId};
use crate::gguf::{Gguf, TensorInfo};
use crate::graph::{Graph, Weight, WeightId};
use crate::index::IndexVec;
use crate::plan::Span;
use crate::residency::{Axis, Home, Layout, Residency, Storage, WeightSlice, part_bytes, slice_bytes};
use crate::tensor::panel::{self, PANEL_ROWS};
use crate::units::Bytes;

/// Called with the bytes done so far and the bytes in all.
pub type Progress<'a> = &'a (dyn Fn(Bytes, Bytes) + Sync);

/// Bytes that a thread packs before it hands them on.
const PIECE: usize = 1 << 20;

/// Where the slices of each weight lie that one device has.
pub type Bound = IndexVec<WeightId, Vec<BoundSlice>>;

/// What is loaded, and where to.
pub struct Load<'a> {
    pub graph: &'a Graph,
    pub residency: &'a Residency,
    pub gguf: &'a Arc<Gguf>,
    pub backends: &'a IndexVec<DeviceId, Box<dyn Backend>>,
    /// The device that keeps what lives in a memory.
    pub keepers: &'a IndexVec<MemoryId, Option<DeviceId>>,
}

/// Puts every weight of the graph where its homes say.
///
/// # Errors
/// The file lacks a tensor, a home makes no sense, or a device lacks memory.
pub fn load(what: &Load<'_>, progress: Progress<'_>) -> Result<IndexVec<DeviceId, Bound>, ExecError> {
    let threads = what.backends.iter().map(|b| b.spec().workers).max().unwrap_or(1).max(1);
    on_threads(threads as usize, || load_all(what, progress))?
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

fn load_all(what: &Load<'_>, progress: Progress<'_>) -> Result<IndexVec<DeviceId, Bound>, ExecError> {
    let totals = what.totals()?;
    let meter = Meter { done: AtomicU64::new(0), total: totals.iter().copied().sum(), progress };
    let mut places: IndexVec<DeviceId, Place<'_>> = IndexVec::new();
    for (device, backend) in what.backends.iter_ids() {
        let buffer = backend.alloc(BufferKind::Device, totals[device])?;
        let bound = what.graph.weights().iter().map(|_| Vec::new()).collect();
        places.push(Place { backend: &**backend, buffer, end: Bytes::ZERO, bound });
    }
    for (id, homes) in what.residency.weights.iter_ids() {
        let weight = &what.graph.weights()[id];
        let tensor = tensor_of(what.gguf, weight)?;
        for home in homes {
            let device = what.keeper(home, weight)?;
            places[device].settle(what.gguf, tensor, (id, weight), home, &meter)?;
        }
        if homes.iter().all(|home| home.storage == Storage::Allocated) {
            what.gguf.release(tensor);
        }
    }
    places.iter().try_for_each(Place::wait)?;
    let bound = places.ids().map(|device| std::mem::take(&mut places[device].bound));
    Ok(bound.collect())
}

impl Load<'_> {
    fn keeper(&self, home: &Home, weight: &Weight) -> Result<DeviceId, ExecError> {
        let found = self.keepers.get(home.memory).copied().flatten();
        found.ok_or_else(|| ExecError::NoKeeper { what: weight.name.clone(), memory: home.memory })
    }

    /// What each device allocates for weights.
    fn totals(&self) -> Result<IndexVec<DeviceId, Bytes>, ExecError> {
        let mut totals: IndexVec<DeviceId, Bytes> = self.backends.iter().map(|_| Bytes::ZERO).collect();
        for (id, homes) in self.residency.weights.iter_ids() {
            let weight = &self.graph.weights()[id];
            for home in homes {
                let WeightSlice { axis, range, .. } = &home.slice;
                let in_place = weight.part.is_some() && home.storage == Storage::Mapped;
                if *axis != Axis::Expert || range.start >= range.end || range.end > weight.count || in_place {
                    let (name, range) = (weight.name.clone(), range.clone());
                    return Err(ExecError::Slice { name, axis: *axis, range, count: weight.count });
                }
                totals[self.keeper(home, weight)?] += home.allocated(weight);
            }
        }
        Ok(totals)
    }
}

/// One device while its weights are loaded.
struct Place<'a> {
    backend: &'a dyn Backend,
    /// For all that is copied or repacked.
    buffer: BufferId,
    /// Where the next slice goes in it.
    end: Bytes,
    bound: Bound,
}

impl Place<'_> {
    /// Returns when all is there: a queue works in order, so an empty write at its end is done after all before it.
    fn wait(&self) -> Result<(), BackendError> {
        let end = Span { offset: Bytes::ZERO, len: Bytes::ZERO };
        let last = self.backend.write(Queue::Upload, BufferSpan { buffer: self.buffer, span: end }, &[], &[])?;
        self.backend.wait(last)
    }

    fn settle(
        &mut self,
        gguf: &Arc<Gguf>,
        tensor: &TensorInfo,
        (id, weight): (WeightId, &Weight),
        home: &Home,
        meter: &Meter<'_>,
    ) -> Result<(), BackendError> {
        let range = &home.slice.range;
        let at = match home.storage {
            Storage::Allocated => {
                let len = slice_bytes(weight, range, home.layout);
                let at = BufferSpan { buffer: self.buffer, span: Span { offset: self.end, len } };
                self.end += home.allocated(weight);
                put(weight, home, &Rows::of(weight, gguf.bytes(tensor)), self.backend, at, meter)?;
                at
            }
            Storage::Mapped => {
                let buffer = adopt(gguf, &weight.name, self.backend)?;
                let offset = part_bytes(weight, &(0..range.start));
                BufferSpan { buffer, span: Span { offset, len: part_bytes(weight, range) } }
            }
        };
        self.bound[id].push(BoundSlice { slice: home.slice.clone(), layout: home.layout, at });
        Ok(())
    }
}

fn tensor_of<'a>(gguf: &'a Gguf, weight: &Weight) -> Result<&'a TensorInfo, ExecError> {
    let needed = tensor_bytes(weight);
    let found = gguf.tensor(weight.tensor()).filter(|t| t.bytes == needed && t.dtype == weight.dtype);
    found.ok_or_else(|| ExecError::Weight { name: weight.tensor().to_owned(), needed: needed.0 })
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

/// What a thread keeps from piece to piece.
#[derive(Default)]
struct Room {
    gathered: Vec<u8>,
    packed: Vec<u8>,
}

/// The matrices of a home, some rows at a time, into their place.
fn put(
    weight: &Weight,
    home: &Home,
    source: &Rows<'_>,
    backend: &dyn Backend,
    at: BufferSpan,
    meter: &Meter<'_>,
) -> Result<(), BackendError> {
    let (range, rows, row) = (&home.slice.range, weight.rows as usize, source.row());
    let matrix = at.span.len.index() / range.len();
    // Whole panels in every layout.
    let group = (PIECE / (row * PANEL_ROWS)).max(1) * PANEL_ROWS;
    let groups = rows.div_ceil(group);
    (0..range.len() * groups).into_par_iter().try_for_each_init(Room::default, |room, i| {
        let (m, first) = (i / groups, i % groups * group);
        let bytes = source.bytes(range.start as usize + m, first..rows.min(first + group), &mut room.gathered);
        let bytes = match home.layout {
            Layout::Gguf => bytes,
            Layout::Panel16 => pack(weight, row, bytes, &mut room.packed),
        };
        let offset = at.span.offset + Bytes::of_len(m * matrix + first * row);
        let span = Span { offset, len: Bytes::of_len(bytes.len()) };
        backend.write(Queue::Upload, BufferSpan { buffer: at.buffer, span }, bytes, &[])?;
        meter.add(bytes.len());
        Ok(())
    })
}

/// Rows into panels.
fn pack<'a>(weight: &Weight, row: usize, rows: &[u8], packed: &'a mut Vec<u8>) -> &'a [u8] {
    let panel_bytes = row * PANEL_ROWS;
    packed.clear();
    packed.resize(rows.len().next_multiple_of(panel_bytes), 0);
    for (rows, panel) in rows.chunks(panel_bytes).zip(packed.chunks_exact_mut(panel_bytes)) {
        panel::pack(weight.dtype, weight.cols as usize, rows, panel);
    }
    packed
}
