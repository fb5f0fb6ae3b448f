//! Root-mean-square normalisation of one row.

use crate::backend::cpu::simd::{Job, LANES, Simd};

/// `out = x / sqrt(mean(x^2) + eps) * weight` over each slice of `weight.len()` elements.
pub struct RmsNorm<'a> {
    /// The row: whole slices.
    pub x: &'a [f32],
    /// One factor an element of a slice.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// As long as `x`.
    pub out: &'a mut [f32],
}

impl Job for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.weight.len();
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            let scale = 1.0 / (sum_of_squares(s, x) / n as f32 + self.eps).sqrt();
            scale_by(s, x, self.weight, scale, out);
        }
    }
}

/// Sixteen partial sums in steps of sixteen elements, then the fixed tree.
#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    let (whole, rest) = x.split_at(x.len() - x.len() % LANES);
    for chunk in whole.chunks_exact(LANES) {
        let v = s.load(chunk);
        sum = s.fma(v, v, sum);
    }
    let v = s.load_part(rest, 0.0);
    s.reduce_add(s.fma(v, v, sum))
}

#[inline(always)]
fn scale_by<S: Simd>(s: S, x: &[f32], weight: &[f32], scale: f32, out: &mut [f32]) {
    let factor = s.splat(scale);
    let whole = x.len() - x.len() % LANES;
    for i in (0..whole).step_by(LANES) {
        let v = s.mul(s.mul(s.load(&x[i..]), factor), s.load(&weight[i..]));
        s.store(v, &mut out[i..]);
    }
    for i in whole..x.len() {
        out[i] = x[i] * scale * weight[i];
    }
}
