// Values that are multiplied as signed bytes, a run of 32 at a time: see `acts.cu` for how they lie. Products of bytes are
// exact sums; then come scales and minima, as `scaled` has them.

#pragma once

#include "matmul.cuh"
#include "codes/of_type.cuh"

// Scales of a run, or of its halves; then minima.
constexpr u32 HALF_COUNT = HALVES ? 2 : 1;
constexpr u32 W_PARTS = HALF_COUNT * (MINIMA ? 2 : 1);
// The scale of x, then what minima are multiplied with.
constexpr u32 X_PARTS = 1 + (MINIMA ? HALF_COUNT : 0);

// Runs that are brought at a time: whole blocks, of so many bytes.
constexpr u32 CHUNK = BLOCK_BYTES == 34 ? 4 : 8;
constexpr u32 CHUNK_BYTES = CHUNK / BLOCK_RUNS * BLOCK_BYTES;
constexpr u32 W_WORDS = words_around(CHUNK_BYTES, ALIGN);
// Bytes of shared memory from a row's chunk to the next: an odd number of words, so that eight rows touch every bank.
constexpr u32 W_SLOT = (W_WORDS | 1) * 16;

DEVICE u32 bytes_of_runs(u32 runs) {
    return runs / BLOCK_RUNS * BLOCK_BYTES;
}

// Words `t` and `t + 4` of run `r` of a chunk.
DEVICE void chunk_codes(const u8 *chunk, u32 r, u32 t, u32 &low, u32 &high) {
    codes(chunk + r / BLOCK_RUNS * BLOCK_BYTES, r % BLOCK_RUNS, t, low, high);
}

DEVICE void chunk_scales(const u8 *chunk, u32 r, f32 (&of)[W_PARTS]) {
    scales(chunk + r / BLOCK_RUNS * BLOCK_BYTES, r % BLOCK_RUNS, of);
}

// What the two words of a run of x say.
DEVICE void x_scales(u32 scale, u32 sums, f32 (&of)[X_PARTS]) {
    of[0] = from_bits(scale);
    i32 first = i16(sums), second = i16(sums >> 16);
    if constexpr (MINIMA && HALVES) {
        of[1] = f32(first);
        of[2] = f32(second);
    } else if constexpr (MINIMA) {
        of[1] = f32(first + second);
    }
}

// The sum of a run, but for the scale of x: products of its halves, or of all of it, with scales.
DEVICE f32 run_value(const i32 (&dots)[HALF_COUNT], const f32 (&w)[W_PARTS], const f32 (&x)[X_PARTS]) {
    f32 sum = w[0] * f32(dots[0]);
    if constexpr (HALVES) sum = fmaf(w[1], f32(dots[1]), sum);
    if constexpr (MINIMA) sum = fmaf(-w[HALF_COUNT], x[1], sum);
    if constexpr (MINIMA && HALVES) sum = fmaf(-w[3], x[2], sum);
    return sum;
}

// The sum of a run behind `before`.
DEVICE f32 scaled(const i32 (&dots)[HALF_COUNT], const f32 (&w)[W_PARTS], const f32 (&x)[X_PARTS], f32 before) {
    return fmaf(x[0], run_value(dots, w, x), before);
}

// Sixteen rows of the weight with eight of x, in the lanes of a warp as tensor cores have them: added to those
// of each half, or of all.
DEVICE void add_products(i32 (&d)[HALF_COUNT][4], const u32 (&a)[4], const u32 (&b)[2]) {
    if constexpr (HALVES) {
        mma_bytes_half(d[0], {a[0], a[1]}, b[0]);
        mma_bytes_half(d[1], {a[2], a[3]}, b[1]);
    } else {
        mma_bytes(d[0], a, b);
    }
}
