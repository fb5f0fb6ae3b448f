// Blocks of 32 codes of four bits that stand for values of a table, under a power of two: 17 bytes.

#pragma once

#include "types/table.cuh"

struct type_mxfp4 {
    static constexpr u32 RUN_BYTES = 17;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        // Half of 2^(e - 127), of which the first two are subnormal: values are doubled.
        const u32 e = at[0];
        const f32 d = from_bits(e < 2 ? 0x200000u << e : (e - 1) << 23);
        u32 words[4];
        for (u32 i = 0; i < 4; i++) words[i] = read_word_anywhere(at + 1 + 4 * i);
        table_run(mxfp4_values(), d, words, x);
    }
};
