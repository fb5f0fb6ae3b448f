// Blocks of 32 codes of five bits, of which 16 is none, under a scale: fifth bits by themselves.

constexpr u32 BLOCK_BYTES = 22, BLOCK_RUNS = 1, ALIGN = 2;
constexpr bool HALVES = false, MINIMA = false;

DEVICE void codes(const u8 *block, u32, u32 t, u32 &low, u32 &high) {
    u32 fifth = word_at<ALIGN>(block + 2) >> 4 * t;
    u32 four = word_at<ALIGN>(block + 6 + 4 * t);
    low = (four << 3 & 0x78787878u) ^ spread(fifth, 7) ^ SIGNS;
    high = (four >> 1 & 0x78787878u) ^ spread(fifth >> 16, 7) ^ SIGNS;
}

DEVICE void scales(const u8 *block, u32, f32 (&of)[1]) {
    of[0] = half_at(block) / 8.0f;
}
