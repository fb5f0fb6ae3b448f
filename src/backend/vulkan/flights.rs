//! What was handed to a device's queue: events in order, the submissions they ended with, and the way back to the host.
//! One queue does everything in order, so an event that has a submission is done when that one is.

use std::collections::VecDeque;

use wgpu::wgt::PollType;

use super::gpu::Gpu;
use super::program::{Dispatch, portion};
use crate::backend::Event;
use crate::units::Tokens;

/// Bytes written that are handed over without waiting for a split.
const LOOSE: u64 = 32 << 20;

/// Submissions that are remembered; older ones are waited for.
const MOST: usize = 256;

/// Bytes that are read at a time.
pub const PIECE: u64 = 4 << 20;

/// The queue's books.
#[derive(Default)]
pub struct Flights {
    /// The last event.
    last: u64,
    /// Submissions with the last event that each ends, in order.
    submitted: VecDeque<(u64, wgpu::SubmissionIndex)>,
    /// Bytes written since the last submission, and whether there are any events since.
    loose: u64,
    open: bool,
    staging: Option<wgpu::Buffer>,
}

impl Flights {
    /// The last event there was.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Hands work over; everything written before is done before it.
    pub fn submit(&mut self, gpu: &Gpu, work: Option<wgpu::CommandBuffer>) -> Result<Event, String> {
        let submission = gpu.queue.submit(work);
        // What failed ends no event: what was written goes with the next.
        gpu.polled(PollType::Poll)?;
        self.last += 1;
        (self.loose, self.open) = (0, false);
        self.submitted.push_back((self.last, submission));
        if self.submitted.len() > MOST
            && let Some((_, oldest)) = self.submitted.pop_front()
        {
            gpu.wait(oldest)?;
        }
        Ok(Event(self.last))
    }

    /// Hands dispatches over in portions that drivers accept; the event is that of the last.
    pub fn hand_over(
        &mut self,
        gpu: &Gpu,
        dispatches: &[Dispatch],
        arguments: Option<&wgpu::BindGroup>,
        rows: (Tokens, Tokens),
    ) -> Result<Event, String> {
        let mut left = dispatches;
        loop {
            let (now, later) = portion(left, gpu.caps.work, rows);
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            if let Some(arguments) = arguments {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                now.iter().for_each(|dispatch| dispatch.record(&mut pass, arguments, rows));
            }
            let work = encoder.finish();
            if later.is_empty() {
                return self.submit(gpu, Some(work));
            }
            gpu.queue.submit([work]);
            gpu.sound()?;
            left = later;
        }
    }

    /// The event of bytes that were written; every so many are handed over, and those before waited for.
    pub fn wrote(&mut self, gpu: &Gpu, bytes: u64) -> Result<Event, String> {
        self.loose += bytes;
        if self.loose < LOOSE {
            gpu.polled(PollType::Poll)?;
            (self.last, self.open) = (self.last + 1, true);
            return Ok(Event(self.last));
        }
        let before = self.submitted.back().map(|(_, submission)| submission.clone());
        let event = self.submit(gpu, None)?;
        before.map_or(Ok(()), |before| gpu.wait(before))?;
        Ok(event)
    }

    /// What to wait for until `event` is done: nothing where it was.
    pub fn until(&mut self, gpu: &Gpu, event: Event) -> Result<Option<wgpu::SubmissionIndex>, String> {
        if self.open && self.submitted.back().is_none_or(|(last, _)| *last < event.0) {
            self.submit(gpu, None)?;
        }
        while self.submitted.front().is_some_and(|(last, _)| *last < event.0) {
            self.submitted.pop_front();
        }
        Ok(self.submitted.front().map(|(_, submission)| submission.clone()))
    }

    /// At most [`PIECE`] bytes of a buffer, from a multiple of four on, into `dst`, when all before is done.
    pub fn fetch(&mut self, gpu: &Gpu, (src, at): (&wgpu::Buffer, u64), dst: &mut [u8]) -> Result<(), String> {
        let (first, skip) = (at / 4 * 4, (at % 4) as usize);
        let bytes = (skip as u64 + dst.len() as u64).next_multiple_of(4);
        // What fails may leave it mapped, so it is kept only by what succeeds.
        let staging = self.staging.take().map_or_else(|| staging(gpu), Ok)?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(src, first, &staging, 0, bytes);
        let event = self.submit(gpu, Some(encoder.finish()))?;
        staging.map_async(wgpu::MapMode::Read, 0..bytes, |_| {});
        let submission = self.until(gpu, event)?;
        submission.map_or(Ok(()), |submission| gpu.wait(submission))?;
        {
            let view = staging.get_mapped_range(0..bytes).map_err(|e| e.to_string())?;
            dst.copy_from_slice(&view[skip..skip + dst.len()]);
        }
        staging.unmap();
        self.staging = Some(staging);
        Ok(())
    }
}

/// What bytes come back through.
fn staging(gpu: &Gpu) -> Result<wgpu::Buffer, String> {
    gpu.guarded(|| {
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: PIECE + 16,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    })
}
