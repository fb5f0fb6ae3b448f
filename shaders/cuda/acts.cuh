// Values → signed bytes under a scale, as the processor's kernels have them: the largest magnitude of a block is 127,
// codes round to the nearest, ties to even. A block with a number that is none is worthless: codes of 0 under NaN.
// A lane has eight numbers, so four lanes a run of 32; RUNS of those, 1 or 8, are a block.

#pragma once

#include "machine.cuh"

// Where the codes of values begin, eight a word, and their scales, a word for each run of 32: its scale, then the sums of its
// two halves, of 16 bits each. Codes of a row follow those of the row before.
struct Codes {
    u64 *codes, *scales;
};

// A block's scale, and the factor that turns its numbers to codes.
struct Scale {
    f32 scale, inverse;
};

// From the largest magnitude. A block too small to have an inverse counts as zero.
DEVICE Scale scale_of(f32 most) {
    const f32 inverse = divided(127.0f, most);
    if (!(inverse <= 3.4028235e38f)) return {0.0f, 0.0f};
    if (RUNS == 8) return {divided(1.0f, inverse), inverse};
    // Rounded to half precision where that holds it in full.
    const f32 scale = divided(most, 127.0f);
    const bool holds = scale >= 6.104e-5f && scale <= 65504.0f;
    return {holds ? from_half(to_half(scale)) : scale, inverse};
}

// The largest magnitude of the block that a lane is in, as bits: those of what is no number are larger than all others.
DEVICE u32 most_of(const f32 (&x)[8]) {
    u32 most = 0;
    for (u32 k = 0; k < 8; k++) {
        const u32 magnitude = bits_of(x[k]) & 0x7fffffff;
        most = most > magnitude ? most : magnitude;
    }
    if constexpr (RUNS == 8) {
        return warp_max(most);
    } else {
        for (u32 mask = 1; mask < 4; mask *= 2) {
            const u32 other = warp_xor(most, mask);
            most = most > other ? most : other;
        }
        return most;
    }
}

// Writes the codes of eight numbers, which are those of that index in all rows, and with the other lanes of the run its
// scale. All lanes of a warp take part, also those that have none.
DEVICE void quantize_eight(const Codes &to, const f32 (&x)[8], u32 eight, bool there) {
    const u32 most = most_of(x);
    const bool broken = most >= 0x7f800000;
    const Scale of = broken ? Scale{from_bits(0x7fc00000), 0.0f} : scale_of(from_bits(most));
    u32 words[2] = {0, 0};
    i32 sum = 0;
    for (u32 k = 0; k < 8; k++) {
        const i32 code = broken ? 0 : i32(rintf(x[k] * of.inverse));
        words[k / 4] |= (u32(code) & 255) << (8 * (k % 4));
        sum += code;
    }
    sum += warp_xor(sum, 1);
    const i32 second = warp_xor(sum, 2);
    if (!there) return;
    to.codes[eight] = words[0] | u64(words[1]) << 32;
    if (eight % 4 != 0) return;
    to.scales[eight / 4] = bits_of(of.scale) | u64((u32(sum) & 0xffff) | u32(second) << 16) << 32;
}
