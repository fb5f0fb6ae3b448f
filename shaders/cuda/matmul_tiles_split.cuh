// Tiles of values that are cut: a block takes WEIGHTS rows of the weight and TILE of x, a step of 32 columns at a time, of
// which each warp takes a part in tensor cores.

#pragma once

#include "matmul_split.cuh"

constexpr u32 THREADS = 256, WARPS = THREADS / 32;
constexpr u32 WEIGHTS = 128;
// Bytes from a row of a step's bf16s to the next: an odd number of words.
constexpr u32 LINE = CHUNK * 2 + 16;
// Warps along the weight and along x, and sixteens and eights of rows of a warp's part.
constexpr u32 WIDE = 4, HIGH = WARPS / WIDE;
constexpr u32 SIXTEENS = WEIGHTS / WIDE / 16, EIGHTS = TILE / HIGH / 8;
// Shared memory: a step of both as they lie, then cut.
struct Shared {
    u8 chunk[WEIGHTS * W_SLOT];
    u8 x_chunk[TILE * X_SLOT];
    u8 w[W_CUTS][WEIGHTS * LINE];
    u8 x[X_CUTS][TILE * LINE];
};

constexpr u32 SHARED_BYTES = sizeof(Shared);

// What a tile is of: its matrix, how many rows of x, numbers of x and of the value where they begin. Lies in shared memory.
struct Places {
    Matrix matrix;
    u32 count;
    // Of an expert's slots.
    u32 first;
    u64 x[TILE];
    u64 out[TILE];
};

// Sums of a lane: for each product of tensor cores its four.
struct Sums {
    f32 of[SIXTEENS][EIGHTS][4];
};

// The end of the step that begins at column `from`.
DEVICE u32 step_end(const Params &p, u32 from) {
    return least_of(from + CHUNK, p.cols);
}

// Begins to bring columns `from` to `end`: four threads a row.
DEVICE void bring(const Params &p, const Places &places, Shared &s, u32 from, u32 end) {
#pragma unroll 1
    for (u32 i = threadIdx.x / 4; i < WEIGHTS; i += THREADS / 4) {
        const u8 *row = row_of(p, places.matrix, i) + u64(from) * BYTES;
        copy_fourth<W_WORDS>(s.chunk + i * W_SLOT, row, (end - from) * BYTES, threadIdx.x % 4);
    }
    for (u32 j = threadIdx.x / 4; j < TILE; j += THREADS / 4) {
        const u8 *row = x_at(p, places.x[j] + from);
        copy_fourth<X_WORDS>(s.x_chunk + j * X_SLOT, row, (end - from) * 4, threadIdx.x % 4);
    }
}

// Cuts four numbers, `plane` bytes from one cut to the next.
template <u32 CUTS>
DEVICE void cut_four(const f32 (&four)[4], u8 *to, u32 plane) {
    u32 first[CUTS], second[CUTS];
    cut({four[0], four[1]}, first);
    cut({four[2], four[3]}, second);
    for (u32 c = 0; c < CUTS; c++) *reinterpret_cast<TwoWords *>(to + c * plane) = {{first[c], second[c]}};
}

// Cuts a step of `count` columns from `from` on; behind them are zeros.
DEVICE void cut_step(const Params &p, const Places &places, Shared &s, u32 from, u32 count, bool whole) {
    u32 at = threadIdx.x % 8 * 4, left = count < at ? 0 : count - at;
    bool all = whole && left >= 4;
#pragma unroll 1
    for (u32 i = threadIdx.x / 8; i < WEIGHTS; i += THREADS / 8) {
        u32 lead = whole ? 0 : lead_of(row_of(p, places.matrix, i) + u64(from) * BYTES);
        f32 w[4];
        w_four(s.chunk + i * W_SLOT + lead + at * BYTES, all, left, w);
        cut_four<W_CUTS>(w, s.w[0] + i * LINE + at * 2, WEIGHTS * LINE);
    }
#pragma unroll 1
    for (u32 j = threadIdx.x / 8; j < TILE; j += THREADS / 8) {
        u32 lead = whole ? 0 : lead_of(x_at(p, places.x[j] + from));
        f32 x[4];
        x_four(s.x_chunk + j * X_SLOT + lead + at * 4, all, left, x);
        cut_four<X_CUTS>(x, s.x[0] + j * LINE + at * 2, TILE * LINE);
    }
}

