//! Rotary position embedding: a table of cosines and sines a row, then a rotation of every head by it.

use crate::graph::ops::{RopeStyle, Scaling};

/// The angle each pair turns by per position, and the magnitude of the rotated elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians a position, one a pair.
    pub radians: Vec<f64>,
    /// Factor on cosines and sines.
    pub magnitude: f32,
}

impl Frequencies {
    /// `base^(-2i / rotary) / factor[i]`, scaled by context extension: YaRN (arXiv:2309.00071, section 3.2) keeps
    /// pairs that turn more than `beta_fast` times over the trained context and scales those below `beta_slow`.
    pub fn new(rotary: u32, base: f32, scaling: &Scaling, factors: Option<&[f32]>) -> Frequencies {
        let (low, high) = ramp(rotary, base, scaling);
        let radians = (0..rotary / 2).map(|i| {
            let plain = f64::from(base).powf(-2.0 * f64::from(i) / f64::from(rotary));
            let plain = plain / factors.map_or(1.0, |f| f64::from(f[i as usize]));
            let scaled = plain * f64::from(scaling.freq_scale);
            let position = ((f64::from(i) - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let keep = (1.0 - position) * f64::from(scaling.ext_factor);
            scaled * (1.0 - keep) + plain * keep
        });
        Frequencies { radians: radians.collect(), magnitude: scaling.attn_factor }
    }

    /// Cosine and sine of every pair at `position`, interleaved into `out` of two floats a pair.
    pub fn table(&self, position: u32, out: &mut [f32]) {
        for (radians, out) in self.radians.iter().zip(out.chunks_exact_mut(2)) {
            let (sin, cos) = (f64::from(position) * radians).sin_cos();
            out[0] = cos as f32 * self.magnitude;
            out[1] = sin as f32 * self.magnitude;
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

/// Rotates the first `table.len()` elements of each head of a row; the others are copied.
pub fn rotate(x: &[f32], head_dim: usize, style: RopeStyle, table: &[f32], out: &mut [f32]) {
    let half = table.len() / 2;
    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        match style {
            RopeStyle::Interleaved => {
                let pairs = x.chunks_exact(2).zip(out.chunks_exact_mut(2)).zip(table.chunks_exact(2));
                for ((x, out), turn) in pairs {
                    (out[0], out[1]) = turned(x[0], x[1], turn);
                }
            }
            RopeStyle::Halves => {
                for (i, turn) in table.chunks_exact(2).enumerate() {
                    (out[i], out[i + half]) = turned(x[i], x[i + half], turn);
                }
            }
        }
        out[2 * half..].copy_from_slice(&x[2 * half..]);
    }
}

fn turned(a: f32, b: f32, turn: &[f32]) -> (f32, f32) {
    (a * turn[0] - b * turn[1], a * turn[1] + b * turn[0])
}
