//! The attributes of a rotary position embedding → how far each pair turns, and tables of cosines and sines.

use crate::graph::ops::Scaling;

/// The angle each pair turns by, and the magnitude of the rotated elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// `base^(-2 / rotary)`: the angle of a pair over that of the pair before.
    pub step: f32,
    /// Factor on angles where the context is extended.
    pub scale: f32,
    /// The share of each pair's angle that is not scaled.
    pub keeps: Vec<f32>,
    /// Factor on cosines and sines.
    pub magnitude: f32,
}

impl Frequencies {
    /// Pair `i` turns by `base^(-2i / rotary)` a position, scaled by context extension: YaRN
    /// (arXiv:2309.00071, section 3.2) keeps pairs that turn more than `beta_fast` times over the trained context and
    /// scales those below `beta_slow`.
    pub fn new(rotary: u32, base: f32, scaling: &Scaling) -> Frequencies {
        let (low, high) = ramp(rotary, base, scaling);
        let keeps = (0..rotary / 2).map(|i| {
            let position = ((f64::from(i) - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            ((1.0 - position) * f64::from(scaling.ext_factor)) as f32
        });
        // The exponent is rounded before the power, the power after it.
        let step = f64::from(base).powf(f64::from(-2.0 / rotary as f32)) as f32;
        Frequencies { step, scale: scaling.freq_scale, keeps: keeps.collect(), magnitude: scaling.attn_factor }
    }

    /// The same angles for what has its magnitude already.
    pub fn of_length_one(self) -> Frequencies {
        Frequencies { magnitude: 1.0, ..self }
    }

    /// How many pairs turn.
    pub fn pairs(&self) -> usize {
        self.keeps.len()
    }

    /// Cosine and sine of every pair at `position`, which is whole and may be negative, each angle divided by its factor where there are any, interleaved
    /// into `out` of two floats a pair.
    ///
    /// Angles are products in single precision, pair after pair, as in llama.cpp: a key that is one bit off in f16
    /// becomes noise behind int8 activations, and moves tokens to other experts.
    pub fn table(&self, position: f32, factors: Option<&[f32]>, out: &mut [f32]) {
        let mut angle = position;
        for (i, (keep, out)) in self.keeps.iter().zip(out.chunks_exact_mut(2)).enumerate() {
            let plain = angle / factors.map_or(1.0, |f| f[i]);
            let turn = plain * self.scale * (1.0 - keep) + plain * keep;
            let (sin, cos) = f64::from(turn).sin_cos();
            out[0] = cos as f32 * self.magnitude;
            out[1] = sin as f32 * self.magnitude;
            angle *= self.step;
        }
    }
}

/// First and last pair of the ramp between kept and scaled frequencies.
fn ramp(rotary: u32, base: f32, scaling: &Scaling) -> (f64, f64) {
    let pair_of = |turns: f32| {
        let wavelength = f64::from(scaling.trained_context) / (f64::from(turns) * std::f64::consts::TAU);
        f64::from(rotary) * wavelength.ln() / (2.0 * f64::from(base).ln())
    };
    let low = pair_of(scaling.beta_fast).floor().max(0.0);
    let high = pair_of(scaling.beta_slow).ceil().min(f64::from(rotary) - 1.0);
    (low, high)
}
