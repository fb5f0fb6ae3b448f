//! Rotary position embedding: a rotation of every head of a row by its table of cosines and sines.

use crate::backend::cpu::simd::{Job, Simd};
use crate::graph::ops::RopeStyle;

/// Rotates `table.len()` elements of each head of a row, from `offset` on; the others are copied.
pub struct Rotate<'a> {
    /// The row: whole heads.
    pub x: &'a [f32],
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a head before the rotated ones.
    pub offset: usize,
    /// Which elements are a pair.
    pub style: RopeStyle,
    /// What [`Frequencies::table`] wrote.
    pub table: &'a [f32],
    /// As long as `x`.
    pub out: &'a mut [f32],
}

impl Job for Rotate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        let Rotate { x, head_dim, offset, style, table, out } = self;
        let half = table.len() / 2;
        for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            out[..offset].copy_from_slice(&x[..offset]);
            let (x, out) = (&x[offset..], &mut out[offset..]);
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
}

#[inline(always)]
fn turned(a: f32, b: f32, turn: &[f32]) -> (f32, f32) {
    (a.mul_add(turn[0], -(b * turn[1])), a.mul_add(turn[1], b * turn[0]))
}
