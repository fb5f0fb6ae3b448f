//! Attention's scores of one query → weights relative to a maximum, with that maximum and their sum. Sums within a tile
//! follow a fixed tree, or go cell by cell where values are summed so.

use crate::backend::cpu::simd::{LANES, Simd, math};

/// Scores in `reach` → `e^(scale * score - maximum)`, zero beside it in the vectors it touches; returns maximum and sum.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(s: S, scores: &mut [f32], reach: std::ops::Range<usize>, scale: f32) -> (f32, f32) {
    let vectors = reach.start / LANES * LANES..reach.end;
    let mut most = s.splat(f32::NEG_INFINITY);
    for at in vectors.clone().step_by(LANES) {
        most = s.max(masked(s, scores, at, &reach, scale), most);
    }
    let most = s.reduce_max(most);
    let shift = s.splat(finite_shift(most));
    let mut sum = s.splat(0.0);
    for at in vectors.step_by(LANES) {
        let e = math::exp(s, s.sub(masked(s, scores, at, &reach, scale), shift));
        sum = s.add(sum, e);
        s.store(e, &mut scores[at..]);
    }
    (most, s.reduce_add(sum))
}

/// As [`exponentials`], but each relative to the largest score up to its own cell, and summed cell by cell; `rises` gets
/// the factor by which the maximum of a cell shrinks what was summed before it.
#[inline(always)]
pub(super) fn rising_exponentials<S: Simd>(
    s: S,
    scores: &mut [f32],
    rises: &mut [f32],
    reach: std::ops::Range<usize>,
    scale: f32,
) -> (f32, f32) {
    let (mut most, mut sum) = (f32::NEG_INFINITY, 0.0f32);
    for at in (reach.start / LANES * LANES..reach.end).step_by(LANES) {
        let x = masked(s, scores, at, &reach, scale);
        let mut lanes = [0.0; LANES];
        s.store(x, &mut lanes);
        let (mut before, mut now) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            before[lane] = most;
            most = if lanes[lane] > most { lanes[lane] } else { most };
            now[lane] = most;
        }
        let shift = s.load(&now.map(finite_shift));
        let (p, rises) = (&mut scores[at..at + LANES], &mut rises[at..at + LANES]);
        s.store(math::exp(s, s.sub(x, shift)), p);
        s.store(s.splat(1.0), rises);
        if before[0] < most {
            let rose = s.lt(s.load(&before), s.load(&now));
            let rise = math::exp(s, s.sub(s.load(&before), shift));
            s.store(s.select(rose, rise, s.splat(1.0)), rises);
        }
        for (p, rise) in p.iter().zip(&*rises) {
            sum = sum.mul_add(*rise, *p);
        }
    }
    (most, sum)
}

/// What scores are taken relative to: a maximum of minus infinity cannot be subtracted from itself.
#[inline(always)]
fn finite_shift(most: f32) -> f32 {
    if most == f32::NEG_INFINITY { 0.0 } else { most }
}

/// Sixteen scores times `scale`, minus infinity outside `reach`.
#[inline(always)]
fn masked<S: Simd>(s: S, scores: &[f32], at: usize, reach: &std::ops::Range<usize>, scale: f32) -> S::F {
    let all = s.mul(s.load(&scores[at..]), s.splat(scale));
    let low = s.first(reach.start.saturating_sub(at));
    let high = s.first(reach.end - at);
    let none = s.splat(f32::NEG_INFINITY);
    s.select(low, none, s.select(high, all, none))
}

/// `e^(from - to)` for `from <= to`; 1 where both are minus infinity.
#[inline(always)]
pub(super) fn factor<S: Simd>(s: S, from: f32, to: f32) -> f32 {
    if from == to {
        return 1.0;
    }
    let mut lanes = [0.0; LANES];
    s.store(math::exp(s, s.splat(from - to)), &mut lanes);
    lanes[0]
}
