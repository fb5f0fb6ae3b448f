// Super-blocks of 256 codes of five bits: two scales, eight scales and minima of six bits, fifth bits, codes: 176 bytes.

#pragma once

#include "types/k_scales.cuh"

struct type_q5_k {
    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run / 8 * 176;
        const u32 r = run % 8;
        const KScale of = k_scale(at, r);
        for (u32 i = 0; i < 8; i++) {
            const u32 four = read_word(at + 48 + r / 2 * 32 + 4 * i) >> (r % 2 * 4);
            const u32 fifth = read_word(at + 16 + 4 * i) >> r;
            for (u32 k = 0; k < 4; k++) {
                const u32 code = (byte_of(four, k) & 15) | (byte_of(fifth, k) & 1) << 4;
                x[4 * i + k] = of.scale * f32(code) - of.least;
            }
        }
    }
};
