// The upper half of single precision.

#pragma once

#include "types/read.cuh"

struct type_bf16 {
    static constexpr u32 RUN_BYTES = 64;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run * RUN_BYTES;
        for (u32 i = 0; i < 32; i++) x[i] = from_bf16(u16(read_two(at + 2 * i)));
    }

    DEVICE static f32 element(const u8 *row, u32 i) {
        return from_bf16(u16(read_two(row + 2 * i)));
    }
};
