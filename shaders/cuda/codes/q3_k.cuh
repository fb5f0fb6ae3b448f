// Super-blocks of 256 codes of three bits, of which 4 is none, with a scale of six bits for each sixteen.

constexpr u32 BLOCK_BYTES = 110, BLOCK_RUNS = 8, ALIGN = 2;
constexpr bool HALVES = true, MINIMA = false;

DEVICE u32 codes_at(const u8 *block, u32 run, u32 word) {
    u32 low = shifted(word_at<ALIGN>(block + 32 + run / 4 * 32 + 4 * word), 5 - i32(run % 4 * 2));
    u32 high = word_at<ALIGN>(block + 4 * word) << (7 - run);
    return (low & 0x60606060u) ^ (high & 0x80808080u) ^ SIGNS;
}

DEVICE void codes(const u8 *block, u32 run, u32 t, u32 &low, u32 &high) {
    low = codes_at(block, run, t);
    high = codes_at(block, run, t + 4);
}

// The scale of so many sixteens: four bits in one byte, two in another; 32 is none.
DEVICE i32 scale_of(const u8 *block, u32 sixteen) {
    u32 low = block[96 + sixteen % 8] >> sixteen / 8 * 4 & 15;
    u32 high = block[104 + sixteen % 4] >> sixteen / 4 * 2 & 3;
    return i32(low | high << 4) - 32;
}

DEVICE void scales(const u8 *block, u32 run, f32 (&of)[2]) {
    f32 d = half_at(block + 108) / 32.0f;
    of[0] = d * f32(scale_of(block, 2 * run));
    of[1] = d * f32(scale_of(block, 2 * run + 1));
}
