//! Scores of a few queries with the sixteen keys of a page, one key a lane: summed element by element, or as llama.cpp
//! rounds dots of f16.

use super::attention::TILE;
use crate::backend::cpu::simd::{LANES, Simd};

/// Scores of `N` queries with the sixteen keys of a page, one key a lane; those of queries lie a tile
/// apart.
#[inline(always)]
pub(super) fn dots<S: Simd, const N: usize>(s: S, q: &[f32], dim: usize, keys: &[f32], scores: &mut [f32]) {
    let q = &q[..N * dim];
    let mut sum = [s.splat(0.0); N];
    for (i, key) in keys.chunks_exact(LANES).enumerate() {
        let key = s.load(key);
        for j in 0..N {
            sum[j] = s.fma(s.splat(q[j * dim + i]), key, sum[j]);
        }
    }
    for (j, sum) in sum.into_iter().enumerate() {
        s.store(sum, &mut scores[j * TILE..]);
    }
}

/// Partial sums that a dot is split into before they are added up in pairs.
const PARTIAL: usize = 64;

/// Scores of `N` queries with the sixteen keys of a page, as llama.cpp rounds dots of f16: of each whole 64 elements,
/// element `i` joins partial sum `i % 64`, which are added in pairs 32, 16, 8, 4, 2 and 1 apart; the rest is added
/// exactly.
#[inline(always)]
pub(super) fn exact_dots<S: Simd, const N: usize>(s: S, q: &[f32], dim: usize, keys: &[f32], scores: &mut [f32]) {
    let whole = dim / PARTIAL * PARTIAL;
    let mut sum = [s.splat(0.0); N];
    if whole > 0 {
        // Sums of the partial sums 8, 16 and 32 apart, one for each remainder modulo 8.
        let mut eighths = [[s.splat(0.0); N]; 8];
        for (first, eighth) in eighths.iter_mut().enumerate() {
            *eighth = eighth_of_dots(s, q, dim, keys, first, whole);
        }
        add_in_pairs(s, &mut eighths);
        sum = eighths[0];
    }
    for (j, sum) in sum.into_iter().enumerate() {
        let sum = add_exactly(s, sum, &q[j * dim + whole..(j + 1) * dim], &keys[whole * LANES..]);
        s.store(sum, &mut scores[j * TILE..]);
    }
}

/// The partial sums `first`, `first + 8`, .. `first + 56` of `N` dots, added in pairs 32, 16 and 8 apart.
#[inline(always)]
fn eighth_of_dots<S: Simd, const N: usize>(
    s: S,
    q: &[f32],
    dim: usize,
    keys: &[f32],
    first: usize,
    whole: usize,
) -> [S::F; N] {
    let mut partial = [[s.splat(0.0); N]; 8];
    for block in (0..whole).step_by(PARTIAL) {
        for (i, partial) in partial.iter_mut().enumerate() {
            let d = block + first + 8 * i;
            let key = s.load(&keys[d * LANES..]);
            for (j, partial) in partial.iter_mut().enumerate() {
                *partial = s.fma(s.splat(q[j * dim + d]), key, *partial);
            }
        }
    }
    add_in_pairs(s, &mut partial);
    partial[0]
}

/// Adds what lies 4, then 2, then 1 apart; the sum is the first.
#[inline(always)]
fn add_in_pairs<S: Simd, const N: usize>(s: S, sums: &mut [[S::F; N]; 8]) {
    for apart in [4, 2, 1] {
        for i in 0..apart {
            let other = sums[i + apart];
            for (sum, other) in sums[i].iter_mut().zip(other) {
                *sum = s.add(*sum, other);
            }
        }
    }
}

/// `sum` plus a dot, with what each step loses to rounding (Knuth's two-sum); products of two f16 are exact.
#[inline(always)]
fn add_exactly<S: Simd>(s: S, sum: S::F, q: &[f32], keys: &[f32]) -> S::F {
    let (mut sum, mut lost) = (sum, s.splat(0.0));
    for (d, q) in q.iter().enumerate() {
        let product = s.mul(s.splat(*q), s.load(&keys[d * LANES..]));
        let next = s.add(sum, product);
        let part = s.sub(next, sum);
        lost = s.add(lost, s.add(s.sub(sum, s.sub(next, part)), s.sub(product, part)));
        sum = next;
    }
    s.add(sum, lost)
}
