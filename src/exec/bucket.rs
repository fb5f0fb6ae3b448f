//! A plan → a bucket that runs without it: prepared programs, and every copy with its buffers and ranges resolved.
//! Prepares once; nothing here runs.

use std::ops::Range;

use super::ExecError;
use super::chosen::Routed;
use super::devices::Devices;
use crate::backend::{Bindings, BoundSlice, BufferSpan, ProgramId, SplitWork};
use crate::device::{DeviceId, reads_layout};
use crate::graph::{Graph, Input, NodeId, RowDim, Weight};
use crate::index::IndexVec;
use crate::plan::{Plan, Span, SplitId, Transfer, TransferId, Upload, UploadId, View};
use crate::residency::{Layout, slice_bytes};
use crate::tensor::DType;
use crate::tensor::panel::PANEL_ROWS;
use crate::units::{Bytes, Tokens};

/// A prepared plan.
pub(super) struct Bucket {
    /// What is written before the first split.
    pub inputs: Vec<(Input, DeviceId, Span)>,
    /// One a split, in plan order.
    pub stages: IndexVec<SplitId, Stage>,
    /// Weights that are brought, in order of their splits.
    pub fetches: IndexVec<UploadId, Fetch>,
    /// Values that cross, in order of their splits.
    pub sends: IndexVec<TransferId, Send>,
    /// Where the logits are.
    pub logits: (DeviceId, Span),
}

/// A prepared split.
pub(super) struct Stage {
    pub device: DeviceId,
    pub program: ProgramId,
    /// Whether it has nothing to do in a step without outputs.
    pub outputs: bool,
}

/// A value that crosses; of its rows only those that a step has.
pub(super) struct Send {
    pub from: DeviceId,
    pub to: DeviceId,
    /// The split behind which it does.
    pub after: SplitId,
    /// Whether only such splits read it.
    pub outputs: bool,
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
    /// The device that keeps it, or the one that reads it, where that copies it by itself.
    pub from: DeviceId,
    /// Where it is kept.
    pub src: BufferSpan,
    /// Its place in the ring.
    pub dst: BufferSpan,
    /// The panels that are unpacked on its way, if the device does not read them.
    pub unpack: Option<Panels>,
    /// The split that reads it.
    pub split: SplitId,
    /// The split whose end it waits for.
    pub after: Option<SplitId>,
    /// Its matrices.
    pub count: u32,
    /// What knows which of them a step needs, if that is known in time.
    pub routed: Option<Routed>,
}

impl Fetch {
    /// Where so many of its matrices are kept, and where they go.
    pub fn run(&self, run: &Range<u32>) -> (BufferSpan, BufferSpan) {
        let part = |whole: BufferSpan| {
            let matrix = whole.span.len.0 / u64::from(self.count.max(1));
            whole.part(Bytes(matrix * u64::from(run.start)), Bytes(matrix * run.len() as u64))
        };
        (part(self.src), part(self.dst))
    }
}

/// Matrices of panels.
pub(super) struct Panels {
    pub dtype: DType,
    /// Columns, and rows of each matrix.
    pub cols: usize,
    pub rows: usize,
    /// Bytes of a row.
    pub row: usize,
}

impl Bucket {
    /// Prepares all splits of `plan` on `devices`.
    pub fn prepare(devices: &Devices, graph: &Graph, plan: &Plan) -> Result<Bucket, ExecError> {
        let views: IndexVec<DeviceId, View> =
            devices.all.ids().map(|device| plan.view(device, graph.inputs().len())).collect();
        let mut bindings: IndexVec<DeviceId, Bindings> = devices.all.iter().map(|d| d.bindings.clone()).collect();
        let idle = idle(graph, plan);
        let mut bucket = Bucket {
            inputs: plan.inputs.iter().map(|copy| (graph.inputs()[copy.input], copy.device, copy.span)).collect(),
            stages: IndexVec::new(),
            fetches: IndexVec::new(),
            sends: plan.transfers.iter().map(|transfer| send(graph, plan, &idle, transfer)).collect(),
            logits: (plan.placements[graph.output()].device, plan.values[graph.output()]),
        };
        // They ascend by split.
        let mut uploads = plan.uploads.iter().peekable();
        for (id, split) in plan.splits.iter_ids() {
            let device = split.device;
            let mut streamed = Vec::new();
            while let Some(upload) = uploads.next_if(|upload| upload.split == id) {
                let routed = Routed::of(graph, plan, &views[device], upload);
                let (fetch, slice) = fetch(devices, graph, upload, routed)?;
                bucket.fetches.push(fetch);
                streamed.push(slice.slice.weight);
                bindings[device].weights[slice.slice.weight].push(slice);
            }
            let View { values, inputs } = &views[device];
            let work = SplitWork { graph, split, values, inputs, bindings: &bindings[device] };
            let program = devices.all[device].backend.prepare(&work)?;
            for weight in streamed {
                bindings[device].weights[weight].pop();
            }
            bucket.stages.push(Stage { device, program, outputs: split.nodes.iter().all(|&node| idle[node]) });
        }
        Ok(bucket)
    }

