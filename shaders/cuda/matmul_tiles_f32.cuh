// Tiles of values as they are: a block takes WEIGHTS rows of the weight and TILE of x. Four lanes have the four sums of
// four rows of the weight, eight from one to the next, with a warp's rows of x.

#pragma once

#include "matmul_f32.cuh"

constexpr u32 THREADS = 256, WARPS = THREADS / 32;
constexpr u32 WEIGHTS = 64;
// Warps along the weight and along x, and rows of a lane.
constexpr u32 WIDE = 2, HIGH = WARPS / WIDE;
constexpr u32 ACROSS = WEIGHTS / WIDE / 8, DOWN = TILE / HIGH;

// Shared memory: two chunks of both.
struct Shared {
    u8 w[2][WEIGHTS * W_SLOT];
    u8 x[2][TILE * X_SLOT];
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

// The end of the chunk that begins at column `from`.
DEVICE u32 chunk_end(const Params &p, u32 from, u32 each) {
    return least_of(least_of(from + CHUNK, from / each * each + each), p.cols);
}

// Begins to bring columns `from` to `end`.
DEVICE void bring(const Params &p, const Places &places, Shared &s, u32 stage, u32 from, u32 end) {
    for (u32 i = threadIdx.x / 4; i < WEIGHTS; i += THREADS / 4) {
        const u8 *row = row_of(p, places.matrix, i) + u64(from) * BYTES;
        copy_fourth<W_WORDS>(s.w[stage] + i * W_SLOT, row, (end - from) * BYTES, threadIdx.x % 4);
    }
    for (u32 i = threadIdx.x / 4; i < TILE; i += THREADS / 4) {
        const u8 *row = x_at(p, places.x[i] + from);
        copy_fourth<X_WORDS>(s.x[stage] + i * X_SLOT, row, (end - from) * 4, threadIdx.x % 4);
    }
}

// A lane's first rows of the weight and of x.
struct Lane {
    u32 m;
    u32 n;
    u32 t;
};

DEVICE Lane own_lane() {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return {warp % WIDE * ACROSS * 8 + lane / 4, warp / WIDE * DOWN, lane % 4};
}

// Adds a lane's pieces of columns `from` to `end`.
DEVICE void add_chunk(const Params &p, const Places &places, const Shared &s, u32 stage, u32 from,
                      u32 end, bool whole, f32 (&sums)[ACROSS][DOWN]) {
    Lane own = own_lane();
#pragma unroll 1
    for (u32 k = 0; k < CHUNK / 16; k++) {
        // Column `at` of the chunk: four of a piece of this lane's.
        u32 at = (k / (PIECE / 4) * 4 + own.t) * PIECE + k % (PIECE / 4) * 4;
        if (from + at >= end) break;
        f32 w[ACROSS][4];
        for (u32 i = 0; i < ACROSS; i++) {
            u32 lead = whole ? 0 : lead_of(row_of(p, places.matrix, own.m + 8 * i) + u64(from) * BYTES);
            w_four(s.w[stage] + (own.m + 8 * i) * W_SLOT + lead + at * BYTES, whole, end - from - at, w[i]);
        }
        for (u32 j = 0; j < DOWN; j++) {
            u32 lead = whole ? 0 : lead_of(x_at(p, places.x[own.n + j] + from));
            f32 x[4];
            x_four(s.x[stage] + (own.n + j) * X_SLOT + lead + at * 4, whole, end - from - at, x);
            for (u32 i = 0; i < ACROSS; i++) sums[i][j] = fused(w[i], x, sums[i][j]);
        }
    }
}

// Adds the sums of a segment to totals: each lane of four has every fourth.
DEVICE void add_segment(f32 (&sums)[ACROSS][DOWN], f32 (&totals)[ACROSS * DOWN / 4]) {
    u32 lane = threadIdx.x % 32;
    for (u32 i = 0; i < ACROSS * DOWN; i++) {
        f32 sum = four_sum(sums[i / DOWN][i % DOWN], lane);
        if (lane % 4 == i % 4) totals[i / 4] += sum;
        sums[i / DOWN][i % DOWN] = 0.0f;
    }
}

// A tile.
DEVICE void tile(const Params &p, const Places &places) {
    LAUNCH_SHARED(Shared, shared);
    u32 each = segment_runs(p.cols) * 32, stage = 0;
    bool whole = in_words(p);
    f32 sums[ACROSS][DOWN] = {}, totals[ACROSS * DOWN / 4] = {};
    bring(p, places, *shared, 0, 0, chunk_end(p, 0, each));
    copies_mark();
    for (u32 from = 0; from < p.cols; stage ^= 1) {
        u32 end = chunk_end(p, from, each);
        copies_wait<0>();
        block_sync();
        if (end < p.cols) bring(p, places, *shared, stage ^ 1, end, chunk_end(p, end, each));
        copies_mark();
        add_chunk(p, places, *shared, stage, from, end, whole, sums);
        from = end;
        if (end % each == 0 || end == p.cols) add_segment(sums, totals);
    }
    Lane own = own_lane();
    for (u32 k = 0; k < ACROSS * DOWN / 4; k++) {
        u32 i = 4 * k + own.t, n = places.matrix.first + own.m + i / DOWN * 8, j = own.n + i % DOWN;
        if (j < places.count && n < p.rows) put(p, totals[k], places.matrix.bias + n, places.out[j] + n);
    }
}
