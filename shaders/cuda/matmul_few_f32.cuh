// Few rows as they are: a block takes eight rows of the weight, a warp of it a segment, four lanes a row. Each warp brings
// what it needs by itself, some chunks ahead.

#pragma once

#include "matmul_f32.cuh"

constexpr u32 PLACES = 8;
constexpr u32 STAGES = !TENSOR_CORES ? 1 : ROWS == 1 ? 4 : 2;
constexpr u32 STAGE = PLACES * W_SLOT + ROWS * X_SLOT;
constexpr u32 SHARED_BYTES = STAGES * STAGE;

// What a warp sums: `count` rows of x that begin at number `x`, in columns up to `end`.
struct Share {
    Matrix matrix;
    u64 x;
    u32 count;
    u32 end;
    bool whole;
};

// Begins to bring the chunk from column `from` on: four lanes a row.
DEVICE void bring(const Params &p, const Share &share, u8 *stage, u32 from, u32 lane) {
    u32 columns = columns_of_chunk(from, share.end), i = lane / 4;
    const u8 *row = row_of(p, share.matrix, i) + u64(from) * BYTES;
    copy_fourth<W_WORDS>(stage + i * W_SLOT, row, columns * BYTES, lane % 4);
    if (i < share.count) {
        const u8 *x = x_at(p, share.x + u64(i) * p.x_row + from);
        copy_fourth<X_WORDS>(stage + PLACES * W_SLOT + i * X_SLOT, x, columns * 4, lane % 4);
    }
    copies_mark();
}

// Adds a lane's pieces of the chunk from column `from` on.
DEVICE void add_chunk(const Params &p, const Share &share, const u8 *stage, u32 from, u32 lane, f32 (&sums)[ROWS]) {
    u32 i = lane / 4, columns = columns_of_chunk(from, share.end);
    const u8 *row = stage + i * W_SLOT + lead_of(row_of(p, share.matrix, i) + u64(from) * BYTES);
#pragma unroll
    for (u32 k = 0; k < CHUNK / 16; k++) {
        // Column `at` of the chunk: four of a piece of this lane's.
        u32 at = (k / (PIECE / 4) * 4 + lane % 4) * PIECE + k % (PIECE / 4) * 4;
        if (at >= columns) continue;
        f32 w[4];
        w_four(row + at * BYTES, share.whole, columns - at, w);
        for (u32 j = 0; j < ROWS; j++) {
            if (j >= share.count) continue;
            u32 lead = lead_of(x_at(p, share.x + u64(j) * p.x_row + from));
            f32 x[4];
            x_four(stage + PLACES * W_SLOT + j * X_SLOT + lead + at * 4, share.whole, columns - at, x);
            sums[j] = fused(w, x, sums[j]);
        }
    }
}

// Sums of `count` rows of x that begin at number `x`, which are rows of the value from `out` on.
DEVICE void few(const Params &p, const Matrix &matrix, u64 x, u32 count, u64 out) {
    LAUNCH_SHARED(u8, stages);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, each = segment_runs(p.cols) * 32;
    u32 from = least_of(warp * each, p.cols);
    Share share = {matrix, x, count, least_of(from + each, p.cols), in_words(p)};
    u8 *own = stages + warp * STAGES * STAGE;
    for (u32 s = 0; s < STAGES; s++) bring(p, share, own + s * STAGE, from + s * CHUNK, lane);
    f32 sums[ROWS] = {};
    u32 s = 0;
    for (; from < share.end; from += CHUNK) {
        copies_wait<STAGES - 1>();
        warp_sync();
        add_chunk(p, share, own + s * STAGE, from, lane, sums);
        warp_sync();
        bring(p, share, own + s * STAGE, from + STAGES * CHUNK, lane);
        s = (s + 1) % STAGES;
    }
    // Stages have been read.
    block_sync();
    f32 *parts = reinterpret_cast<f32 *>(stages);
    for (u32 j = 0; j < ROWS; j++) {
        f32 sum = four_sum(sums[j], lane);
        if (lane % 4 == 0) parts[(warp * ROWS + j) * PLACES + lane / 4] = sum;
    }
    block_sync();
    for (u32 i = threadIdx.x; i < count * PLACES; i += blockDim.x) {
        u32 n = matrix.first + i % PLACES;
        f32 total = 0.0f;
        for (u32 w = 0; w * each < p.cols; w++) total += parts[w * PLACES * ROWS + i];
        if (n < p.rows) put(p, total, matrix.bias + n, out + u64(i / PLACES) * p.out_row + n);
    }
}
