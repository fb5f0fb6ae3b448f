//! One item of a step → calls of the devices that it is about, in exactly the order and with the waits that the plan's
//! contract asks for.
//!
//! A split waits for the weights and values that were brought for it, a transfer for the split that makes the value and
//! for its target's splits before, an upload for the split whose bytes of the ring it overwrites, and in a step of few rows
//! for the routing that says which experts it must bring. Uploads go ahead as far as that lets them. At its end a lane waits for what it has begun. Never allocates once its room is made.

use std::ops::Range;

use super::bucket::{Bucket, Fetch, Panels, Send};
use super::chosen::{Came, Chosen, Routed};
use super::devices::Devices;
use super::flight::{Step, locked};
use super::items::{Item, LaneId, device_of};
use super::{StepInput, items};
use crate::backend::{Args, BackendError, BufferSpan, Event, Queue};
use crate::device::DeviceId;
use crate::graph::{Batch, Input, RowDim};
use crate::plan::{self, Activity, Span, SplitId, TransferId, UploadId};
use crate::tensor::panel::{PANEL_ROWS, unpack};
use crate::units::{Bytes, Nanos, Tokens};

/// The most that is copied at a time from device to device.
const PIECE: usize = 1 << 20;

/// What a lane keeps from item to item.
#[derive(Default)]
pub(super) struct Lane {
    /// Host memory through which bytes get from device to device.
    staging: Vec<u8>,
    /// And in which they are unpacked.
    unpacked: Vec<u8>,
    /// Its last split.
    last: Option<Event>,
    /// Its last incoming value that no split has waited for.
    arrived: Option<Event>,
    /// Its last upload.
    uploaded: Option<Event>,
    /// What the last routing chose that it waited for.
    chosen: Chosen,
}

impl Lane {
    /// Makes room for steps of `bucket`, whose batch is `batch`.
    pub fn reserve(&mut self, lane: LaneId, bucket: &Bucket, batch: Batch) {
        let device = device_of(lane);
        let (longest, panel) = match lane == items::main(device) {
            true => (bucket.longest_send(device, |dim| batch.rows(dim)), Bytes::ZERO),
            false => bucket.longest_fetch(device),
        };
        let room = longest.index().min(PIECE.max(panel.index()));
        grow(&mut self.staging, room);
        grow(&mut self.unpacked, if panel > Bytes::ZERO { room } else { 0 });
        if lane == items::aside(device) {
            bucket.routed(device).for_each(|routed| self.chosen.reserve(routed, batch));
        }
    }

    /// Waits for all that was begun.
    fn end(&mut self, devices: &Devices, device: DeviceId) -> Result<(), BackendError> {
        let mut ended = Ok(());
        self.chosen.forget();
        for event in [self.last.take(), self.arrived.take(), self.uploaded.take()].into_iter().flatten() {
            ended = ended.and(devices.all[device].backend.wait(event));
        }
        ended
    }
}

impl<'a> StepInput<'a> {
    /// What splits are told of it.
    pub(super) fn args(&self) -> Args<'a> {
        let StepInput { ids, output_rows, tables, .. } = *self;
        Args { tokens: Tokens(ids.len() as u32), outputs: Tokens(output_rows.len() as u32), tables }
    }

    /// Rows that it has.
    pub(super) fn rows(&self, dim: RowDim) -> Tokens {
        let Args { tokens, outputs, .. } = self.args();
        match dim {
            RowDim::Tokens => tokens,
            RowDim::Outputs => outputs,
        }
    }

    /// What it gives for an input of its graph.
    pub(super) fn data(&self, what: Input) -> &'a [u32] {
        match what {
            Input::TokenIds => self.ids,
            Input::Positions => self.positions,
            Input::OutputRows => self.output_rows,
        }
    }
}

/// One lane in one step.
pub(super) struct Doing<'a> {
    pub devices: &'a Devices,
    pub step: &'a Step,
    pub lane: &'a mut Lane,
    pub device: DeviceId,
}

