// Blocks of 32 signed bytes under a scale.

constexpr u32 BLOCK_BYTES = 34, BLOCK_RUNS = 1, ALIGN = 2;
constexpr bool HALVES = false, MINIMA = false;

DEVICE void codes(const u8 *block, u32, u32 t, u32 &low, u32 &high) {
    low = word_at<ALIGN>(block + 2 + 4 * t);
    high = word_at<ALIGN>(block + 18 + 4 * t);
}

DEVICE void scales(const u8 *block, u32, f32 (&of)[1]) {
    of[0] = half_at(block);
}
