// Half precision.

#pragma once

#include "types/read.cuh"

struct type_f16 {
    static constexpr u32 RUN_BYTES = 64;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        for (u32 i = 0; i < 32; i++) x[i] = read_half(at + 2 * i);
    }

    DEVICE static f32 element(const u8 *row, u32 i) {
        return read_half(row + 2 * i);
    }
};