impl Doing<'_> {
    /// Does one item, now that what it needs is done. Of a step that has failed only the end is still to be done.
    ///
    /// # Errors
    /// The first that a device reports.
    pub fn item(&mut self, item: Item) -> Result<(), BackendError> {
        if self.step.has_failed() && item != Item::End {
            return Ok(());
        }
        match item {
            Item::End => self.lane.end(self.devices, self.device),
            Item::Input(at) => self.input(at),
            Item::Fetch(upload) => self.fetch(upload),
            Item::Run(split, brought) => self.run(split, brought),
            Item::Take(transfer, made) => self.take(transfer, made),
            Item::Logits(split) => self.logits(split),
            Item::Offer | Item::Taken => Ok(()),
        }
    }

    /// Passes over an item that has nothing to do in this step.
    pub fn pass(&mut self, item: Item) {
        // Who waits for a split that did not run waits for those before it.
        if let (Item::Run(split, _), Some(last)) = (item, self.lane.last) {
            self.step.ran(split, last);
        }
    }

    fn input(&mut self, at: usize) -> Result<(), BackendError> {
        let (what, device, span) = self.step.what.bucket.inputs[at];
        let data = self.step.input().data(what);
        let span = Span { len: Bytes::of_len(4 * data.len()), ..span };
        let at = self.devices.in_arena(device, span);
        let backend = &self.devices.all[device].backend;
        self.lane.arrived = Some(backend.write(Queue::Compute, at, bytemuck::cast_slice(data), &[])?);
        Ok(())
    }

    fn fetch(&mut self, id: UploadId) -> Result<(), BackendError> {
        let (fetch, start) = (&self.step.what.bucket.fetches[id], self.step.now());
        let brought = match self.step.routed(id) {
            None => self.bring(fetch, 0..fetch.count)?,
            Some(routed) => self.bring_chosen(fetch, routed)?,
        };
        if let Some(event) = self.lane.uploaded {
            self.step.fetched(id, event);
        }
        self.timed(self.lane.uploaded, (plan::Queue::Upload, Activity::Upload(id)), start, brought)
    }

    /// Brings the matrices that the step chose, once it is known which those are: how many bytes they are.
    fn bring_chosen(&mut self, fetch: &Fetch, routed: &Routed) -> Result<Bytes, BackendError> {
        let known = match routed.came {
            Came::Made(split) => self.step.split(split),
            Came::Taken(transfer) => self.step.transfer(transfer),
        };
        let (devices, device) = (self.devices, self.device);
        self.lane.chosen.know(routed, &self.step.input(), |span, choices| {
            let at = devices.in_arena(device, span);
            devices.all[device].backend.read(Queue::Upload, at, choices, known.as_slice())
        })?;
        let (mut from, mut brought) = (0, Bytes::ZERO);
        while let Some(run) = self.lane.chosen.run(routed, from) {
            from = run.end;
            brought += self.bring(fetch, run)?;
        }
        Ok(brought)
    }

    /// Brings some matrices of an upload to their places in the ring: how many bytes they are there.
    fn bring(&mut self, fetch: &Fetch, run: Range<u32>) -> Result<Bytes, BackendError> {
        let free = fetch.after.and_then(|split| self.step.split(split));
        let (src, dst) = fetch.run(&run);
        let way = Way { from: (fetch.from, src), to: (self.device, dst), queue: Queue::Upload };
        let (carried, done) = match &fetch.unpack {
            None if fetch.from == self.device => {
                match self.devices.all[self.device].backend.copy(Queue::Upload, src, dst, free.as_slice()) {
                    Ok(copied) => (Ok(()), Some(copied)),
                    Err(why) => (Err(why), None),
                }
            }
            None => carry(self.devices, &mut self.lane.staging, way, None, free),
            Some(panels) => self.unpacked(way, (panels, run.len()), free),
        };
        self.lane.uploaded = done.or(self.lane.uploaded);
        carried.map(|()| dst.span.len)
    }

    /// Copies so many matrices of panels as rows, some panels at a time, after `free`; and the last write that was begun, as [`carry`].
    fn unpacked(
        &mut self,
        way: Way,
        (panels, count): (&Panels, usize),
        free: Option<Event>,
    ) -> (Result<(), BackendError>, Option<Event>) {
        let ((from, src), (to, dst)) = (way.from, way.to);
        let Lane { staging, unpacked, .. } = &mut *self.lane;
        let each = (staging.len() / panels.panel().max(1)).max(1) * PANEL_ROWS;
        let part = |whole: BufferSpan, at: usize, len: usize| whole.part(Bytes::of_len(at), Bytes::of_len(len));
        let padded = panels.rows.next_multiple_of(PANEL_ROWS);
        let mut done = None;
        for (matrix, first) in (0..count).flat_map(|m| (0..panels.rows).step_by(each).map(move |row| (m, row))) {
            let rows = each.min(panels.rows - first);
            let packed = &mut staging[..rows.next_multiple_of(PANEL_ROWS) * panels.row];
            let plain = &mut unpacked[..rows * panels.row];
            let read_from = part(src, (matrix * padded + first) * panels.row, packed.len());
            let read = self.devices.all[from].backend.read(way.queue, read_from, packed, &[]);
            let written = read.and_then(|()| {
                let panel = panels.panel();
                for (panel, rows) in packed.chunks_exact(panel).zip(plain.chunks_mut(panel)) {
                    unpack(panels.dtype, panels.cols, panel, rows);
                }
                let write_to = part(dst, (matrix * panels.rows + first) * panels.row, plain.len());
                self.devices.all[to].backend.write(way.queue, write_to, plain, free.as_slice())
            });
            match written {
                Ok(written) => done = Some(written),
                Err(why) => return (Err(why), done),
            }
        }
        (Ok(()), done)
    }

    fn run(&mut self, id: SplitId, brought: Option<UploadId>) -> Result<(), BackendError> {
        let start = self.step.now();
        let program = self.step.what.bucket.stages[id].program;
        // A queue works in order: its last upload's end is the end of all.
        let uploaded = brought.and_then(|upload| self.step.upload(upload));
        let both = [self.lane.arrived.unwrap_or(Event(0)), uploaded.unwrap_or(Event(0))];
        let waits = match (self.lane.arrived, uploaded) {
            (None, None) => &[][..],
            (Some(_), None) => &both[..1],
            (None, Some(_)) => &both[1..],
            (Some(_), Some(_)) => &both,
        };
        let done = self.devices.all[self.device].backend.submit(program, &self.step.input().args(), waits)?;
        (self.lane.last, self.lane.arrived) = (Some(done), None);
        self.step.ran(id, done);
        self.timed(Some(done), (plan::Queue::Compute, Activity::Split(id)), start, Bytes::ZERO)
    }

    /// Copies a value that was made to where it is read.
    fn take(&mut self, id: TransferId, made: SplitId) -> Result<(), BackendError> {
        let send: &Send = &self.step.what.bucket.sends[id];
        let start = self.step.now();
        let (src, dst) = send.spans(self.step.input().rows(send.dim));
        let bytes = dst.len;
        let (src, dst) = (self.devices.in_arena(send.from, src), self.devices.in_arena(send.to, dst));
        let way = Way { from: (send.from, src), to: (send.to, dst), queue: Queue::Peer };
        let made = self.step.split(made);
        let (carried, done) = carry(self.devices, &mut self.lane.staging, way, made, self.lane.last);
        self.lane.arrived = done.or(self.lane.arrived);
        if let Some(event) = done {
            self.step.took(id, event);
        }
        carried?;
        self.timed(done, (plan::Queue::Peer, Activity::Transfer(id)), start, bytes)
    }

    fn logits(&mut self, made: SplitId) -> Result<(), BackendError> {
        let (device, span) = self.step.what.bucket.logits;
        let mut logits = locked(&self.step.logits);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut logits[..self.step.floats]);
        if bytes.is_empty() {
            return Ok(());
        }
        let at = self.devices.in_arena(device, Span { len: Bytes::of_len(bytes.len()), ..span });
        self.devices.all[device].backend.read(Queue::Compute, at, bytes, self.step.split(made).as_slice())
    }

    /// Where times are wanted, waits for the end of what was begun at `start` and notes both, with the bytes carried.
    fn timed(
        &self,
        done: Option<Event>,
        (queue, what): (plan::Queue, Activity),
        start: Option<Nanos>,
        bytes: Bytes,
    ) -> Result<(), BackendError> {
        if start.is_some() {
            done.map_or(Ok(()), |event| self.devices.all[self.device].backend.wait(event))?;
            self.step.note(plan::Lane { device: self.device, queue }, what, start, bytes);
        }
        Ok(())
    }
}

