// Blocks of 32 codes of four bits, of which 8 is none, under a scale.

constexpr u32 BLOCK_BYTES = 18, BLOCK_RUNS = 1, ALIGN = 2;
constexpr bool HALVES = false, MINIMA = false;

DEVICE void codes(const u8 *block, u32, u32 t, u32 &low, u32 &high) {
    u32 four = word_at<ALIGN>(block + 2 + 4 * t);
    low = (four << 4 & 0xf0f0f0f0u) ^ SIGNS;
    high = (four & 0xf0f0f0f0u) ^ SIGNS;
}

DEVICE void scales(const u8 *block, u32, f32 (&of)[1]) {
    of[0] = half_at(block) / 16.0f;
}
