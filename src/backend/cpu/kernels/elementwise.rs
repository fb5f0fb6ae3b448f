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
        let whole = self.out.len() - self.out.len() % LANES;
        for at in (0..whole).step_by(LANES) {
            let (gate, up) = (s.load(&self.gate[at..]), s.load(&self.up[at..]));
            s.store(gated(s, self.activation, gate, up), &mut self.out[at..]);
        }
        if whole < self.out.len() {
            let (gate, up) = (s.load_part(&self.gate[whole..], 0.0), s.load_part(&self.up[whole..], 0.0));
            s.store_part(gated(s, self.activation, gate, up), &mut self.out[whole..]);
        }
    }
}

#[inline(always)]
fn gated<S: Simd>(s: S, activation: Activation, gate: S::F, up: S::F) -> S::F {
    let gate = match activation {
        Activation::Silu => math::silu(s, gate),
        Activation::Gelu => math::gelu(s, gate),
    };
    s.mul(gate, up)
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
