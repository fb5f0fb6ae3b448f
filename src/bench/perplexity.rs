//! A text's tokens and an engine → perplexity as llama.cpp's tool measures it: chunks of the context's length, the
//! second half of each scored, bos put over the first token of each chunk where the vocabulary asks for it.

use thiserror::Error;

use crate::engine::{Engine, EngineError};
use crate::kv::SequenceId;

/// Why there is no perplexity.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum PerplexityError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(
        "the text has {found} tokens, needed {needed}: twice the context of {context}; give more text or a smaller -c"
    )]
    Short { found: usize, needed: usize, context: usize },
    #[error("a context of {0} leaves nothing to score, needed at least 4")]
    Context(usize),
}

/// One scored token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// `-ln` of the probability of the token that came.
    pub nll: f64,
    /// The greatest logit.
    pub max: f32,
    /// `ln` of the sum of `exp(logit - max)`.
    pub log_sum: f64,
    /// The most probable token, the lowest id among equals.
    pub top: usize,
}

/// Scores the token that came after a row of logits.
pub fn score(logits: &[f32], came: u32) -> Scored {
    let (mut top, mut max) = (0, f32::NEG_INFINITY);
    for (i, &logit) in logits.iter().enumerate() {
        if logit > max {
            (top, max) = (i, logit);
        }
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    let log_sum = sum.ln();
    let logit = logits.get(came as usize).copied().unwrap_or(f32::NEG_INFINITY);
    Scored { nll: f64::from(max) + log_sum - f64::from(logit), max, log_sum, top }
}

/// Sums of negative log-likelihoods.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Perplexity {
    /// Adds a token.
    pub fn add(&mut self, scored: &Scored) {
        self.sum += scored.nll;
        self.squares += scored.nll * scored.nll;
        self.count += 1;
    }

    /// Tokens so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Perplexity and its standard error; NaN without tokens.
    pub fn value(&self) -> (f64, f64) {
        let n = self.count as f64;
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let perplexity = mean.exp();
        let error = if self.count > 1 { perplexity * (variance / (n - 1.0)).sqrt() } else { 0.0 };
        (perplexity, error)
    }
}

/// Evaluates chunks of `context` tokens. `row` gets the chunk's number, the row's number among the chunk's scored ones,
/// the logits, and the token that came; `chunk_done` the number of chunks done.
///
/// # Errors
/// The engine failed, or the context is too short to score anything.
pub fn evaluate(
    engine: &mut Engine,
    tokens: &[u32],
    context: usize,
    bos: Option<u32>,
    mut row: impl FnMut(usize, usize, &[f32], u32),
    mut chunk_done: impl FnMut(usize),
) -> Result<(), PerplexityError> {
    if context < 4 {
        return Err(PerplexityError::Context(context));
    }
    let first = context / 2;
    for (number, chunk) in tokens.chunks_exact(context).enumerate() {
        let mut fed = chunk.to_vec();
        if let Some(bos) = bos {
            fed[0] = bos;
        }
        let sequence: SequenceId = engine.start();
        engine.feed(sequence, &fed[..first])?;
        let width = engine.logits_width();
        engine.feed_all(sequence, &fed[first..context - 1], |start, rows| {
            for (i, logits) in rows.chunks_exact(width).enumerate() {
                row(number, start + i, logits, chunk[first + start + i + 1]);
            }
        })?;
        engine.end(sequence)?;
        chunk_done(number + 1);
    }
    Ok(())
}
