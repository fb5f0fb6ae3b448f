// Blocks of 32 codes of four bits, less 8, under a scale: 18 bytes; the first sixteen lie in the low nibbles.

#pragma once

#include "types/read.cuh"

struct type_q4_0 {
    static constexpr u32 RUN_BYTES = 18;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        const f32 d = read_half(at);
        for (u32 i = 0; i < 4; i++) {
            const u32 four = read_word(at + 2 + 4 * i);
            for (u32 k = 0; k < 4; k++) {
                x[4 * i + k] = (f32(byte_of(four, k) & 15) - 8.0f) * d;
                x[4 * i + k + 16] = (f32(byte_of(four, k) >> 4) - 8.0f) * d;
            }
        }
    }

    DEVICE static f32 element(const u8 *row, u32 i) {
        const u8 *at = row + i / 32 * RUN_BYTES;
        const u32 code = u32(at[2 + i % 16]) >> (i / 16 % 2 * 4) & 15;
        return (f32(code) - 8.0f) * read_half(at);
    }
};
