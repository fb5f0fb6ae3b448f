// Super-blocks of 256 codes of three bits: high bits, low bits, sixteen scales of six bits, then their scale: 110 bytes.

#pragma once

#include "types/read.cuh"

struct type_q3_k {
    DEVICE static void run(const u8 *row, u32 run, f32 (&x)[32]) {
        const u8 *at = row + run / 8 * 110;
        const u32 r = run % 8;
        const f32 d = read_half(at + 108);
        for (u32 h = 0; h < 2; h++) {
            const u32 s = 2 * r + h;
            const u32 low = u32(at[96 + s % 8]) >> (s / 8 * 4) & 15, high = u32(at[104 + s % 4]) >> (s / 4 * 2) & 3;
            const f32 scale = d * (f32(low | high << 4) - 32.0f);
            for (u32 i = 0; i < 4; i++) {
                const u32 four = read_word(at + 32 + r / 4 * 32 + h * 16 + 4 * i) >> (r % 4 * 2);
                const u32 mask = read_word(at + h * 16 + 4 * i) >> r;
                for (u32 k = 0; k < 4; k++) {
                    const u32 code = (byte_of(four, k) & 3) | (byte_of(mask, k) & 1) << 2;
                    x[h * 16 + 4 * i + k] = scale * (f32(code) - 4.0f);
                }
            }
        }
    }
};
