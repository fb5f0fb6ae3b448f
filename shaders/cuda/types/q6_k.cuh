// Super-blocks of 256 codes of six bits: low bits, high bits, sixteen scales of a byte, then their scale: 210 bytes.

#pragma once

#include "types/read.cuh"

struct type_q6_k {
    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run / 8 * 210;
        const u32 r = run % 8;
        const f32 d = read_half(at + 208);
        for (u32 h = 0; h < 2; h++) {
            const f32 scale = d * f32(i8(at[192 + 2 * r + h]));
            for (u32 i = 0; i < 4; i++) {
                const u32 b = h * 16 + 4 * i;
                const u32 low = read_word(at + r / 4 * 64 + r % 2 * 32 + b) >> (r / 2 % 2 * 4);
                const u32 high = read_word(at + 128 + r / 4 * 32 + b) >> (r % 4 * 2);
                for (u32 k = 0; k < 4; k++) {
                    const u32 code = (byte_of(low, k) & 15) | (byte_of(high, k) & 3) << 4;
                    x[b + k] = scale * (f32(code) - 32.0f);
                }
            }
        }
    }
};
