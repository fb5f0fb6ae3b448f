// Blocks of 32 codes of four bits over a minimum: 20 bytes; the first sixteen lie in the low nibbles.

#pragma once

#include "types/read.cuh"

struct type_q4_1 {
    static constexpr u32 RUN_BYTES = 20;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        const f32 d = read_half(at), m = read_half(at + 2);
        for (u32 i = 0; i < 4; i++) {
            const u32 four = read_word(at + 4 + 4 * i);
            for (u32 k = 0; k < 4; k++) {
                x[4 * i + k] = f32(byte_of(four, k) & 15) * d + m;
                x[4 * i + k + 16] = f32(byte_of(four, k) >> 4) * d + m;
            }
        }
    }
};