// Cut `c` of so many eights of x, in sixteen columns that begin at byte `at` of a row.
DEVICE void load_x(const u8 *x, u32 at, u32 n0, u32 c, u32 (&b)[EIGHTS][X_CUTS][2]) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 j = 0; j < EIGHTS; j += 2) {
        u32 both[4], row = EIGHTS == 1 ? lane % 8 : lane / 16 * 8 + lane % 8;
        load_matrices(both, x + (n0 + 8 * j + row) * LINE + at + lane / 8 % 2 * 16);
        for (u32 k = 0; k < 4 && j + k / 2 < EIGHTS; k++) b[j + k / 2][c][k % 2] = both[k];
    }
}

// Adds sixteen columns to the sums of a warp's part.
DEVICE void add_columns(const Shared &s, u32 at, Sums &sums) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 m0 = warp % WIDE * SIXTEENS * 16, n0 = warp / WIDE * EIGHTS * 8;
    u32 b[EIGHTS][X_CUTS][2];
    for (u32 c = 0; c < X_CUTS; c++) load_x(s.x[c], at, n0, c, b);
#pragma unroll
    for (u32 i = 0; i < SIXTEENS; i++) {
        u32 a[W_CUTS][4];
        for (u32 k = 0; k < W_CUTS; k++) {
            load_matrices(a[k], s.w[k] + (m0 + 16 * i + lane % 16) * LINE + at + lane / 16 * 16);
        }
        for (u32 j = 0; j < EIGHTS; j++) add_cuts(a, b[j], sums.of[i][j]);
    }
}

// Adds the sums of a segment to totals.
DEVICE void add_segment(Sums &sums, Sums &totals) {
    for (u32 k = 0; k < SIXTEENS * EIGHTS * 4; k++) {
        f32 &sum = sums.of[k / 4 / EIGHTS][k / 4 % EIGHTS][k % 4];
        totals.of[k / 4 / EIGHTS][k / 4 % EIGHTS][k % 4] += sum;
        sum = 0.0f;
    }
}

DEVICE void sum_tile(const Params &p, const Places &places, Shared &s, Sums &totals) {
    u32 each = segment_runs(p.cols) * 32;
    bool whole = in_words(p);
    Sums sums = {};
    bring(p, places, s, 0, step_end(p, 0));
    copies_mark();
    for (u32 from = 0; from < p.cols;) {
        u32 end = step_end(p, from);
        copies_wait<0>();
        block_sync();
        cut_step(p, places, s, from, end - from, whole);
        block_sync();
        if (end < p.cols) bring(p, places, s, end, step_end(p, end));
        copies_mark();
#pragma unroll 1
        for (u32 at = 0; at < CHUNK * 2; at += 32) add_columns(s, at, sums);
        if (end % each == 0 || end == p.cols) add_segment(sums, totals);
        from = end;
    }
}

// A tile.
DEVICE void tile(const Params &p, const Places &places) {
    LAUNCH_SHARED(Shared, shared);
    Sums totals = {};
    sum_tile(p, places, *shared, totals);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 n0 = places.matrix.first + warp % WIDE * SIXTEENS * 16 + lane / 4;
    u32 j0 = warp / WIDE * EIGHTS * 8 + lane % 4 * 2;
#pragma unroll
    for (u32 k = 0; k < EIGHTS * 2; k++) {
        u32 j = j0 + k / 2 * 8 + k % 2;
        if (j >= places.count) continue;
#pragma unroll
        for (u32 i = 0; i < SIXTEENS * 2; i++) {
            u32 n = n0 + 8 * i;
            if (n < p.rows) put(p, totals.of[i / 2][k / 2][i % 2 * 2 + k % 2], places.matrix.bias + n, places.out[j] + n);
        }
    }
}
