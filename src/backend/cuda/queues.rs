//! The three queues of a card as streams, events in them, and the pinned memory through which bytes come and go.
//!
//! An event's number says its queue. A queue keeps its last marks; who asks for an older event waits for the oldest that
//! is kept, which is after it. Bytes from the host are copied to pinned memory first, so that their owner may go on, and
//! the card copies them while others are written.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{Context, DeviceBytes, Mark, PinnedBytes, Refused, Stream};
use crate::backend::{Event, Queue};

/// Marks that a queue keeps.
const MARKS: usize = 64;

/// Bytes that are copied at a time, and how many such pieces a queue has.
const PIECE: usize = 1 << 20;
const PIECES: usize = 4;

/// Queues.
const QUEUES: u64 = 3;

/// All queues of one backend.
pub struct Queues {
    context: Arc<Context>,
    lines: [Line; QUEUES as usize],
    /// The last event.
    last: AtomicU64,
}

/// One queue.
struct Line {
    stream: Stream,
    /// Held by whoever begins work.
    pieces: Mutex<Pieces>,
    marks: Mutex<VecDeque<(u64, Arc<Mark>)>>,
}

/// Pinned memory, made when it is first needed.
#[derive(Default)]
struct Pieces {
    all: Vec<Piece>,
    next: usize,
}

struct Piece {
    bytes: PinnedBytes,
    /// Where the card has read or written it.
    done: Mark,
}

/// A range of a card's memory.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The memory.
    pub memory: &'a DeviceBytes,
    /// Its first byte.
    pub at: u64,
}

impl Queues {
    /// Three streams.
    ///
    /// # Errors
    /// The driver refuses, here and below; or what was begun failed.
    pub fn new(context: &Arc<Context>) -> Result<Queues, Refused> {
        let line = || {
            let stream = Stream::new(context)?;
            Ok(Line { stream, pieces: Mutex::default(), marks: Mutex::new(VecDeque::with_capacity(MARKS)) })
        };
        Ok(Queues { context: Arc::clone(context), lines: [line()?, line()?, line()?], last: AtomicU64::new(0) })
    }

    /// The last event there was.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    fn line(&self, queue: Queue) -> &Line {
        &self.lines[number_of(queue) as usize]
    }

    /// Makes what is begun later on `queue` wait for events of others.
    fn wait_for(&self, queue: Queue, events: &[Event]) -> Result<(), Refused> {
        for event in events.iter().filter(|event| event.0 % QUEUES != number_of(queue)) {
            if let Some(mark) = self.mark_of(*event) {
                self.line(queue).stream.wait(&mark)?;
            }
        }
        Ok(())
    }

    /// The mark at an event, or after it.
    fn mark_of(&self, event: Event) -> Option<Arc<Mark>> {
        let marks = locked(&self.lines[(event.0 % QUEUES) as usize].marks);
        marks.iter().find(|(number, _)| *number >= event.0).map(|(_, mark)| Arc::clone(mark))
    }

    /// The event of what was begun on a queue, by whoever has its pieces.
    fn event(&self, queue: Queue) -> Result<Event, Refused> {
        let line = self.line(queue);
        let mut marks = locked(&line.marks);
        let oldest = if marks.len() < MARKS { None } else { marks.pop_front() };
        // Who waits for the oldest holds on to it.
        let mark = match oldest {
            Some((_, mark)) if Arc::strong_count(&mark) == 1 => mark,
            Some(_) | None => Arc::new(Mark::new(&self.context)?),
        };
        line.stream.mark(&mark)?;
        let next = |last: u64| (last / QUEUES + 1) * QUEUES + number_of(queue);
        let before = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        let number = next(before.unwrap_or_else(|last| last));
        marks.push_back((number, mark));
        Ok(Event(number))
    }

    /// Begins work on a queue after `waits`.
    pub fn begin(
        &self,
        queue: Queue,
        waits: &[Event],
        work: impl FnOnce(&Stream) -> Result<(), Refused>,
    ) -> Result<Event, Refused> {
        let _own = locked(&self.line(queue).pieces);
        self.wait_for(queue, waits)?;
        work(&self.line(queue).stream)?;
        self.event(queue)
    }

    /// Begins to copy bytes to a card after `waits`, then begins `work`. The bytes may be used again on return.
    pub fn write(
        &self,
        queue: Queue,
        (src, dst): (&[u8], Place<'_>),
        waits: &[Event],
        work: impl FnOnce(&Stream) -> Result<(), Refused>,
    ) -> Result<Event, Refused> {
        let line = self.line(queue);
        let mut pieces = locked(&line.pieces);
        self.wait_for(queue, waits)?;
        for (bytes, first) in src.chunks(PIECE).zip((dst.at..).step_by(PIECE)) {
            let piece = pieces.next(&self.context)?;
            piece.done.reach()?;
            piece.bytes.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            line.stream.bring(&piece.bytes.bytes()[..bytes.len()], dst.memory, first)?;
            line.stream.mark(&piece.done)?;
        }
        work(&line.stream)?;
        self.event(queue)
    }

    /// Copies bytes from a card after `waits`, and returns when they are there.
    pub fn read(&self, queue: Queue, (src, dst): (Place<'_>, &mut [u8]), waits: &[Event]) -> Result<(), Refused> {
        let line = self.line(queue);
        let mut pieces = locked(&line.pieces);
        self.wait_for(queue, waits)?;
        for (bytes, first) in dst.chunks_mut(PIECE).zip((src.at..).step_by(PIECE)) {
            let piece = pieces.next(&self.context)?;
            piece.done.reach()?;
            line.stream.fetch(src.memory, first, &mut piece.bytes.bytes_mut()[..bytes.len()])?;
            line.stream.mark(&piece.done)?;
            piece.done.reach()?;
            bytes.copy_from_slice(&piece.bytes.bytes()[..bytes.len()]);
        }
        Ok(())
    }

    /// Returns when an event's work is done.
    pub fn reach(&self, event: Event) -> Result<(), Refused> {
        self.mark_of(event).map_or(Ok(()), |mark| mark.reach())
    }

    /// Returns when all work is done.
    pub fn finish(&self) -> Result<(), Refused> {
        self.lines.iter().try_for_each(|line| {
            // Nobody records on it meanwhile.
            let _own = locked(&line.pieces);
            line.stream.finish()
        })
    }
}

impl Pieces {
    /// The piece whose turn it is.
    fn next(&mut self, context: &Arc<Context>) -> Result<&mut Piece, Refused> {
        let at = self.next;
        if self.all.len() <= at {
            self.all.push(Piece { bytes: PinnedBytes::new(context, PIECE)?, done: Mark::new(context)? });
        }
        self.next = (at + 1) % PIECES;
        Ok(&mut self.all[at])
    }
}

fn number_of(queue: Queue) -> u64 {
    match queue {
        Queue::Compute => 0,
        Queue::Upload => 1,
        Queue::Peer => 2,
    }
}

/// What a mutex guards, also if somebody panicked with it.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
