// Values that are multiplied as they are, with weights of f32, f16 or bf16. A piece is sixteen bytes of a row of the
// weight: of a segment's pieces the first, fifth and so on have one sum, so do the second, sixth and so on, and four lanes
// have them. A sum is fused, in the order of columns; the four of a segment are added, the first first.

#pragma once

#include "matmul.cuh"

#ifdef TYPE_f32
constexpr u32 BYTES = 4;
#else
constexpr u32 BYTES = 2;
DEVICE f32 number_of(u16 bits) {
#ifdef TYPE_f16
    return from_half(bits);
#else
    return from_bf16(bits);
#endif
}
#endif

// Columns of a piece, and of a chunk that is brought at a time.
constexpr u32 PIECE = 16 / BYTES;
#if defined(SPLIT) && defined(TILE)
constexpr u32 CHUNK = 32;
#else
constexpr u32 CHUNK = 64;
#endif
// Words of a chunk of a row of the weight and of x, and bytes to the next row's: of the weight an odd number of words, or
// for pieces half of all banks on.
constexpr u32 W_WORDS = words_around(CHUNK * BYTES, BYTES), X_WORDS = words_around(CHUNK * 4, 4);
#ifdef SPLIT
constexpr u32 W_SLOT = W_WORDS * 16;
#else
constexpr u32 W_SLOT = BYTES == 4 ? 320 : 192;
#endif
constexpr u32 X_SLOT = X_WORDS * 16;

// Whether all rows of the weight and of x are in whole words.
DEVICE bool in_words(const Params &p) {
    return (lead_of(p.w) | lead_of(p.x) | p.row_bytes % 16 | p.x_row % 4 | p.x_head % 4) == 0;
}

// Four numbers as they lie in memory.
struct alignas(16) FourWords {
    u32 words[4];
};

struct alignas(8) TwoWords {
    u32 words[2];
};

// Four numbers of x: of a whole word, or those of them that are before the end, and zeros.
DEVICE void x_four(const u8 *from, bool whole, u32 count, f32 (&to)[4]) {
    if (whole) {
        FourWords four = *reinterpret_cast<const FourWords *>(from);
        for (u32 i = 0; i < 4; i++) to[i] = from_bits(four.words[i]);
    } else {
        for (u32 i = 0; i < 4; i++) to[i] = i < count ? *reinterpret_cast<const f32 *>(from + 4 * i) : 0.0f;
    }
}

// Four numbers of the weight, likewise.
DEVICE void w_four(const u8 *from, bool whole, u32 count, f32 (&to)[4]) {
#ifdef TYPE_f32
    x_four(from, whole, count, to);
#else
    if (whole) {
        TwoWords two = *reinterpret_cast<const TwoWords *>(from);
        for (u32 i = 0; i < 4; i++) to[i] = number_of(u16(two.words[i / 2] >> i % 2 * 16));
    } else {
        for (u32 i = 0; i < 4; i++) to[i] = i < count ? number_of(*reinterpret_cast<const u16 *>(from + 2 * i)) : 0.0f;
    }
#endif
}

// The sum of four products behind `before`.
DEVICE f32 fused(const f32 (&w)[4], const f32 (&x)[4], f32 before) {
    for (u32 i = 0; i < 4; i++) before = fmaf(w[i], x[i], before);
    return before;
}

// The four sums of a segment, one a lane of four, added.
DEVICE f32 four_sum(f32 sum, u32 lane) {
    f32 all = warp_take(sum, lane & 28);
    for (u32 t = 1; t < 4; t++) all += warp_take(sum, (lane & 28) + t);
    return all;
}

// Columns `from` to `end` of a chunk.
DEVICE u32 columns_of_chunk(u32 from, u32 end) {
    return from < end ? least_of(CHUNK, end - from) : 0;
}

DEVICE const u8 *x_at(const Params &p, u64 number) {
    return reinterpret_cast<const u8 *>(static_cast<const f32 *>(p.x) + number);
}
