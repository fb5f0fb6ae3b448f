// Angles → cosines and sines: exact to a few units in the last place for any position, the same bits on every device.

#pragma once

#include "machine.cuh"

struct Turn {
    f32 cosine, sine;
};

// The part of a whole turn that an angle from 2^-8 on leaves, in 2^-32 turns: its mantissa times 64 bits of 1 / (2 pi),
// from which whole turns fall off.
DEVICE u32 turns(f32 angle) {
    const u32 bits = bits_of(angle);
    const u64 mantissa = (bits & 0x7fffff) | 0x800000;
    const u64 low = mantissa * 0x9391054au;
    const u64 high = mantissa * 0x28be60dbu + (low >> 32);
    // The product is the angle in turns times 2^64, over 2^exponent.
    const i32 exponent = i32(bits >> 23) - 150;
    if (exponent >= 32) return 0;
    if (exponent >= 0) return u32((high << 32 | (low & 0xffffffff)) >> (32 - exponent));
    return u32(high >> -exponent);
}

// By polynomials on an eighth of a turn to both sides (Cephes, sinf and cosf).
DEVICE Turn turn_of(f32 angle) {
    f32 x = fabsf(angle);
    u32 quarter = 0;
    if (x > 0.00390625f) {
        const u32 part = turns(x);
        quarter = (part + 0x20000000) >> 30;
        x = f32(i32(part - (quarter << 30))) * 1.4629180792671596e-9f;
    }
    const f32 xx = x * x;
    const f32 s = x + x * xx * (-1.6666654611e-1f + xx * (8.3321608736e-3f - 1.9515295891e-4f * xx));
    const f32 c = 1.0f - 0.5f * xx +
                  xx * xx * (4.166664568298827e-2f + xx * (-1.388731625493765e-3f + 2.443315711809948e-5f * xx));
    const bool swap = (quarter & 1) == 1;
    const f32 cosine = (swap ? s : c) * (quarter == 1 || quarter == 2 ? -1.0f : 1.0f);
    const f32 sine = (swap ? c : s) * (quarter == 2 || quarter == 3 ? -1.0f : 1.0f);
    return {cosine, angle < 0.0f ? -sine : sine};
}

// The elements of a pair, of `pairs` in a head from `offset` on: 2i and 2i + 1 if interleaved, i and i + pairs if not.
struct Pair {
    u32 first, second;
};

DEVICE Pair pair_of(u32 i, u32 offset, u32 pairs, u32 interleaved) {
    if (interleaved != 0) return {offset + 2 * i, offset + 2 * i + 1};
    return {offset + i, offset + i + pairs};
}

// What both elements of a pair become.
struct Turned {
    f32 first, second;
};

DEVICE Turned turned(f32 a, f32 b, Turn turn) {
    return {fmaf(a, turn.cosine, -(b * turn.sine)), fmaf(a, turn.sine, b * turn.cosine)};
}
