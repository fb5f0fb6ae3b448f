//! Many requests → steps in which each running one has a part (continuous batching, Yu et al. 2022, Orca).
//!
//! A request runs once the pages that it may come to need are set aside, so none ends for want of room; until then it
//! waits, and those behind it. One that drops a part of a full context needs copies of pages that others read too: it
//! waits for them, and ends if all that run do. At temperature 0 a request's tokens do not depend on what runs beside it,
//! where placement does not depend on the batch. What goes wrong with one request ends that one.

mod serve;

use std::collections::VecDeque;
use std::time::Instant;

use super::request::Running;
use super::share::Part;
use super::tidy::Tidy;
use super::{Compacted, Engine, EngineError, Finish, Generated, Request};
use crate::define_id;
use crate::exec::ExecError;
use crate::kv::{Budget, Depth, Price};
use crate::sample::Sampler;
use crate::text::TokenId;
use crate::units::Tokens;

define_id! {
    /// A request of a queue.
    pub RequestId("r"),
}

/// What a queue takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most sequences that run at a time; at least one.
    pub sequences: usize,
    /// Most tokens of one sequence, prompt and text; at most the cache's.
    pub length: Tokens,
}

/// A request that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The request.
    pub id: RequestId,
    /// What it generated; else why it could not go on.
    pub outcome: Result<Generated, EngineError>,
    /// Its sampler, as it was left.
    pub sampler: Sampler,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Rows that were evaluated.
    pub rows: usize,
    /// Sequences that had some; of these, those whose prompt was evaluated.
    pub sequences: usize,
    /// See above.
    pub prompts: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages that sequences hold.
    pub pages: u32,
    /// What speaks for a compaction and what against it, where that was weighed.
    pub price: Option<Price>,
    /// What compactions between the steps until now have moved.
    pub moved: Compacted,
}

/// Requests that wait and requests that run, on one engine.
pub struct Queue<'e> {
    engine: &'e mut Engine,
    limits: QueueLimits,
    next: RequestId,
    waiting: VecDeque<(RequestId, Request, Instant)>,
    running: Vec<Running>,
    finished: VecDeque<Finished>,
    /// What a step takes of each running request, and a row of logits.
    parts: Vec<Part>,
    ids: Vec<u32>,
    logits: Vec<f32>,
    tidy: Tidy,
    report: StepReport,
    /// The first that waits, if it has no room before another one ends or a prompt is read.
    blocked: Option<RequestId>,
}

impl<'e> Queue<'e> {
    /// An empty queue.
    ///
    /// # Errors
    /// The model has no tokenizer.
    pub fn new(engine: &'e mut Engine, limits: QueueLimits) -> Result<Queue<'e>, EngineError> {
        engine.needed_tokenizer()?;
        let length = Tokens(limits.length.0.min(engine.context().0));
        let limits = QueueLimits { sequences: limits.sequences.max(1), length };
        let logits = vec![0.0; engine.logits_width()];
        let (running, parts) = (Vec::with_capacity(limits.sequences), Vec::with_capacity(limits.sequences));
        let (tidy, report) = (Tidy::default(), StepReport::default());
        let (waiting, finished, ids) = (VecDeque::new(), VecDeque::new(), Vec::new());
        Ok(Queue {
            engine,
            limits,
            next: RequestId(0),
            waiting,
            running,
            finished,
            parts,
            ids,
            logits,
            tidy,
            report,
            blocked: None,
        })
    }

    /// Adds a request behind those that wait.
    ///
    /// # Errors
    /// The prompt is empty or has a token that is none; prompt and text are longer than a sequence may be; or its sequence
    /// does not exist.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        let held = self.held(&request)?;
        let prompt = held.index() + request.prompt.len();
        let needed = request.needs(held).filter(|_| request.shift.is_none()).unwrap_or(prompt);
        self.fits(needed)?;
        self.take_on(request)
    }

