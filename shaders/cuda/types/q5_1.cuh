// Blocks of 32 codes of five bits over a minimum: 24 bytes; the fifth bits are one word.

#pragma once

#include "types/read.cuh"

struct type_q5_1 {
    static constexpr u32 RUN_BYTES = 24;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        const f32 d = read_half(at), m = read_half(at + 2);
        const u32 fifth = read_word(at + 4);
        for (u32 i = 0; i < 4; i++) {
            const u32 four = read_word(at + 8 + 4 * i);
            for (u32 k = 0; k < 4; k++) {
                const u32 e = 4 * i + k;
                x[e] = f32((byte_of(four, k) & 15) | (fifth >> e & 1) << 4) * d + m;
                x[e + 16] = f32(byte_of(four, k) >> 4 | (fifth >> (e + 16) & 1) << 4) * d + m;
            }
        }
    }
};
