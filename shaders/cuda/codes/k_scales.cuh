// The scale and the minimum of a run, as super-blocks of four and five bits hold them behind their two halves.

DEVICE void scales(const u8 *block, u32 run, f32 (&of)[2]) {
    // Six bits each, or four and the upper two of what belongs to the run four before.
    u32 scale = block[4 + run % 4], least = block[8 + run % 4];
    if (run >= 4) {
        u32 both = block[8 + run];
        scale = (both & 15) | (scale >> 6) << 4;
        least = both >> 4 | (least >> 6) << 4;
    }
    u32 two = word_at<4>(block);
    of[0] = from_half(u16(two)) * f32(scale & 63);
    of[1] = from_half(u16(two >> 16)) * f32(least & 63);
}
