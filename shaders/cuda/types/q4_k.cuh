// Super-blocks of 256 codes of four bits: two scales, eight scales and minima of six bits, codes: 144 bytes.

#pragma once

#include "types/k_scales.cuh"

struct type_q4_k {
    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run / 8 * 144;
        const u32 r = run % 8;
        const KScale of = k_scale(at, r);
        for (u32 i = 0; i < 8; i++) {
            const u32 four = read_word(at + 16 + r / 2 * 32 + 4 * i) >> (r % 2 * 4);
            for (u32 k = 0; k < 4; k++) x[4 * i + k] = of.scale * f32(byte_of(four, k) & 15) - of.least;
        }
    }
};
