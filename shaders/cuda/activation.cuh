// Elementary functions, the same bits as the processor's and on every device.

#pragma once

#include "machine.cuh"

// 2^n for an exponent of normal numbers.
DEVICE f32 two_to(i32 n) {
    return from_bits(u32(n + 127) << 23);
}

// e^r for the rest of an exponent, of which `low` is what rounding took (Taylor; Dekker 1971 for what the sum loses).
DEVICE f32 small_exponential(f32 r, f32 low) {
    f32 tail = fmaf(1.0f / 40320.0f, r, 1.0f / 5040.0f);
    tail = fmaf(tail, r, 1.0f / 720.0f);
    tail = fmaf(tail, r, 1.0f / 120.0f);
    tail = fmaf(tail, r, 1.0f / 24.0f);
    tail = fmaf(tail, r, 1.0f / 6.0f);
    const f32 square = r * r;
    const f32 square_low = fmaf(r, r, -square);
    const f32 quadratic = square * 0.5f;
    const f32 sum = r + quadratic;
    const f32 sum_low = quadratic - (sum - r);
    const f32 high = sum + 1.0f;
    const f32 high_low = sum - (high - 1.0f);
    const f32 rest = fmaf(r * square, tail, fmaf(square_low, 0.5f, sum_low + high_low));
    return high + fmaf(low, high, rest);
}

// e^x: 0 below -103.98, infinite above 88.73, what is no number for what is none.
DEVICE f32 exponential(f32 x) {
    const f32 clamped = fminf(89.0f, fmaxf(-104.5f, x));
    const f32 k = rintf(clamped * 1.44269504f);
    // ln 2 in two parts (Cody and Waite): k times the first is exact.
    const f32 exact = fmaf(k, -0.6933594f, clamped);
    const f32 r = fmaf(k, 2.1219444e-4f, exact);
    const f32 y = small_exponential(r, fmaf(k, 2.1219444e-4f, exact - r));
    // 2^k in two factors: k reaches -151 and 128, outside of what one exponent holds.
    const i32 n = i32(k), half = n >> 1;
    const f32 whole = y * two_to(half) * two_to(n - half);
    return x < from_bits(0x7f800000) ? whole : x;
}

DEVICE f32 sigmoid(f32 x) {
    return divided(1.0f, 1.0f + exponential(-x));
}

DEVICE f32 silu(f32 x) {
    return divided(x, 1.0f + exponential(-x));
}

// By its tanh approximation, x/2 (1 + tanh u) as x / (1 + e^-2u).
DEVICE f32 gelu(f32 x) {
    const f32 cubic = fmaf(0.044715f * x, x * x, x);
    return divided(x, 1.0f + exponential(-1.5957692f * cubic));
}

// 0 silu, 1 gelu.
DEVICE f32 activated(u32 activation, f32 x) {
    return activation == 0 ? silu(x) : gelu(x);
}
