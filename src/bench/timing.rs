//! llama-bench's two tests on an engine → nanoseconds of every repetition, after one warm-up that does not count.

use std::time::Instant;

use crate::engine::{Engine, EngineError};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A prompt of this many random tokens into an empty cache; only the last one's logits are wanted.
    Prompt(u32),
    /// This many steps of one token from an empty cache.
    Generate(u32),
}

impl Test {
    /// Tokens that pass through the model.
    pub fn tokens(self) -> u32 {
        match self {
            Test::Prompt(n) | Test::Generate(n) => n,
        }
    }
}

/// The time of each repetition of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// The test.
    pub test: Test,
    /// Nanoseconds of each repetition.
    pub ns: Vec<u64>,
}

impl Samples {
    /// Tokens a second of each repetition.
    pub fn rates(&self) -> Vec<f64> {
        self.ns.iter().map(|&ns| f64::from(self.test.tokens()) * 1e9 / ns.max(1) as f64).collect()
    }

    /// Mean and standard deviation of the nanoseconds.
    pub fn mean_ns(&self) -> (f64, f64) {
        mean(&self.ns.iter().map(|&ns| ns as f64).collect::<Vec<_>>())
    }

    /// Mean and standard deviation of the rates.
    pub fn mean_rate(&self) -> (f64, f64) {
        mean(&self.rates())
    }
}

/// Times a test `repetitions` times; `vocab` bounds the random tokens.
///
/// # Errors
/// The engine cannot do it, mostly because the context is too short.
pub fn time(engine: &mut Engine, test: Test, vocab: u32, repetitions: u32) -> Result<Samples, EngineError> {
    let mut tokens = tokens(vocab);
    let mut once = |engine: &mut Engine, test: Test| -> Result<u64, EngineError> {
        let sequence = engine.start();
        let prompt: Vec<u32> = tokens.by_ref().take(test.tokens() as usize).collect();
        let start = Instant::now();
        match test {
            Test::Prompt(_) => drop(engine.feed(sequence, &prompt)?.len()),
            Test::Generate(_) => {
                for token in prompt.chunks(1) {
                    engine.feed(sequence, token)?;
                }
            }
        }
        let ns = start.elapsed().as_nanos() as u64;
        engine.end(sequence)?;
        Ok(ns)
    };
    once(engine, warm_up(test))?;
    let ns = (0..repetitions).map(|_| once(engine, test)).collect::<Result<_, _>>()?;
    Ok(Samples { test, ns })
}

/// A whole prompt, because it prepares the buckets; one step is enough for steps that are all alike.
fn warm_up(test: Test) -> Test {
    match test {
        Test::Prompt(n) => Test::Prompt(n),
        Test::Generate(_) => Test::Generate(1),
    }
}

/// Pseudo-random token ids (a linear congruential generator, constants of Knuth's MMIX).
pub fn tokens(vocab: u32) -> impl Iterator<Item = u32> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(vocab.max(1))) as u32
    })
}

fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, if values.len() > 1 { (square / (n - 1.0)).sqrt() } else { 0.0 })
}
