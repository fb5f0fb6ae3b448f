// Blocks of 32 codes of five bits, less 16, under a scale: 22 bytes; the fifth bits are one word.

#pragma once

#include "types/read.cuh"

struct type_q5_0 {
    static constexpr u32 RUN_BYTES = 22;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        const f32 d = read_half(at);
        const u32 fifth = read_word(at + 2);
        for (u32 i = 0; i < 4; i++) {
            const u32 four = read_word(at + 6 + 4 * i);
            for (u32 k = 0; k < 4; k++) {
                const u32 e = 4 * i + k;
                x[e] = (f32((byte_of(four, k) & 15) | (fifth >> e & 1) << 4) - 16.0f) * d;
                x[e + 16] = (f32(byte_of(four, k) >> 4 | (fifth >> (e + 16) & 1) << 4) - 16.0f) * d;
            }
        }
    }
};
