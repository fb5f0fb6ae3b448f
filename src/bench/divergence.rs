//! Rows of logits and another engine's log-probabilities for the same tokens → how far apart the two are, by the
//! statistics of llama.cpp's perplexity tool.

use super::perplexity::score;

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

/// What was seen of each token.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// Kullback-Leibler divergence of our distribution from the base's.
    kld: Vec<f64>,
    /// Our probability of the token that came, less the base's.
    change: Vec<f64>,
    nll: Vec<f64>,
    nll_base: Vec<f64>,
    same_top: usize,
}

/// All statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct DivergenceSummary {
    /// Tokens.
    pub count: usize,
    /// Our perplexity.
    pub perplexity: Estimate,
    /// The base's.
    pub base: Estimate,
    /// Ours over the base's.
    pub ratio: Estimate,
    /// Its natural logarithm.
    pub log_ratio: Estimate,
    /// Correlation of the two log-likelihoods.
    pub correlation: f64,
    /// Kullback-Leibler divergence.
    pub kld: Estimate,
    /// Change of the probability of the token that came.
    pub change: Estimate,
    /// Root mean square of that change.
    pub change_rms: Estimate,
    /// Share of tokens where both hold the same token the most probable.
    pub same_top: Estimate,
    sorted_kld: Vec<f64>,
    sorted_change: Vec<f64>,
}

impl Divergence {
    /// Adds a row: our logits, the base's log-probabilities, and the token that came.
    pub fn add(&mut self, logits: &[f32], base: &[f32], came: u32) {
        let scored = score(logits, came);
        let shift = f64::from(scored.max) + scored.log_sum;
        let (mut sum, mut top, mut best) = (0.0, 0, f32::NEG_INFINITY);
        for (i, (&logit, &log_p)) in logits.iter().zip(base).enumerate() {
            if log_p > best {
                (top, best) = (i, log_p);
            }
            // The file's floor: a base probability below e^-16 is not known.
            if log_p > -16.0 {
                sum += f64::from(log_p.exp()) * (f64::from(log_p) - f64::from(logit) + shift);
            }
        }
        let nll_base = base.get(came as usize).map_or(f64::INFINITY, |&log_p| -f64::from(log_p));
        self.kld.push(sum);
        self.nll.push(scored.nll);
        self.nll_base.push(nll_base);
        self.change.push((-scored.nll).exp() - (-nll_base).exp());
        self.same_top += usize::from(top == scored.top);
    }

    /// The statistics; `None` without at least two tokens.
    pub fn summary(&self) -> Option<DivergenceSummary> {
        let count = self.kld.len();
        if count < 2 {
            return None;
        }
        let (ours, theirs) = (estimate(&self.nll), estimate(&self.nll_base));
        let covariance = covariance(&self.nll, &self.nll_base);
        let log_ratio = ours.mean - theirs.mean;
        let spread = (ours.error.powi(2) + theirs.error.powi(2) - 2.0 * covariance).max(0.0).sqrt();
        let squares: Vec<f64> = self.change.iter().map(|c| c * c).collect();
        let square = estimate(&squares);
        let rms = square.mean.sqrt();
        let share = self.same_top as f64 / count as f64;
        let sorted = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        Some(DivergenceSummary {
            count,
            perplexity: exponential(ours),
            base: exponential(theirs),
            log_ratio: Estimate { mean: log_ratio, error: spread },
            ratio: Estimate { mean: log_ratio.exp(), error: log_ratio.exp() * spread },
            correlation: covariance / (ours.error * theirs.error),
            kld: estimate(&self.kld),
            change: estimate(&self.change),
            change_rms: Estimate { mean: rms, error: if rms > 0.0 { 0.5 / rms * square.error } else { 0.0 } },
            same_top: Estimate { mean: share, error: (share * (1.0 - share) / (count - 1) as f64).sqrt() },
            sorted_kld: sorted(&self.kld),
            sorted_change: sorted(&self.change),
        })
    }
}

impl DivergenceSummary {
    /// The divergence that this fraction of tokens stays below.
    pub fn kld_percentile(&self, fraction: f64) -> f64 {
        percentile(&self.sorted_kld, fraction)
    }

    /// The change of probability that this fraction of tokens stays below.
    pub fn change_percentile(&self, fraction: f64) -> f64 {
        percentile(&self.sorted_change, fraction)
    }
}

/// Linear interpolation between neighbours.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let last = sorted.len() - 1;
    let at = fraction.clamp(0.0, 1.0) * last as f64;
    let low = (at as usize).min(last);
    let part = at - low as f64;
    (1.0 - part) * sorted[low] + part * sorted[(low + 1).min(last)]
}

fn estimate(values: &[f64]) -> Estimate {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = (values.iter().map(|v| v * v).sum::<f64>() / n - mean * mean).max(0.0);
    Estimate { mean, error: (variance / (n - 1.0)).sqrt() }
}

/// Of the means.
fn covariance(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
    let product = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n;
    (product - mean(a) * mean(b)) / (n - 1.0)
}

fn exponential(log: Estimate) -> Estimate {
    Estimate { mean: log.mean.exp(), error: log.mean.exp() * log.error }
}
