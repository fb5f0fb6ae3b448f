//! One step of a queue: who is let in, what drops a part of its context, what runs, and who has ended.

use super::{Finished, Queue, RequestId, StepReport};
use crate::engine::request::Running;
use crate::engine::share::share;
use crate::engine::step::Reach;
use crate::engine::{Engine, EngineError, Finish, Piece, Request, Wanted};
use crate::kv::{KvError, PagedKv, SequenceId};
use crate::units::Tokens;

impl Queue<'_> {
    /// Takes in what has room and runs one step; whether there is more to do. `text` gets a request's text as it comes,
    /// an empty one between steps of its prompt, and says whether to go on with it.
    ///
    /// # Errors
    /// A device failed: nothing of the step has happened, it may be tried again; or cells were being moved behind it, and
    /// the requests that run end with the next step.
    pub fn step(&mut self, text: &mut dyn FnMut(RequestId, &str) -> bool) -> Result<bool, EngineError> {
        self.drop_lost()?;
        if self.running.iter().any(Running::is_waiting) {
            self.certain()?;
        }
        self.shift(text)?;
        self.admit()?;
        loop {
            if self.running.is_empty() {
                return Ok(!self.waiting.is_empty());
            }
            share(&self.running, self.engine.session.limits(), &mut self.parts);
            if self.parts.iter().all(|part| part.tokens == 0) {
                // All are full, and what they dropped is held by others: the first gives way.
                self.end_full(0, text)?;
            } else if self.put_together()? {
                break;
            }
        }
        // While one device has work of a prompt's step, another has work of the one before.
        let begin = self.engine.may_begin() && self.parts.iter().all(|part| !part.last);
        let how = if begin { Reach::Begin } else { Reach::ToItsEnd };
        let run = self.engine.run_step(how);
        let run = self.ended(run, how);
        if run.is_err() {
            self.drop_lost()?;
        }
        match run {
            // The others go on with the next step.
            Err(EngineError::Lost(_)) => return Ok(!(self.running.is_empty() && self.waiting.is_empty())),
            run => run?,
        }
        self.note();
        if self.report.prompts > 0 {
            // What was read can be shared now.
            self.blocked = None;
        }
        self.advance(how, text)?;
        // Some that had no part may be lost.
        self.drop_lost()?;
        let steps = self.running.iter().map(Running::left).max().unwrap_or_default();
        self.tidy.step(self.engine, steps)?;
        Ok(!(self.running.is_empty() && self.waiting.is_empty()))
    }

    /// Puts the step together; false: a request could not have its part, and has ended.
    fn put_together(&mut self) -> Result<bool, EngineError> {
        self.engine.begin_step();
        for at in 0..self.running.len() {
            let (running, part) = (&self.running[at], self.parts[at]);
            if part.tokens == 0 {
                continue;
            }
            self.ids.clear();
            self.ids.extend(running.pending()[..part.tokens].iter().map(|token| token.0));
            let wanted = if part.last { Wanted::Last } else { Wanted::None };
            if let Err(why) = self.engine.add(Piece { sequence: running.sequence, ids: &self.ids, wanted }) {
                self.end(at, Err(why))?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for the steps under way.
    pub(super) fn certain(&mut self) -> Result<(), EngineError> {
        let certain = self.engine.certain();
        self.ended(certain, Reach::ToItsEnd)
    }

    /// Tells the requests whether what they were fed is certain, or that it is not there.
    fn ended(&mut self, run: Result<(), EngineError>, how: Reach) -> Result<(), EngineError> {
        match (&run, how) {
            (Ok(()), Reach::Begin) => {}
            (Ok(()), Reach::ToItsEnd) => self.running.iter_mut().for_each(Running::is_certain),
            (Err(_), _) => self.running.iter_mut().for_each(Running::is_undone),
        }
        run
    }

    /// Ends the requests whose sequences were lost when a device failed.
    fn drop_lost(&mut self) -> Result<(), EngineError> {
        for at in (0..self.running.len()).rev() {
            let sequence = self.running[at].sequence;
            if self.engine.length(sequence).is_err() {
                self.end(at, Err(EngineError::Lost(sequence)))?;
            }
        }
        Ok(())
    }

    fn note(&mut self) {
        let parts = || self.running.iter().zip(&self.parts).filter(|(_, part)| part.tokens > 0);
        self.report = StepReport {
            rows: parts().map(|(_, part)| part.tokens).sum(),
            sequences: parts().count(),
            prompts: parts().filter(|(running, _)| !running.decodes()).count(),
            waiting: self.waiting.len(),
            pages: self.engine.kv.classes().iter().map(PagedKv::used).sum(),
            price: self.tidy.price,
            moved: self.tidy.moved(self.engine),
        };
    }

    /// Lets in the first that wait, as long as there is room for them and nobody who runs waits for pages.
    fn admit(&mut self) -> Result<(), EngineError> {
        while self.running.len() < self.limits.sequences && !self.running.iter().any(Running::is_waiting) {
            let Some(asked) = self.waiting.pop_front() else { break };
            let busy = |running: &Running| Some(running.sequence) == asked.1.sequence;
            if self.blocked == Some(asked.0) || self.running.iter().any(busy) {
                self.waiting.push_front(asked);
                break;
            }
            match self.place(&asked.1) {
                Ok((sequence, shared, room)) => self.running.push(Running::new(asked, sequence, shared, room)),
                Err(EngineError::Kv(KvError::Full { .. })) if !self.running.is_empty() => {
                    self.blocked = Some(asked.0);
                    self.waiting.push_front(asked);
                    break;
                }
                Err(why) => {
                    let (id, Request { sampler, .. }, _) = asked;
                    self.finished.push_back(Finished { id, outcome: Err(why), sampler });
                }
            }
        }
        Ok(())
    }

    /// A sequence for a request with its pages set aside, the tokens of the prompt that it has, and how many of prompt
    /// and text it takes.
    fn place(&mut self, request: &Request) -> Result<(SequenceId, usize, usize), EngineError> {
        let held = self.held(request)?;
        let most = self.limits.length.index();
        let length = request.needs(held).unwrap_or(most).min(most);
        self.fits(held.index() + request.prompt.len())?;
        let Some(sequence) = request.sequence else {
            let ids: Vec<u32> = request.prompt.iter().map(|token| token.0).collect();
            let (sequence, shared) = self.engine.kv.admit(&ids[..ids.len() - 1], Tokens(length as u32))?;
            return Ok((sequence, shared.index(), length));
        };
        let room = length - held.index();
        // Without a bound of its own it may have what is left.
        let room = match request.most {
            None => room.min(self.engine.kv.room(sequence)?.index()).max(request.prompt.len()),
            Some(_) => room,
        };
        self.engine.kv.reserve(sequence, Tokens(room as u32))?;
        Ok((sequence, 0, room))
    }

    /// Has full sequences drop what they may; those that never can end.
    fn shift(&mut self, text: &mut dyn FnMut(RequestId, &str) -> bool) -> Result<(), EngineError> {
        for at in (0..self.running.len()).rev() {
            let Running { sequence, owed, .. } = self.running[at];
            let Some(keep) = self.running[at].shift.filter(|_| self.running[at].is_full()) else { continue };
            let shifted = match owed {
                Tokens(0) => self.engine.shift(sequence, keep).map(|shifted| shifted.dropped),
                owed => Ok(owed),
            };
            match shifted {
                Ok(dropped) => {
                    let there = self.engine.kv.reserve(sequence, dropped).is_ok();
                    self.running[at].make_room(dropped, there);
                }
                // Others may give back pages.
                Err(EngineError::Kv(KvError::Full { .. })) => {}
                Err(EngineError::Context { .. } | EngineError::Holes(_)) => self.end_full(at, text)?,
                Err(why) => self.end(at, Err(why))?,
            }
        }
        Ok(())
    }

    /// Tells the requests what the step made of their parts, and ends those that are done.
    fn advance(&mut self, how: Reach, text: &mut dyn FnMut(RequestId, &str) -> bool) -> Result<(), EngineError> {
        let (mut all, width) = (true, self.logits.len());
        let Engine { session, tokenizer: Ok(tokenizer), .. } = &*self.engine else { return Ok(()) };
        let mut rows = session.logits().chunks_exact(width.max(1));
        for (running, part) in self.running.iter_mut().zip(&self.parts) {
            all &= part.tokens > 0;
            if part.tokens == 0 {
                continue;
            }
            let row = if part.last { rows.next() } else { None };
            let logits = row.map(|row| {
                self.logits.copy_from_slice(row);
                &mut self.logits[..]
            });
            let id = running.id;
            running.fed(part.tokens, logits, tokenizer, &mut |piece| text(id, piece));
            running.begun(if how == Reach::Begin { part.tokens } else { 0 });
        }
        let first = self.running.first().map(|running| running.id);
        for at in (0..self.running.len()).rev() {
            if let Some(finish) = self.running[at].finish.take() {
                self.end(at, finish.map_err(EngineError::from))?;
            }
        }
        // Who was left out comes first some time.
        if !all && first.is_some() && self.running.first().map(|running| running.id) == first {
            self.running.rotate_left(1);
        }
        Ok(())
    }

    /// Ends a request whose context is full.
    fn end_full(&mut self, at: usize, text: &mut dyn FnMut(RequestId, &str) -> bool) -> Result<(), EngineError> {
        let id = self.running[at].id;
        self.running[at].flush(&mut |piece| text(id, piece));
        self.end(at, Ok(Finish::ContextFull))
    }

    /// Ends a running request and gives back its pages.
    pub(super) fn end(&mut self, at: usize, finish: Result<Finish, EngineError>) -> Result<(), EngineError> {
        // Its sequence, or the number of it, is taken up by others.
        let certain = self.certain();
        let finish = finish.and_then(|finish| certain.map(|()| finish));
        let running = self.running.remove(at);
        let outcome = finish.map(|finish| running.generated(finish));
        let (id, sequence) = (running.id, running.sequence);
        self.finished.push_back(Finished { id, outcome, sampler: running.sampler });
        self.blocked = None;
        match running.own {
            _ if self.engine.length(sequence).is_err() => Ok(()),
            true => self.engine.end(sequence),
            false => Ok(self.engine.kv.reserve(sequence, Tokens(0))?),
        }
    }
}