fn grow(bytes: &mut Vec<u8>, room: usize) {
    bytes.resize(room.max(bytes.len()), 0);
}

/// From where to where bytes go, and on which queue of both devices.
#[derive(Clone, Copy)]
struct Way {
    from: (DeviceId, BufferSpan),
    to: (DeviceId, BufferSpan),
    queue: Queue,
}

/// Copies from device to device through host memory: reads after `made`, writes after `free`. Also the last write that
/// was begun, if one was: it is waited for even if a later one failed.
fn carry(
    devices: &Devices,
    staging: &mut [u8],
    way: Way,
    made: Option<Event>,
    free: Option<Event>,
) -> (Result<(), BackendError>, Option<Event>) {
    let ((from, src), (to, dst)) = (way.from, way.to);
    let (mut at, mut done) = (Bytes::ZERO, None);
    while at < src.span.len {
        let len = Bytes::of_len(staging.len()).min(src.span.len - at);
        let bytes = &mut staging[..len.index()];
        let read = devices.all[from].backend.read(way.queue, src.part(at, len), bytes, made.as_slice());
        match read.and_then(|_| devices.all[to].backend.write(way.queue, dst.part(at, len), bytes, free.as_slice())) {
            Ok(written) => done = Some(written),
            Err(why) => return (Err(why), done),
        }
        at += len;
    }
    (Ok(()), done)
}
