//! The sampler chain: one row of logits → the next token.
//! Order: repetition penalty, top-k, top-p, min-p, temperature, draw (the default order of llama.cpp).
//! Deterministic: the same options, logits and history give the same tokens on every machine (exponentials are
//! `libm`'s, random numbers our own). Never reads a clock, and allocates nothing after the first row.

mod random;

use std::cmp::Ordering;

use crate::text::TokenId;

use random::SplitMix64;

/// What shapes the choice. `Default` gives the customary values with seed 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// Divides logits before the softmax; 0 always takes the best token, the lowest id among equals.
    pub temperature: f32,
    /// Keeps the `k` best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest best tokens whose probabilities sum to at least this (Holtzman et al. 2019); 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the best one (Nguyen et al. 2024); 0 keeps all.
    pub min_p: f32,
    /// Positive logits of recent tokens are divided by this, others multiplied (Keskar et al. 2019); 1 changes none.
    pub repeat_penalty: f32,
    /// How many of the latest tokens count as recent; 0 turns the penalty off.
    pub repeat_last_n: usize,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for SampleOptions {
    fn default() -> Self {
        SampleOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// An option outside its range.
    #[error("{name} is {found}, needed {needed}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its range.
        needed: &'static str,
        /// Its value.
        found: f32,
    },
    /// A logit that is no number or positive infinity: the model or its weights are broken.
    #[error("logit of token {token} is {found}, needed a finite number")]
    Logit {
        /// The token.
        token: TokenId,
        /// Its logit.
        found: f32,
    },
    /// No token left: an empty row, or one of negative infinities.
    #[error("none of {tokens} tokens has a finite logit")]
    Empty {
        /// The length of the row.
        tokens: usize,
    },
}

/// A sampler chain with its random state.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SampleOptions,
    random: SplitMix64,
    candidates: Vec<Candidate>,
    recent: Vec<TokenId>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    token: TokenId,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// # Errors
    /// An option outside its range.
    pub fn new(options: SampleOptions) -> Result<Sampler, SampleError> {
        let SampleOptions { temperature, top_p, min_p, repeat_penalty, top_k: _, repeat_last_n: _, seed } = options;
        let finite = 0.0..f32::INFINITY;
        require("temperature", "a finite number from 0", temperature, finite.contains(&temperature))?;
        require("top_p", "above 0 and up to 1", top_p, top_p > 0.0 && top_p <= 1.0)?;
        require("min_p", "from 0 to 1", min_p, (0.0..=1.0).contains(&min_p))?;
        let penalty = repeat_penalty > 0.0 && repeat_penalty.is_finite();
        require("repeat_penalty", "a finite number above 0", repeat_penalty, penalty)?;
        Ok(Sampler { options, random: SplitMix64::new(seed), candidates: Vec::new(), recent: Vec::new() })
    }

    /// The next token from `logits` `[n_vocab]`, which keep the penalty's changes; `recent` is the sequence so far,
    /// oldest first.
    ///
    /// # Errors
    /// A logit that is NaN or positive infinity; no token with a finite logit.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[TokenId]) -> Result<TokenId, SampleError> {
        let broken = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY);
        if let Some(i) = broken {
            return Err(SampleError::Logit { token: TokenId::from_row(i), found: logits[i] });
        }
        self.penalise(logits, recent);
        let best = best_of(logits).ok_or(SampleError::Empty { tokens: logits.len() })?;
        if self.options.temperature == 0.0 {
            return Ok(best.token);
        }
        self.gather(logits);
        self.keep_top_k();
        let total = self.total(best.logit);
        // Both keep the best few of the same distribution, so their order does not matter; min-p leaves less to sort.
        self.keep_min_p(best.logit);
        self.keep_top_p(best.logit, total);
        Ok(self.draw(best))
    }

    fn penalise(&mut self, logits: &mut [f32], recent: &[TokenId]) {
        let penalty = self.options.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let window = recent.len().saturating_sub(self.options.repeat_last_n);
        self.recent.clear();
        self.recent.extend_from_slice(&recent[window..]);
        self.recent.sort_unstable();
        self.recent.dedup();
        for token in &self.recent {
            if let Some(logit) = logits.get_mut(token.index()) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    fn gather(&mut self, logits: &[f32]) {
        let finite = logits.iter().enumerate().filter(|(_, l)| l.is_finite());
        self.candidates.clear();
        self.candidates.extend(finite.map(|(i, logit)| Candidate { logit: *logit, token: TokenId::from_row(i) }));
    }

    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, best_first);
            self.candidates.truncate(k);
        }
    }

    /// The softmax's denominator over the candidates.
    fn total(&self, best: f32) -> f64 {
        self.candidates.iter().map(|c| weight(c.logit - best)).sum()
    }

    fn keep_top_p(&mut self, best: f32, total: f64) {
        let p = f64::from(self.options.top_p);
        if p == 1.0 {
            return;
        }
        self.candidates.sort_unstable_by(best_first);
        let mut sum = 0.0;
        let enough = self.candidates.iter().position(|c| {
            sum += weight(c.logit - best);
            sum >= p * total
        });
        self.candidates.truncate(enough.map_or(self.candidates.len(), |i| i + 1));
    }

    fn keep_min_p(&mut self, best: f32) {
        let least = f64::from(self.options.min_p);
        if least > 0.0 {
            self.candidates.retain(|c| weight(c.logit - best) >= least);
        }
    }

    fn draw(&mut self, best: Candidate) -> TokenId {
        let weight_at = |c: &Candidate| weight((c.logit - best.logit) / self.options.temperature);
        let total: f64 = self.candidates.iter().map(weight_at).sum();
        let target = self.random.unit() * total;
        let mut sum = 0.0;
        let drawn = self.candidates.iter().find(|c| {
            sum += weight_at(c);
            sum > target
        });
        drawn.unwrap_or(&best).token
    }
}

fn require(name: &'static str, needed: &'static str, found: f32, holds: bool) -> Result<(), SampleError> {
    if holds { Ok(()) } else { Err(SampleError::Option { name, needed, found }) }
}

/// The highest finite logit, of the lowest id among equals.
fn best_of(logits: &[f32]) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    for (i, logit) in logits.iter().enumerate().filter(|(_, l)| l.is_finite()) {
        if best.is_none_or(|b| *logit > b.logit) {
            best = Some(Candidate { logit: *logit, token: TokenId::from_row(i) });
        }
    }
    best
}

/// By falling logit, then rising id.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// `e^x`, the softmax's numerator.
fn weight(x: f32) -> f64 {
    libm::exp(f64::from(x))
}