    /// The longest value that a step copies to a device.
    pub fn longest_send(&self, to: DeviceId, most: impl Fn(RowDim) -> Tokens) -> Bytes {
        let sent = self.sends.iter().filter(|send| send.to == to).map(|send| send.spans(most(send.dim)).0.len);
        sent.max().unwrap_or_default()
    }

    /// What knows the experts that come to a device.
    pub fn routed(&self, to: DeviceId) -> impl Iterator<Item = &Routed> {
        let fetches = self.fetches.iter().filter(move |fetch| self.stages[fetch.split].device == to);
        fetches.filter_map(|fetch| fetch.routed.as_ref())
    }

    /// The longest part of a weight that a step brings to a device, panels at their largest included; and that panel, of no
    /// bytes where none is unpacked.
    pub fn longest_fetch(&self, to: DeviceId) -> (Bytes, Bytes) {
        let fetches = self.fetches.iter().filter(|fetch| self.stages[fetch.split].device == to);
        fetches.fold((Bytes::ZERO, Bytes::ZERO), |(longest, largest), fetch| {
            let panel = Bytes::of_len(fetch.unpack.as_ref().map_or(0, Panels::panel));
            (longest.max(fetch.src.span.len).max(panel), largest.max(panel))
        })
    }
}

/// From where to where an upload goes, and how its split finds it.
fn fetch(
    devices: &Devices,
    graph: &Graph,
    upload: &Upload,
    routed: Option<Routed>,
) -> Result<(Fetch, BoundSlice), ExecError> {
    let (id, range) = (upload.slice.weight, &upload.slice.range);
    let weight = &graph.weights()[id];
    if let Some(after) = upload.after.filter(|&after| after >= upload.split) {
        return Err(ExecError::Late { name: weight.name.clone(), split: upload.split, after });
    }
    let lost = || ExecError::NoKeeper { what: weight.name.clone(), memory: upload.from };
    let from = devices.keepers.get(upload.from).copied().flatten().ok_or_else(lost)?;
    let kept = devices.all[from].bindings.weights[id].iter().find(|kept| kept.slice.holds(range)).ok_or_else(lost)?;
    let before = slice_bytes(weight, &(kept.slice.range.start..range.start), kept.layout);
    let src = Span { offset: kept.at.span.offset + before, len: slice_bytes(weight, range, kept.layout) };
    let readable = reads_layout(devices.all[upload.to].backend.spec(), kept.layout);
    let layout = if readable { kept.layout } else { Layout::Gguf };
    let len = slice_bytes(weight, range, layout);
    let unpack = (layout != kept.layout).then(|| Panels::of(weight));
    let dst = BufferSpan { buffer: devices.all[upload.to].ring, span: Span { len, ..upload.span } };
    let src = BufferSpan { span: src, ..kept.at };
    let (split, after, count) = (upload.split, upload.after, range.len() as u32);
    // What the device copies by itself needs nobody between.
    let lent = if unpack.is_none() { devices.lent(upload.to, from, src.buffer) } else { None };
    let (from, src) = lent.map_or((from, src), |buffer| (upload.to, BufferSpan { buffer, ..src }));
    let fetch = Fetch { from, src, dst, unpack, split, after, count, routed };
    Ok((fetch, BoundSlice { slice: upload.slice.clone(), layout, at: dst }))
}

impl Panels {
    fn of(weight: &Weight) -> Panels {
        let (dtype, cols, rows) = (weight.dtype, weight.cols as usize, weight.rows as usize);
        let row = dtype.row_bytes(weight.cols.into()).map_or(0, Bytes::index);
        Panels { dtype, cols, rows, row }
    }

    /// Bytes of a panel.
    pub fn panel(&self) -> usize {
        self.row * PANEL_ROWS
    }
}

/// The nodes of splits that make nothing but rows for outputs.
fn idle(graph: &Graph, plan: &Plan) -> IndexVec<NodeId, bool> {
    let mut idle: IndexVec<NodeId, bool> = graph.node_ids().map(|_| false).collect();
    for split in plan.splits.iter() {
        let only = split.nodes.iter().all(|&node| graph.node(node).out.rows == RowDim::Outputs);
        split.nodes.iter().for_each(|&node| idle[node] = only);
    }
    idle
}

fn send(graph: &Graph, plan: &Plan, idle: &IndexVec<NodeId, bool>, transfer: &Transfer) -> Send {
    let Transfer { value, after, to, span } = *transfer;
    let out = graph.node(value).out;
    Send {
        from: plan.placements[value].device,
        to,
        after,
        outputs: graph.users(value).iter().all(|&user| plan.placements[user].device != to || idle[user]),
        dim: out.rows,
        row: out.element.bytes_of(out.cols.into()),
        src: plan.values[value].offset,
        dst: span.offset,
    }
}
