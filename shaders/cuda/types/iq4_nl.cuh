// Blocks of 32 codes of four bits that stand for values of a table, under a scale: 18 bytes.

#pragma once

#include "types/table.cuh"

struct type_iq4_nl {
    static constexpr u32 RUN_BYTES = 18;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        u32 words[4];
        for (u32 i = 0; i < 4; i++) words[i] = read_word(at + 2 + 4 * i);
        table_run(iq4_values(), read_half(at), words, x);
    }
};
