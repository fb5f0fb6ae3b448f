//! A prompt and a sampler → text as it comes, until the model ends, the caller stops it, or the context is full.

use std::time::{Duration, Instant};

use super::{Engine, EngineError};
use crate::kv::SequenceId;
use crate::sample::Sampler;
use crate::text::{TokenId, Tokenizer, Utf8Stream};

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
    /// Time until the first token was chosen; without one, until the prompt was evaluated or stopped.
    pub first_token: Duration,
    /// Time from the first token to the last.
    pub rest: Duration,
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
}

impl Engine {
    /// Evaluates the prompt and generates. `text` gets whole characters as they come, and an empty text between steps of
    /// the prompt; it says whether to go on. What was evaluated until then stays in the sequence.
    ///
    /// # Errors
    /// The file has no tokenizer, the prompt is empty or does not fit, or a step failed; a failure in the prompt leaves
    /// the sequence as it was.
    pub fn generate(
        &mut self,
        request: Generate<'_>,
        mut text: impl FnMut(&str) -> bool,
    ) -> Result<Generated, EngineError> {
        let Generate { sequence, prompt, most, sampler, ignore_end } = request;
        self.needed_tokenizer()?;
        let start = Instant::now();
        let mut ids: Vec<u32> = prompt.iter().map(|t| t.0).collect();
        let mut history: Vec<TokenId> = prompt.to_vec();
        let held = self.length(sequence)?;
        let logits = self.feed_while(sequence, &ids, || text(""))?.map(<[f32]>::to_vec);
        let mut generated = Generated {
            tokens: Vec::new(),
            finish: Finish::Length,
            prompt_tokens: self.length(sequence)?.index() - held.index(),
            first_token: start.elapsed(),
            rest: Duration::ZERO,
        };
        let Some(mut logits) = logits else {
            return Ok(Generated { finish: Finish::Stopped, ..generated });
        };
        let mut stream = Utf8Stream::new();
        while most.is_none_or(|most| generated.tokens.len() < most) {
            let token = sampler.sample(&mut logits, &history)?;
            if generated.tokens.is_empty() {
                generated.first_token = start.elapsed();
            }
            let tokenizer = self.needed_tokenizer()?;
            if tokenizer.is_end_of_generation(token) && !ignore_end {
                generated.finish = Finish::EndOfGeneration;
                break;
            }
            let shown = if tokenizer.is_control(token) { &[] } else { tokenizer.piece(token) };
            generated.tokens.push(token);
            history.push(token);
            if !text(stream.push(shown)) {
                generated.finish = Finish::Stopped;
                break;
            }
            if self.length(sequence)? >= self.context() {
                generated.finish = Finish::ContextFull;
                break;
            }
            if most.is_some_and(|most| generated.tokens.len() >= most) {
                break;
            }
            ids.clear();
            ids.push(token.0);
            logits.copy_from_slice(self.feed(sequence, &ids)?);
        }
        text(stream.flush());
        generated.rest = start.elapsed().saturating_sub(generated.first_token);
        Ok(generated)
    }

    fn needed_tokenizer(&self) -> Result<&Tokenizer, EngineError> {
        self.tokenizer().map_err(|why| EngineError::NoTokenizer(why.to_string()))
    }
}
