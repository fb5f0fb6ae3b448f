// Blocks of 32 signed bytes under a scale: 34 bytes.

#pragma once

#include "types/read.cuh"

struct type_q8_0 {
    static constexpr u32 RUN_BYTES = 34;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        const f32 d = read_half(at);
        for (u32 i = 0; i < 8; i++) {
            const u32 four = read_word(at + 2 + 4 * i);
            for (u32 k = 0; k < 4; k++) x[4 * i + k] = f32(signed_byte_of(four, k)) * d;
        }
    }

    DEVICE static f32 element(const u8 *row, u32 i) {
        const u8 *at = row + i / 32 * RUN_BYTES;
        return f32(i8(at[2 + i % 32])) * read_half(at);
    }
};