    /// As [`Queue::submit`], but a text that is longer than a sequence may be ends early.
    pub(super) fn take_on(&mut self, mut request: Request) -> Result<RequestId, EngineError> {
        let held = self.held(&request)?;
        let needed = held.index() + request.prompt.len();
        if request.prompt.is_empty() {
            return Err(EngineError::Empty);
        }
        self.fits(needed)?;
        let vocab = self.engine.session.vocab();
        if let Some(id) = request.prompt.iter().map(|token| token.0).find(|&id| id >= vocab) {
            return Err(ExecError::TokenId { id, vocab }.into());
        }
        // What is generated is not worth more than what was asked.
        request.shift = request.shift.map(|keep| keep.min(Tokens(needed as u32)));
        let id = self.new_id();
        self.waiting.push_back((id, request, Instant::now()));
        Ok(id)
    }

    /// Checks that a sequence may have `needed` tokens.
    fn fits(&self, needed: usize) -> Result<(), EngineError> {
        let context = self.limits.length;
        if needed > context.index() { Err(EngineError::Context { needed, context: context.0 }) } else { Ok(()) }
    }

    fn new_id(&mut self) -> RequestId {
        let id = self.next;
        self.next.0 += 1;
        id
    }

    /// As [`Engine::compact`], between steps.
    ///
    /// # Errors
    /// A device failed.
    pub fn compact(&mut self, depth: Depth, budget: Budget) -> Result<Compacted, EngineError> {
        self.blocked = None;
        self.engine.compact(depth, budget)
    }

    /// Requests that wait, and that run.
    pub fn load(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// What a request that runs has generated so far.
    pub fn generated(&self, id: RequestId) -> Option<&[TokenId]> {
        self.running.iter().find(|running| running.id == id).map(Running::text)
    }

    /// What the last step did.
    pub fn report(&self) -> StepReport {
        self.report
    }

    /// A request that has ended, the first first.
    pub fn finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Ends a request at once and frees its pages; false if it has ended before.
    ///
    /// # Errors
    /// Its sequence has ended in the meantime.
    pub fn cancel(&mut self, id: RequestId) -> Result<bool, EngineError> {
        if let Some(at) = self.running.iter().position(|running| running.id == id) {
            self.end(at, Ok(Finish::Stopped))?;
            return Ok(true);
        }
        let Some(at) = self.waiting.iter().position(|(other, ..)| *other == id) else { return Ok(false) };
        let asked = self.waiting.remove(at);
        self.finished.extend(asked.map(|(id, request, since)| Finished {
            id,
            outcome: Ok(Generated::nothing(since.elapsed())),
            sampler: request.sampler,
        }));
        Ok(true)
    }

    /// A request that goes on from where another one is, with a sampler of its own: what is read so far is shared.
    ///
    /// # Errors
    /// The request does not run, as many run as may, or too few pages are free. Nothing has changed.
    pub fn fork(&mut self, id: RequestId, sampler: Sampler) -> Result<RequestId, EngineError> {
        let (most, found) = (self.limits.sequences, self.running.len());
        let at = self.running.iter().position(|running| running.id == id).ok_or(EngineError::NoRequest(id))?;
        let running = &self.running[at];
        if found >= most {
            return Err(EngineError::Step { what: "sequences", most: most as u32, found: found + 1 });
        }
        let sequence = running.sequence;
        self.certain()?;
        let sequence = self.engine.fork(sequence)?;
        if let Err(full) = self.engine.kv.reserve(sequence, self.running[at].left()) {
            self.engine.end(sequence)?;
            return Err(full.into());
        }
        let id = self.new_id();
        let fork = self.running[at].fork(id, sequence, sampler);
        self.running.push(fork);
        Ok(id)
    }

    /// Tokens that the sequence of a request has already.
    fn held(&self, request: &Request) -> Result<Tokens, EngineError> {
        request.sequence.map_or(Ok(Tokens(0)), |sequence| self.engine.length(sequence))
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        // Where that fails, sequences that stay are as before their prompts.
        let _ = self.engine.certain();
        for running in self.running.drain(..) {
            // A sequence that is gone holds nothing.
            let _ = match running.own {
                true => self.engine.kv.end(running.sequence),
                false => self.engine.kv.reserve(running.sequence, Tokens(0)),
            };
        }
    }
}
