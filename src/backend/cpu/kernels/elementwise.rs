//! Ops on corresponding elements.

use crate::backend::cpu::simd::{Job, LANES, Simd, math};
use crate::graph::ops::Activation;

/// `out = activation(gate) * up`; all of one length.
pub struct Gated<'a> {
    /// The gate.
    pub gate: &'a [f32],
    /// What it lets through.
    pub up: &'a [f32],
    /// The non-linearity.
    pub activation: Activation,
    /// The result.
    pub out: &'a mut [f32],
}

impl Job for Gated<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let chunks = self.gate.chunks(LANES).zip(self.up.chunks(LANES)).zip(self.out.chunks_mut(LANES));
        for ((gate, up), out) in chunks {
            let (g, u) = (s.load_part(gate, 0.0), s.load_part(up, 0.0));
            let a = match self.activation {
                Activation::Silu => math::silu(s, g),
                Activation::Gelu => math::gelu(s, g),
            };
            s.store_part(s.mul(a, u), out);
        }
    }
}

/// `out = a + b`; all of one length.
pub struct Add<'a> {
    /// First term.
    pub a: &'a [f32],
    /// Second term.
    pub b: &'a [f32],
    /// The sum.
    pub out: &'a mut [f32],
}

impl Job for Add<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        for ((a, b), out) in self.a.iter().zip(self.b).zip(self.out) {
            *out = a + b;
        }
    }
}
