// Super-blocks of 256 codes of four bits that stand for values of a table, in runs of 32 with scales of six bits.

constexpr u32 BLOCK_BYTES = 136, BLOCK_RUNS = 8, ALIGN = 4;
constexpr bool HALVES = false, MINIMA = false;

DEVICE void codes(const u8 *block, u32 run, u32 t, u32 &low, u32 &high) {
    looked_up(iq4_table(), word_at<ALIGN>(block + 8 + run * 16 + 4 * t), low, high);
}

DEVICE void scales(const u8 *block, u32 run, f32 (&of)[1]) {
    u32 low = block[4 + run / 2] >> run % 2 * 4 & 15;
    u32 high = two_at(block + 2) >> 2 * run & 3;
    of[0] = half_at(block) * f32(i32(low | high << 4) - 32);
}
