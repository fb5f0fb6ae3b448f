// Single precision.

#pragma once

#include "types/read.cuh"

struct type_f32 {
    static constexpr u32 RUN_BYTES = 128;

    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const f32 *at = reinterpret_cast<const f32 *>(row) + run * 32;
        for (u32 i = 0; i < 32; i++) x[i] = at[i];
    }

    DEVICE static f32 element(const u8 *row, u32 i) {
        return reinterpret_cast<const f32 *>(row)[i];
    }
};
