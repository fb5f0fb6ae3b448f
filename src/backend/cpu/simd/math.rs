//! Elementary functions over sixteen lanes, the same bits in every instruction set.

use super::Simd;

/// `e^x`: within 0.52 ulp where the result is normal, so one in a thousand is not the nearest f32; 0 below -103.98,
/// infinity above 88.73, NaN for NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // Clamped so that the exponent arithmetic stays in range; NaN goes through `min` and `max` as their second operand.
    let c = s.min(s.splat(89.0), s.max(s.splat(-104.5), x));
    let n = s.round_i32(s.mul(c, s.splat(std::f32::consts::LOG2_E)));
    let k = s.to_f32(n);
    // ln 2 in two parts (Cody and Waite): the first has few enough bits that k times it is exact.
    let ln2_low = s.splat(2.121_944_4e-4);
    let exact = s.fma(k, s.splat(-0.693_359_4), c);
    let r = s.fma(k, ln2_low, exact);
    let r_low = s.fma(k, ln2_low, s.sub(exact, r));
    // e^r = 1 + r + r^2/2 + r^3 p(r), p by Taylor; what the first three terms lose to rounding is kept (Dekker 1971).
    let p = s.fma(s.splat(1.0 / 40320.0), r, s.splat(1.0 / 5040.0));
    let p = s.fma(p, r, s.splat(1.0 / 720.0));
    let p = s.fma(p, r, s.splat(1.0 / 120.0));
    let p = s.fma(p, r, s.splat(1.0 / 24.0));
    let p = s.fma(p, r, s.splat(1.0 / 6.0));
    let (one, half) = (s.splat(1.0), s.splat(0.5));
    let square = s.mul(r, r);
    let square_low = s.fma(r, r, s.neg(square));
    let quadratic = s.mul(square, half);
    let sum = s.add(r, quadratic);
    let sum_low = s.sub(quadratic, s.sub(sum, r));
    let high = s.add(sum, one);
    let high_low = s.sub(sum, s.sub(high, one));
    let low = s.fma(s.mul(r, square), p, s.fma(square_low, half, s.add(sum_low, high_low)));
    let y = s.add(high, s.fma(r_low, high, low));
    // 2^n in two factors: n reaches -151 and 128, outside of what one f32 exponent holds.
    let half = s.sar::<1>(n);
    let y = s.mul(s.mul(y, s.exp2i(half)), s.exp2i(s.sub_i(n, half)));
    // A NaN made the rounding give the least i32; put it back.
    s.select(s.lt(x, s.splat(f32::INFINITY)), y, x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.neg(x))))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(x, s.add(s.splat(1.0), exp(s, s.neg(x))))
}

/// `tanh(x)` as `1 - 2 / (e^2x + 1)`: absolute error below 3e-7, not relative near zero.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.sub(one, s.div(s.splat(2.0), s.add(exp(s, s.add(x, x)), one)))
}

/// GELU by its tanh approximation: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel, 2016).
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let cubic = s.fma(s.mul(s.splat(0.044_715), x), s.mul(x, x), x);
    // x/2 (1 + tanh u) = x / (1 + e^-2u): no cancellation where tanh nears -1.
    let twice = s.mul(s.splat(-2.0 * 0.797_884_6), cubic);
    s.div(x, s.add(s.splat(1.0), exp(s, twice)))
}
