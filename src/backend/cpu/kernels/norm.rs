//! Root-mean-square normalisation of one row.

use crate::backend::cpu::simd::{Job, LANES, Simd};

/// `out = x / sqrt(mean(x^2) + eps) * weight` over the first `weight.len()` elements of each slice; the others are copied.
pub struct RmsNorm<'a> {
    /// The row: whole slices.
    pub x: &'a [f32],
    /// One factor an element of a slice.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// Elements of a slice behind those.
    pub carried: usize,
    /// As long as `x`.
    pub out: &'a mut [f32],
}

impl Job for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.weight.len();
        let slice = n + self.carried;
        for (x, out) in self.x.chunks_exact(slice).zip(self.out.chunks_exact_mut(slice)) {
            let scale = 1.0 / (mean_square(&x[..n]) + self.eps).sqrt();
            scale_by(s, &x[..n], self.weight, scale, &mut out[..n]);
            out[n..].copy_from_slice(&x[n..]);
        }
    }
}

/// Squares rounded to f32, summed in f64: eight partial sums in steps of eight elements, then a fixed tree. Before
/// int8 activations a mean that is one bit off shows as their noise, so it is as exact as llama.cpp's.
#[inline(always)]
fn mean_square(x: &[f32]) -> f32 {
    let mut sums = [0.0f64; 8];
    let whole = x.chunks_exact(8);
    for (sum, x) in sums.iter_mut().zip(whole.remainder()) {
        *sum = f64::from(x * x);
    }
    for x in whole {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += f64::from(x * x);
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((((a + e) + (c + g)) + ((b + f) + (d + h))) / x.len() as f64) as f32
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
