// Super-blocks of 256 codes of two bits, with a scale and a minimum of four bits for each sixteen.

constexpr u32 BLOCK_BYTES = 84, BLOCK_RUNS = 8, ALIGN = 4;
constexpr bool HALVES = true, MINIMA = true;

DEVICE void codes(const u8 *block, u32 run, u32 t, u32 &low, u32 &high) {
    const u8 *from = block + 16 + run / 4 * 32 + 4 * t;
    low = word_at<ALIGN>(from) >> run % 4 * 2 & 0x03030303u;
    high = word_at<ALIGN>(from + 16) >> run % 4 * 2 & 0x03030303u;
}

DEVICE void scales(const u8 *block, u32 run, f32 (&of)[4]) {
    u32 both = two_at(block + 2 * run), two = word_at<ALIGN>(block + 80);
    f32 scale = from_half(u16(two)), least = from_half(u16(two >> 16));
    of[0] = scale * f32(both & 15);
    of[1] = scale * f32(both >> 8 & 15);
    of[2] = least * f32(both >> 4 & 15);
    of[3] = least * f32(both >> 12);
}
