//! One request while it runs: what its sequence is fed next, which token it chooses, and when it ends.

use std::time::{Duration, Instant};

use super::{Finish, Generated, RequestId};
use crate::kv::SequenceId;
use crate::sample::{SampleError, Sampler};
use crate::text::{TokenId, Tokenizer, Utf8Stream};
use crate::units::Tokens;

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// The sequence to continue, which stays when the request ends. None: one of its own, which ends with the request
    /// and shares what other sequences began with alike.
    pub sequence: Option<SequenceId>,
    /// Tokens to evaluate first; at least one.
    pub prompt: Vec<TokenId>,
    /// Most tokens to generate; none is a bound by the context alone.
    pub most: Option<usize>,
    /// Chooses tokens.
    pub sampler: Sampler,
    /// Whether tokens that end generation are generated over.
    pub ignore_end: bool,
    /// What a full context does: with a number of tokens, half of those behind them are dropped and the text goes on, see
    /// [`Engine::shift`](super::Engine::shift); else the request ends.
    pub shift: Option<Tokens>,
}

impl Request {
    /// Tokens that its sequence, now of `held`, comes to have at most: the last one that is generated is not fed.
    pub(super) fn needs(&self, held: Tokens) -> Option<usize> {
        self.most.map(|most| (held.index() + self.prompt.len()).saturating_add(most.saturating_sub(1)))
    }
}

/// A request whose sequence has the pages that it needs.
pub(super) struct Running {
    pub id: RequestId,
    pub sequence: SequenceId,
    /// Whether the sequence ends with the request.
    pub own: bool,
    pub sampler: Sampler,
    pub finish: Option<Result<Finish, SampleError>>,
    /// The prompt and what was generated.
    tokens: Vec<TokenId>,
    prompt: usize,
    most: Option<usize>,
    ignore_end: bool,
    /// Tokens that need not be evaluated, and those that are in the sequence.
    shared: usize,
    fed: usize,
    /// Of those, the ones that steps under way append.
    uncertain: usize,
    /// Most tokens of the request that are fed before something is dropped.
    room: usize,
    pub shift: Option<Tokens>,
    /// Tokens that were dropped, and for as many of which no pages are set aside yet.
    pub owed: Tokens,
    stream: Utf8Stream,
    since: Instant,
    first_token: Option<Duration>,
}

impl Running {
    /// A request whose sequence was found to have `shared` tokens of the prompt, and to take `room` of prompt and text.
    pub fn new(
        (id, request, since): (RequestId, Request, Instant),
        sequence: SequenceId,
        shared: usize,
        room: usize,
    ) -> Running {
        let Request { sequence: given, prompt: mut tokens, most, sampler, ignore_end, shift } = request;
        let prompt = tokens.len();
        // One more than is fed, so that none is allocated later unless something is dropped.
        tokens.reserve((room + 1).saturating_sub(prompt));
        Running {
            id,
            sequence,
            own: given.is_none(),
            sampler,
            finish: None,
            tokens,
            prompt,
            most,
            ignore_end,
            shared,
            fed: shared,
            uncertain: 0,
            room,
            shift,
            owed: Tokens(0),
            stream: Utf8Stream::new(),
            since,
            first_token: None,
        }
    }

    /// Tokens that are not in the sequence yet.
    pub fn pending(&self) -> &[TokenId] {
        &self.tokens[self.fed..]
    }

    /// What was generated so far.
    pub fn text(&self) -> &[TokenId] {
        &self.tokens[self.prompt..]
    }

    /// Whether the prompt is evaluated.
    pub fn decodes(&self) -> bool {
        self.fed >= self.prompt
    }

    /// Whether nothing more can be fed before something is dropped.
    pub fn is_full(&self) -> bool {
        self.fed >= self.room
    }

    /// Whether it is full, and may go on once there are pages for what it drops.
    pub fn is_waiting(&self) -> bool {
        self.is_full() && self.shift.is_some()
    }

    /// Notes that its sequence has dropped tokens: it takes as many more, once pages for them are set aside.
    pub fn make_room(&mut self, dropped: Tokens, is_there: bool) {
        (self.owed, self.room) = match is_there {
            true => (Tokens(0), self.room + dropped.index()),
            false => (dropped, self.room),
        };
    }

    /// The same with another sequence and sampler, from here on.
    pub fn fork(&self, id: RequestId, sequence: SequenceId, sampler: Sampler) -> Running {
        let mut tokens = Vec::with_capacity(self.tokens.capacity());
        tokens.extend_from_slice(&self.tokens);
        Running { id, sequence, own: true, sampler, tokens, finish: None, stream: self.stream.clone(), ..*self }
    }

    /// Tokens that may still be fed.
    pub fn left(&self) -> Tokens {
        Tokens(self.room.saturating_sub(self.fed) as u32)
    }

    /// Notes that as many of what it was fed last are not certain to be there.
    pub fn begun(&mut self, count: usize) {
        self.uncertain += count;
    }

    /// Notes that what it was fed is in the sequence.
    pub fn is_certain(&mut self) {
        self.uncertain = 0;
    }

    /// Notes that what steps under way were to append is not in the sequence.
    pub fn is_undone(&mut self) {
        self.fed -= std::mem::take(&mut self.uncertain);
    }

    /// Notes that `count` more tokens are in the sequence; of the last, `logits` if it is the last there is. `text` gets
    /// what is complete of the text, nothing between steps of the prompt, and says whether to go on.
    pub fn fed(
        &mut self,
        count: usize,
        logits: Option<&mut [f32]>,
        tokenizer: &Tokenizer,
        text: &mut dyn FnMut(&str) -> bool,
    ) {
        self.fed += count;
        let finish = match logits {
            Some(_) if self.most == Some(0) => Ok(Some(Finish::Length)),
            Some(logits) => self.choose(logits, tokenizer, text),
            None => Ok((!text("")).then_some(Finish::Stopped)),
        };
        self.finish = finish.transpose();
        if self.finish.is_some() {
            self.flush(text);
        }
    }

    /// Gives what is left of the text.
    pub fn flush(&mut self, text: &mut dyn FnMut(&str) -> bool) {
        self.first_token.get_or_insert(self.since.elapsed());
        text(self.stream.flush());
    }

    fn choose(
        &mut self,
        logits: &mut [f32],
        tokenizer: &Tokenizer,
        text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Option<Finish>, SampleError> {
        let token = self.sampler.sample(logits, &self.tokens)?;
        self.first_token.get_or_insert(self.since.elapsed());
        if tokenizer.is_end_of_generation(token) && !self.ignore_end {
            return Ok(Some(Finish::EndOfGeneration));
        }
        self.tokens.push(token);
        let shown = if tokenizer.is_control(token) { &[] } else { tokenizer.piece(token) };
        Ok(if !text(self.stream.push(shown)) {
            Some(Finish::Stopped)
        } else if self.most.is_some_and(|most| self.tokens.len() - self.prompt >= most) {
            Some(Finish::Length)
        } else {
            (self.is_full() && self.shift.is_none()).then_some(Finish::ContextFull)
        })
    }

    /// What was generated until now, which ended for the reason given.
    pub fn generated(&self, finish: Finish) -> Generated {
        let first_token = self.first_token.unwrap_or_else(|| self.since.elapsed());
        Generated {
            tokens: self.text().to_vec(),
            finish,
            prompt_tokens: self.fed.min(self.prompt) - self.shared,
            shared_tokens: self.shared,
            first_token,
            rest: self.since.elapsed().saturating_sub(first_token),
        }
    }
}
