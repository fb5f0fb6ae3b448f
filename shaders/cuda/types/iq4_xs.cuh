// Super-blocks of 256 codes of four bits that stand for values of a table, in runs of 32 with scales of six bits: 136 bytes.

#pragma once

#include "types/table.cuh"

struct type_iq4_xs {
    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run / 8 * 136;
        const u32 r = run % 8;
        const u32 low = u32(at[4 + r / 2]) >> (r % 2 * 4) & 15, high = read_two(at + 2) >> (2 * r) & 3;
        u32 words[4];
        for (u32 i = 0; i < 4; i++) words[i] = read_word(at + 8 + r * 16 + 4 * i);
        table_run(iq4_values(), read_half(at) * (f32(low | high << 4) - 32.0f), words, x);
    }
};
