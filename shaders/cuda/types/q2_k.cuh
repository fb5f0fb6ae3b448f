// Super-blocks of 256 codes of two bits: sixteen scales and minima of four bits, codes, then their scales: 84 bytes.

#pragma once

#include "types/read.cuh"

struct type_q2_k {
    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run / 8 * 84;
        const u32 r = run % 8;
        const f32 d = read_half(at + 80), dmin = read_half(at + 82);
        for (u32 h = 0; h < 2; h++) {
            const u32 packed = at[2 * r + h];
            const f32 scale = d * f32(packed & 15), least = dmin * f32(packed >> 4);
            for (u32 i = 0; i < 4; i++) {
                const u32 four = read_word(at + 16 + r / 4 * 32 + h * 16 + 4 * i) >> (r % 4 * 2);
                for (u32 k = 0; k < 4; k++) x[h * 16 + 4 * i + k] = scale * f32(byte_of(four, k) & 3) - least;
            }
        }
    }
};
