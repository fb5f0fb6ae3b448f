// Super-blocks of 256 codes of four bits, in runs of 32 with scales and minima of six bits.

#include "codes/k_scales.cuh"

constexpr u32 BLOCK_BYTES = 144, BLOCK_RUNS = 8, ALIGN = 4;
constexpr bool HALVES = false, MINIMA = true;

DEVICE void codes(const u8 *block, u32 run, u32 t, u32 &low, u32 &high) {
    const u8 *from = block + 16 + run / 2 * 32 + 4 * t;
    low = word_at<ALIGN>(from) >> run % 2 * 4 & 0x0f0f0f0fu;
    high = word_at<ALIGN>(from + 16) >> run % 2 * 4 & 0x0f0f0f0fu;
}
