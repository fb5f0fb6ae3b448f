// Blocks of 32 codes of four bits that stand for small floats, here doubled, under a power of two.

constexpr u32 BLOCK_BYTES = 17, BLOCK_RUNS = 1, ALIGN = 1;
constexpr bool HALVES = false, MINIMA = false;

// 0 1 2 3 4 6 8 12, then less than 0.
DEVICE void codes(const u8 *block, u32, u32 t, u32 &low, u32 &high) {
    const Table table = {{0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu}};
    looked_up(table, word_at<ALIGN>(block + 1 + 4 * t), low, high);
}

// Half of the power, whose lowest two are too small to have an exponent.
DEVICE void scales(const u8 *block, u32, f32 (&of)[1]) {
    u32 e = block[0];
    of[0] = from_bits(e < 2 ? 0x200000u << e : (e - 1) << 23);
}
