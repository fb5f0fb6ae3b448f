// Super-blocks of 256 codes of six bits, of which 32 is none, with a signed scale for each sixteen.

constexpr u32 BLOCK_BYTES = 210, BLOCK_RUNS = 8, ALIGN = 2;
constexpr bool HALVES = true, MINIMA = false;

DEVICE u32 codes_at(const u8 *block, u32 run, u32 word) {
    u32 low = shifted(word_at<ALIGN>(block + run / 4 * 64 + run % 2 * 32 + 4 * word), 2 - i32(run / 2 % 2 * 4));
    u32 high = word_at<ALIGN>(block + 128 + run / 4 * 32 + 4 * word) << (6 - run % 4 * 2);
    return (low & 0x3c3c3c3cu) ^ (high & 0xc0c0c0c0u) ^ SIGNS;
}

DEVICE void codes(const u8 *block, u32 run, u32 t, u32 &low, u32 &high) {
    low = codes_at(block, run, t);
    high = codes_at(block, run, t + 4);
}

DEVICE void scales(const u8 *block, u32 run, f32 (&of)[2]) {
    f32 d = half_at(block + 208) / 4.0f;
    u32 both = two_at(block + 192 + 2 * run);
    of[0] = d * f32(i8(both));
    of[1] = d * f32(i8(both >> 8));
}
