// The scales and minima of super-blocks of 256 in eight runs: twelve bytes with six bits of each, behind two halves.

#pragma once

#include "types/read.cuh"

// Of a run: a value is `scale * code - least`.
struct KScale {
    f32 scale, least;
};

DEVICE KScale k_scale(const u8 *block, u32 run) {
    u32 s = block[4 + run] & 63, m = block[8 + run] & 63;
    if (run >= 4) {
        const u32 nibbles = block[8 + run];
        s = (nibbles & 15) | u32(block[run]) >> 6 << 4;
        m = nibbles >> 4 | u32(block[4 + run]) >> 6 << 4;
    }
    return {read_half(block) * f32(s), read_half(block + 2) * f32(m)};
}
