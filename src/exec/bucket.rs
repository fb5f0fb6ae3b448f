//! A plan → a bucket that runs without it: prepared programs, and every copy with its buffers and ranges resolved.
//! Prepares once; nothing here runs.

use std::ops::Range;

use super::ExecError;
use super::devices::Devices;
use crate::backend::{BoundSlice, BufferSpan, ProgramId, SplitWork};
use crate::device::DeviceId;
use crate::graph::{Graph, Input, RowDim};
use crate::index::IndexVec;
use crate::plan::{Plan, Span, SplitId, Transfer, Upload, View};
use crate::residency::slice_bytes;
use crate::units::{Bytes, Tokens};

/// A prepared plan.
pub(super) struct Bucket {
    /// What is written before the first split.
    pub inputs: Vec<(Input, DeviceId, Span)>,
    /// One a split, in plan order.
    pub stages: Vec<Stage>,
    /// What each device's upload queue does, in order.
    pub uploads: IndexVec<DeviceId, Vec<Fetch>>,
    /// Where the logits are.
    pub logits: (DeviceId, Span),
}

/// A split and the copies that follow it.
pub(super) struct Stage {
    pub device: DeviceId,
    pub program: ProgramId,
    /// The device's uploads that it reads.
    pub uploads: Range<usize>,
    /// Values that cross behind it.
    pub sends: Vec<Send>,
}

/// A value that crosses; of its rows only those that a step has.
pub(super) struct Send {
    pub from: DeviceId,
    pub to: DeviceId,
    pub dim: RowDim,
    /// Bytes of a row.
    pub row: Bytes,
    /// Where it is made.
    pub src: Bytes,
    /// Where it is read.
    pub dst: Bytes,
}

impl Send {
    /// The spans of so many rows, where it is made and where it is read.
    pub fn spans(&self, rows: Tokens) -> (Span, Span) {
        let len = self.row.times(rows.0.into());
        (Span { offset: self.src, len }, Span { offset: self.dst, len })
    }
}

/// A part of a weight that is brought into a ring.
pub(super) struct Fetch {
    /// The device that keeps it.
    pub from: DeviceId,
    /// Where it is kept.
    pub src: BufferSpan,
    /// Its place in the ring.
    pub dst: BufferSpan,
    /// The split whose end it waits for.
    pub after: Option<SplitId>,
}

impl Bucket {
    /// Prepares all splits of `plan` on `devices`.
    pub fn prepare(devices: &mut Devices, graph: &Graph, plan: &Plan) -> Result<Bucket, ExecError> {
        let views: IndexVec<DeviceId, View> =
            devices.all.ids().map(|device| plan.view(device, graph.inputs().len())).collect();
        let mut bucket = Bucket {
            inputs: plan.inputs.iter().map(|copy| (graph.inputs()[copy.input], copy.device, copy.span)).collect(),
            stages: Vec::with_capacity(plan.splits.len()),
            uploads: devices.all.iter().map(|_| Vec::new()).collect(),
            logits: (plan.placements[graph.output()].device, plan.values[graph.output()]),
        };
        // Both lists ascend by split.
        let (mut uploads, mut transfers) = (plan.uploads.iter().peekable(), plan.transfers.iter().peekable());
        for (id, split) in plan.splits.iter_ids() {
            let device = split.device;
            let first = bucket.uploads[device].len();
            let (mut streamed, mut bound) = (Vec::new(), Vec::new());
            while let Some(upload) = uploads.next_if(|upload| upload.split == id) {
                let (fetch, slice) = fetch(devices, graph, upload)?;
                streamed.push(fetch);
                bound.push(slice);
            }
            let program = with(devices, device, bound, |devices| {
                let Devices { all, .. } = devices;
                let View { values, inputs } = &views[device];
                let work = SplitWork { graph, split, values, inputs, bindings: &all[device].bindings };
                all[device].backend.prepare(&work)
            })?;
            bucket.uploads[device].extend(streamed);
            let uploads = first..bucket.uploads[device].len();
            let sent = std::iter::from_fn(|| transfers.next_if(|transfer| transfer.after == id));
            let sends = sent.map(|transfer| send(graph, plan, transfer)).collect();
            bucket.stages.push(Stage { device, program, uploads, sends });
        }
        Ok(bucket)
    }

    /// The longest copy that a step makes between devices.
    pub fn longest_copy(&self, most: impl Fn(RowDim) -> Tokens) -> Bytes {
        let sent = self.stages.iter().flat_map(|stage| &stage.sends).map(|send| send.spans(most(send.dim)).0.len);
        let fetched = self.uploads.iter().flatten().map(|fetch| fetch.src.span.len);
        sent.chain(fetched).max().unwrap_or_default()
    }
}

/// Runs `job` while `bound` is bound on `device` beside what lives there.
fn with<T>(devices: &mut Devices, device: DeviceId, bound: Vec<BoundSlice>, job: impl FnOnce(&Devices) -> T) -> T {
    let ids: Vec<_> = bound.iter().map(|slice| slice.slice.weight).collect();
    for slice in bound {
        devices.all[device].bindings.weights[slice.slice.weight].push(slice);
    }
    let done = job(devices);
    for id in ids {
        devices.all[device].bindings.weights[id].pop();
    }
    done
}

/// From where to where an upload goes, and how its split finds it.
fn fetch(devices: &Devices, graph: &Graph, upload: &Upload) -> Result<(Fetch, BoundSlice), ExecError> {
    let (id, range) = (upload.slice.weight, &upload.slice.range);
    let weight = &graph.weights()[id];
    if let Some(after) = upload.after.filter(|&after| after >= upload.split) {
        return Err(ExecError::Late { name: weight.name.clone(), split: upload.split, after });
    }
    let lost = || ExecError::NoKeeper { what: weight.name.clone(), memory: upload.from };
    let from = devices.keepers.get(upload.from).copied().flatten().ok_or_else(lost)?;
    let kept = devices.all[from].bindings.weights[id].iter().find(|kept| kept.slice.holds(range)).ok_or_else(lost)?;
    let len = slice_bytes(weight, range, kept.layout);
    let before = slice_bytes(weight, &(kept.slice.range.start..range.start), kept.layout);
    let src = Span { offset: kept.at.span.offset + before, len };
    let dst = BufferSpan { buffer: devices.all[upload.to].ring, span: Span { len, ..upload.span } };
    let fetch = Fetch { from, src: BufferSpan { span: src, ..kept.at }, dst, after: upload.after };
    Ok((fetch, BoundSlice { slice: upload.slice.clone(), layout: kept.layout, at: dst }))
}

fn send(graph: &Graph, plan: &Plan, transfer: &Transfer) -> Send {
    let Transfer { value, to, span, .. } = *transfer;
    let out = graph.node(value).out;
    Send {
        from: plan.placements[value].device,
        to,
        dim: out.rows,
        row: out.element.bytes_of(out.cols.into()),
        src: plan.values[value].offset,
        dst: span.offset,
    }
}
