//! A prompt and a sampler → text as it comes, until the model ends, the caller stops it, or the context is full.

use std::time::Duration;

use super::{Engine, EngineError, Queue, QueueLimits, Request};
use crate::kv::SequenceId;
use crate::sample::Sampler;
use crate::text::{TokenId, Tokenizer};
use crate::units::Tokens;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    EndOfGeneration,
    /// As many tokens as were asked for.
    Length,
    /// The cache has no cell left.
    ContextFull,
    /// The caller asked for it.
    Stopped,
}

/// What was generated, and how fast.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The tokens, without one that ends generation.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub finish: Finish,
    /// Prompt tokens evaluated; not all of them where the caller stopped it between steps of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens that the cache still had.
    pub shared_tokens: usize,
    /// Time until the first token was chosen; without one, until the prompt was evaluated or stopped.
    pub first_token: Duration,
    /// Time from the first token to the last.
    pub rest: Duration,
}

impl Generated {
    /// That of a request which was stopped before it ran.
    pub(super) fn nothing(waited: Duration) -> Generated {
        let (tokens, finish, rest) = (Vec::new(), Finish::Stopped, Duration::ZERO);
        Generated { tokens, finish, prompt_tokens: 0, shared_tokens: 0, first_token: waited, rest }
    }
}

/// One request.
pub struct Generate<'a> {
    /// The sequence to continue.
    pub sequence: SequenceId,
    /// Tokens to evaluate first; at least one.
    pub prompt: &'a [TokenId],
    /// Most tokens to generate; none is a bound by the context alone.
    pub most: Option<usize>,
    /// Chooses tokens.
    pub sampler: &'a mut Sampler,
    /// Whether tokens that end generation are generated over.
    pub ignore_end: bool,
    /// What a full context does, see [`Request::shift`].
    pub shift: Option<Tokens>,
}

impl Engine {
    /// Evaluates the prompt and generates. `text` gets whole characters as they come, and an empty text between steps of
    /// the prompt; it says whether to go on. What was evaluated until then stays in the sequence.
    ///
    /// # Errors
    /// The file has no tokenizer, the prompt is empty or does not fit, or a step failed; a failure in the prompt leaves
    /// the sequence as after one of [`Engine::feed`].
    pub fn generate(
        &mut self,
        request: Generate<'_>,
        mut text: impl FnMut(&str) -> bool,
    ) -> Result<Generated, EngineError> {
        let Generate { sequence, prompt, most, sampler, ignore_end, shift } = request;
        let mark = self.kv.mark(sequence)?;
        let limits = QueueLimits { sequences: 1, length: self.context() };
        let mut queue = Queue::new(self, limits)?;
        queue.take_on(Request {
            sequence: Some(sequence),
            prompt: prompt.to_vec(),
            most,
            sampler: sampler.clone(),
            ignore_end,
            shift,
        })?;
        let run = loop {
            match queue.step(&mut |_, piece| text(piece)) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(why) => break Err(why),
            }
        };
        let finished = queue.finished();
        drop(queue);
        let outcome = match (run, finished) {
            (Ok(()), Some(finished)) => {
                *sampler = finished.sampler;
                finished.outcome
            }
            (Ok(()), None) => Err(EngineError::Empty),
            (Err(why), _) => Err(why),
        };
        // Shorter than before: something was dropped, and the prompt was evaluated long ago.
        let held = self.kv.length(sequence).ok().and_then(|length| length.0.checked_sub(mark.count.0));
        if outcome.is_err() && held.is_some_and(|evaluated| (evaluated as usize) < prompt.len()) {
            self.bring_back(sequence, mark)?;
        }
        outcome
    }

    pub(super) fn needed_tokenizer(&self) -> Result<&Tokenizer, EngineError> {
        self.tokenizer().map_err(|why| EngineError::NoTokenizer(why.to_string()))
    }
}
