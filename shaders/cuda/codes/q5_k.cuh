// Super-blocks of 256 codes of five bits, in runs of 32 with scales and minima of six bits; fifth bits by themselves.

#include "codes/k_scales.cuh"

constexpr u32 BLOCK_BYTES = 176, BLOCK_RUNS = 8, ALIGN = 4;
constexpr bool HALVES = false, MINIMA = true;

DEVICE u32 codes_at(const u8 *block, u32 run, u32 word) {
    u32 four = word_at<ALIGN>(block + 48 + run / 2 * 32 + 4 * word) >> run % 2 * 4 & 0x0f0f0f0fu;
    return four | (shifted(word_at<ALIGN>(block + 16 + 4 * word), 4 - i32(run)) & 0x10101010u);
}

DEVICE void codes(const u8 *block, u32 run, u32 t, u32 &low, u32 &high) {
    low = codes_at(block, run, t);
    high = codes_at(block, run, t + 4);
}
