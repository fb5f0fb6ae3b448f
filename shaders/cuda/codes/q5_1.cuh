// Blocks of 32 codes of five bits, under a scale and with what is added: fifth bits by themselves.

constexpr u32 BLOCK_BYTES = 24, BLOCK_RUNS = 1, ALIGN = 4;
constexpr bool HALVES = false, MINIMA = true;

DEVICE void codes(const u8 *block, u32, u32 t, u32 &low, u32 &high) {
    u32 fifth = word_at<ALIGN>(block + 4) >> 4 * t;
    u32 four = word_at<ALIGN>(block + 8 + 4 * t);
    low = (four & 0x0f0f0f0fu) | spread(fifth, 4);
    high = (four >> 4 & 0x0f0f0f0fu) | spread(fifth >> 16, 4);
}

DEVICE void scales(const u8 *block, u32, f32 (&of)[2]) {
    of[0] = half_at(block);
    of[1] = -half_at(block + 2);
}
