//! Samples → their median and how far they lie around it, and from that whether two sets of samples differ beyond their
//! noise. Whole numbers in, so that nothing is infinite.

use serde::Serialize;

/// Standard errors of a median that an interval has on each side.
const ERRORS: f64 = 3.0;

/// The standard error of the median of n samples, in median absolute deviations over √n, where noise is normal: 1.4826
/// deviations are a standard deviation, and the median's error is 1.2533 times the mean's.
const ERROR_OF_MEDIAN: f64 = 1.4826 * 1.2533;

/// Fewer samples say nothing of noise.
pub(super) const LEAST: usize = 3;

/// What samples say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Half of the samples are below, half above; of an even number the higher of the two in the middle.
    pub median: u64,
    /// The median of how far samples are from the median.
    pub mad: u64,
    /// The least sample.
    pub least: u64,
    /// The largest sample.
    pub most: u64,
    /// Samples.
    pub count: usize,
}

impl Spread {
    /// The spread of samples; none of none.
    pub fn of(samples: &[u64]) -> Option<Spread> {
        let middle = |values: &mut Vec<u64>| {
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        let mut sorted = samples.to_vec();
        let median = middle(&mut sorted)?;
        let mut away: Vec<u64> = sorted.iter().map(|&sample| sample.abs_diff(median)).collect();
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        Some(Spread { median, mad: middle(&mut away)?, least, most, count: sorted.len() })
    }

    /// Tokens a second at the median of nanoseconds.
    pub fn rate(self, tokens: u32) -> f64 {
        rate(tokens, self.median)
    }

    /// Where the median may lie but for noise: ± 3 standard errors of a median, as the deviation of the samples gives
    /// them; none with fewer than three samples.
    pub fn interval(self) -> Option<(f64, f64)> {
        let half = ERRORS * ERROR_OF_MEDIAN * self.mad as f64 / (self.count.max(1) as f64).sqrt();
        let median = self.median as f64;
        (self.count >= LEAST).then_some((median - half, median + half))
    }
}

/// Tokens a second.
pub(super) fn rate(tokens: u32, nanoseconds: u64) -> f64 {
    f64::from(tokens) * 1e9 / nanoseconds.max(1) as f64
}
