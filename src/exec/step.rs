//! A bucket and a step's input → splits, transfers and uploads in the order that the plan's contract asks for.
//!
//! A split waits for the weights and values that were brought for it, a transfer for the split that makes the value and
//! for its target's splits before, an upload for the split whose bytes of the ring it overwrites. Uploads go ahead as far
//! as that lets them. When a step ends, also with an error, nothing of it is under way. Never allocates.

use super::bucket::{Bucket, Send, Stage};
use super::devices::Devices;
use super::{ExecError, StepInput};
use crate::backend::{Args, BackendError, BufferSpan, Event, Queue};
use crate::device::DeviceId;
use crate::graph::{Batch, Input, RowDim};
use crate::index::{Id, IndexVec};
use crate::plan::{Span, SplitId};
use crate::units::{Bytes, Tokens};

/// The most that is copied at a time from device to device.
const PIECE: usize = 1 << 20;

/// What a step keeps while it runs. Its room is made ahead, see [`Flight::reserve`].
pub(super) struct Flight {
    /// Host memory through which bytes get from device to device.
    staging: Vec<u8>,
    /// The end of every split that was submitted.
    splits: Vec<Event>,
    lanes: IndexVec<DeviceId, Lane>,
    waits: Vec<Event>,
}

/// One device in a step.
#[derive(Default)]
struct Lane {
    /// Its last split.
    last: Option<Event>,
    /// Its last incoming value that no split has waited for.
    arrived: Option<Event>,
    /// Its uploads so far, in order.
    uploaded: Vec<Event>,
}

impl Flight {
    pub fn new(devices: &Devices) -> Flight {
        let lanes = devices.all.iter().map(|_| Lane::default()).collect();
        Flight { staging: Vec::new(), splits: Vec::new(), lanes, waits: Vec::with_capacity(3) }
    }

    /// Makes room for steps of `bucket`, whose batch is `batch`.
    pub fn reserve(&mut self, bucket: &Bucket, batch: Batch) {
        let longest = bucket.longest_copy(|dim| batch.rows(dim)).index().min(PIECE);
        if self.staging.len() < longest {
            self.staging.resize(longest, 0);
        }
        self.begin();
        self.splits.reserve(bucket.stages.len());
        for (device, uploads) in bucket.uploads.iter_ids() {
            self.lanes[device].uploaded.reserve(uploads.len());
        }
    }

    fn begin(&mut self) {
        self.splits.clear();
        for device in self.lanes.ids() {
            let lane = &mut self.lanes[device];
            (lane.last, lane.arrived) = (None, None);
            lane.uploaded.clear();
        }
    }
}

/// Runs one step up to its last split.
///
/// # Errors
/// The first that a device reports; what the others do for the step is waited for all the same.
pub(super) fn run(
    devices: &Devices,
    bucket: &Bucket,
    flight: &mut Flight,
    input: &StepInput<'_>,
) -> Result<(), ExecError> {
    flight.begin();
    let mut step = Step { devices, bucket, flight, args: args(input) };
    let done = step.run(input);
    let ended = step.end();
    Ok(done.and(ended)?)
}

/// What splits are told of a step.
pub(super) fn args<'a>(input: &StepInput<'a>) -> Args<'a> {
    Args {
        tokens: Tokens(input.ids.len() as u32),
        outputs: Tokens(input.output_rows.len() as u32),
        tables: input.tables,
    }
}

struct Step<'a> {
    devices: &'a Devices,
    bucket: &'a Bucket,
    flight: &'a mut Flight,
    args: Args<'a>,
}

impl Step<'_> {
    fn run(&mut self, input: &StepInput<'_>) -> Result<(), BackendError> {
        for &(what, device, span) in &self.bucket.inputs {
            let data = match what {
                Input::TokenIds => input.ids,
                Input::Positions => input.positions,
                Input::OutputRows => input.output_rows,
            };
            let span = Span { len: Bytes::of_len(4 * data.len()), ..span };
            let at = self.devices.in_arena(device, span);
            let backend = &self.devices.all[device].backend;
            let written = backend.write(Queue::Compute, at, bytemuck::cast_slice(data), &[])?;
            self.flight.lanes[device].arrived = Some(written);
        }
        for stage in &self.bucket.stages {
            self.bring()?;
            self.submit(stage)?;
            stage.sends.iter().try_for_each(|send| self.send(send))?;
        }
        Ok(())
    }

    /// Uploads all that waits for nothing but splits that were submitted.
    fn bring(&mut self) -> Result<(), BackendError> {
        for (to, fetches) in self.bucket.uploads.iter_ids() {
            let brought = self.flight.lanes[to].uploaded.len();
            for fetch in &fetches[brought..] {
                let after = match fetch.after.map(|split| self.flight.splits.get(SplitId::index(split))) {
                    Some(None) => break,
                    Some(Some(&event)) => Some(event),
                    None => None,
                };
                let way = Way { from: (fetch.from, fetch.src), to: (to, fetch.dst), queue: Queue::Upload };
                let (carried, done) = carry(self.devices, &mut self.flight.staging, way, None, after);
                self.flight.lanes[to].uploaded.extend(done);
                carried?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, stage: &Stage) -> Result<(), BackendError> {
        let Flight { lanes, waits, splits, .. } = &mut *self.flight;
        let lane = &mut lanes[stage.device];
        waits.clear();
        waits.extend(lane.arrived);
        // A queue works in order: its last upload's end is the end of all.
        waits.extend(lane.uploaded[..stage.uploads.end].last());
        let done = self.devices.all[stage.device].backend.submit(stage.program, &self.args, waits)?;
        (lane.last, lane.arrived) = (Some(done), None);
        splits.push(done);
        Ok(())
    }

    /// Copies a value that was made to where it is read.
    fn send(&mut self, send: &Send) -> Result<(), BackendError> {
        let from = send.from;
        let rows = match send.dim {
            RowDim::Tokens => self.args.tokens,
            RowDim::Outputs => self.args.outputs,
        };
        let (src, dst) = send.spans(rows);
        let (src, dst) = (self.devices.in_arena(from, src), self.devices.in_arena(send.to, dst));
        let way = Way { from: (from, src), to: (send.to, dst), queue: Queue::Peer };
        let Flight { lanes, staging, .. } = &mut *self.flight;
        let (carried, done) = carry(self.devices, staging, way, lanes[from].last, lanes[send.to].last);
        lanes[send.to].arrived = done.or(lanes[send.to].arrived);
        carried
    }

    /// Waits for all that was submitted.
    fn end(&mut self) -> Result<(), BackendError> {
        let mut ended = Ok(());
        for (device, lane) in self.flight.lanes.iter_ids() {
            for &event in [lane.last.as_ref(), lane.arrived.as_ref(), lane.uploaded.last()].into_iter().flatten() {
                ended = ended.and(self.devices.all[device].backend.wait(event));
            }
        }
        ended
    }
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
        let piece = |whole: BufferSpan| {
            let span = Span { offset: whole.span.offset + at, len };
            BufferSpan { span, ..whole }
        };
        let bytes = &mut staging[..len.index()];
        let read = devices.all[from].backend.read(way.queue, piece(src), bytes, made.as_slice());
        match read.and_then(|_| devices.all[to].backend.write(way.queue, piece(dst), bytes, free.as_slice())) {
            Ok(written) => done = Some(written),
            Err(why) => return (Err(why), done),
        }
        at += len;
    }
    (Ok(()), done)
}
