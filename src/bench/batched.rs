//! The test of llama-batched-bench on an engine: several sequences, each with a prompt of its own, then steps in which
//! each has a token. One warm-up does not count.

use std::time::Instant;

use serde::Serialize;

use super::timing::tokens;
use crate::engine::{Engine, EngineError, Piece, Wanted};
use crate::kv::SequenceId;
use crate::units::Tokens;

/// How many sequences, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batched {
    /// Tokens of each prompt.
    pub prompt: u32,
    /// Tokens that each sequence goes on for.
    pub generate: u32,
    /// Sequences.
    pub sequences: u32,
}

impl Batched {
    /// Cells that the test takes, in whole pages a sequence; none if there are more than a cache can have.
    pub fn cells(self) -> Option<Tokens> {
        let each = self.prompt.checked_add(self.generate)?.checked_next_multiple_of(Tokens::PAGE.0)?;
        each.checked_mul(self.sequences).map(Tokens)
    }
}

/// One line of `llama-batched-bench --output-format jsonl`, with the seconds of every repetition.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields are the keys of llama-batched-bench; times are medians")]
pub struct BatchedRow {
    pub pp: u32,
    pub tg: u32,
    pub pl: u32,
    pub n_kv: u32,
    pub t_pp: f64,
    pub speed_pp: f64,
    pub t_tg: f64,
    pub speed_tg: f64,
    pub t: f64,
    pub speed: f64,
    pub samples_pp: Vec<f64>,
    pub samples_tg: Vec<f64>,
}

/// Times a test `repetitions` times; `vocab` bounds the random tokens.
///
/// # Errors
/// The engine cannot do it, mostly because the cache is too small.
pub fn time_batched(
    engine: &mut Engine,
    test: Batched,
    vocab: u32,
    repetitions: u32,
) -> Result<BatchedRow, EngineError> {
    once(engine, Batched { generate: test.generate.min(1), ..test }, vocab)?;
    let times = (0..repetitions).map(|_| once(engine, test, vocab)).collect::<Result<Vec<_>, _>>()?;
    let (samples_pp, samples_tg): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
    let (t_pp, t_tg) = (median(&samples_pp), median(&samples_tg));
    let Batched { prompt: pp, generate: tg, sequences: pl } = test;
    let rate = |tokens: u32, seconds: f64| if tokens == 0 { 0.0 } else { f64::from(tokens) / seconds.max(1e-9) };
    let (n_kv, t) = (pl * (pp + tg), t_pp + t_tg);
    let (speed_pp, speed_tg, speed) = (rate(pl * pp, t_pp), rate(pl * tg, t_tg), rate(n_kv, t));
    Ok(BatchedRow { pp, tg, pl, n_kv, t_pp, speed_pp, t_tg, speed_tg, t, speed, samples_pp, samples_tg })
}

/// Seconds for all prompts, and for all that follows.
fn once(engine: &mut Engine, test: Batched, vocab: u32) -> Result<(f64, f64), EngineError> {
    let sequences: Vec<SequenceId> = (0..test.sequences).map(|_| engine.start()).collect();
    let mut random = tokens(vocab);
    let prompts: Vec<Vec<u32>> =
        sequences.iter().map(|_| random.by_ref().take(test.prompt as usize).collect()).collect();
    let limits = engine.session().limits();
    let most = limits.tokens.index().min(limits.outputs.index());
    let start = Instant::now();
    fill(engine, &sequences, &prompts)?;
    let filled = Instant::now();
    for _ in 0..test.generate {
        let ids: Vec<u32> = random.by_ref().take(sequences.len()).collect();
        let pieces = sequences.iter().zip(ids.chunks(1));
        let pieces: Vec<Piece<'_>> =
            pieces.map(|(&sequence, ids)| Piece { sequence, ids, wanted: Wanted::Last }).collect();
        for pieces in pieces.chunks(most) {
            engine.step(pieces)?;
        }
    }
    let generated = filled.elapsed();
    sequences.into_iter().try_for_each(|sequence| engine.end(sequence))?;
    Ok(((filled - start).as_secs_f64(), generated.as_secs_f64()))
}

/// Evaluates all prompts, steps filled to the last token; logits of each one's last.
fn fill(engine: &mut Engine, sequences: &[SequenceId], prompts: &[Vec<u32>]) -> Result<(), EngineError> {
    let most = engine.session().limits().tokens.index();
    let (mut pieces, mut left) = (Vec::new(), most);
    for (&sequence, prompt) in sequences.iter().zip(prompts) {
        let mut rest = &prompt[..];
        while !rest.is_empty() {
            let (ids, behind) = rest.split_at(rest.len().min(left));
            let wanted = if behind.is_empty() { Wanted::Last } else { Wanted::None };
            pieces.push(Piece { sequence, ids, wanted });
            (rest, left) = (behind, left - ids.len());
            if left == 0 {
                engine.step(&pieces)?;
                pieces.clear();
                left = most;
            }
        }
    }
    if !pieces.is_empty() {
        engine.step(&pieces)?;
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2));
    (low.copied().unwrap_or_default() + high.copied().unwrap_or_default()) / 2.0
}
