// Few rows as they are: a block takes eight rows of the weight, a warp of it a segment, four lanes a row. Each warp brings
// what it needs by itself, two chunks ahead.

#pragma once

#include "matmul_f32.cuh"

constexpr u32 PLACES = 8;
constexpr u32 STAGES = 2;
constexpr u32 STAGE = PLACES * W_SLOT + ROWS * X_SLOT;
constexpr u32 SHARED_BYTES = WARPS * STAGES * STAGE;

// What a warp sums: `count` rows of x that begin at number `x`, in columns up to `end`.
struct Share {
    Matrix matrix;
    u64 x;
    u32 count;
    u32 end;
    bool whole;
};

// Begins to bring the chunk from column `from` on.
DEVICE void bring(const Params &p, const Share &share, u8 *stage, u32 from, u32 lane) {
    u32 columns = columns_of_chunk(from, share.end);
    for (u32 i = lane; i < PLACES * W_WORDS; i += 32) {
        const u8 *row = row_of(p, share.matrix, i / W_WORDS) + u64(from) * BYTES;
        copy_around(stage + i / W_WORDS * W_SLOT, row, columns * BYTES, i % W_WORDS);
    }
    for (u32 i = lane; i < share.count * X_WORDS; i += 32) {
        const u8 *row = x_at(p, share.x + u64(i / X_WORDS) * p.x_row + from);
        copy_around(stage + PLACES * W_SLOT + i / X_WORDS * X_SLOT, row, columns * 4, i % X_WORDS);
    }
    copies_mark();
}

// Adds a lane's pieces of the chunk from column `from` on.
DEVICE void add_chunk(const Params &p, const Share &share, const u8 *stage, u32 from, u32 lane, f32 (&sums)[ROWS]) {
    u32 i = lane / 4, columns = columns_of_chunk(from, share.end);
    const u8 *row = stage + i * W_SLOT + lead_of(row_of(p, share.matrix, i) + u64(from) * BYTES);
#pragma unroll
    for (u32 piece = lane % 4; piece < CHUNK / PIECE; piece += 4) {
        u32 at = piece * PIECE;
        if (at >= columns) continue;
        f32 w[PIECE];
        w_piece(row + at * BYTES, share.whole, columns - at, w);
        for (u32 j = 0; j < ROWS; j++) {
            if (j >= share.count) continue;
            u32 lead = lead_of(x_at(p, share.x + u64(j) * p.x_row + from));
            f32 x[PIECE];
            x_piece(stage + PLACES * W_SLOT + j * X_SLOT + lead + at * 4, share.whole, columns - at, x);
            sums[j] = piece_sum(w, x, sums[j]);
        }
    }
}

// Sums of `count` rows of x that begin at number `x`, which are rows of the value from `out` on.
DEVICE void few(const Params &p, const Matrix &matrix, u64 x, u32 count, u64 out) {
    LAUNCH_SHARED(u8, stages);
    SHARED(f32, parts, WARPS * PLACES * ROWS);
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
    for (u32 j = 0; j < ROWS; j++) {
        f32 sum = four_sum(sums[j], lane);
        if (lane % 4 == 0) parts[(warp * ROWS + j) * PLACES + lane / 4] = sum;
    }
    block_sync();
    u32 j = threadIdx.x / PLACES, n = matrix.first + threadIdx.x % PLACES;
    if (j >= count || n >= p.rows) return;
    f32 total = 0.0f;
    for (u32 w = 0; w * each < p.cols; w++) total += parts[w * PLACES * ROWS + threadIdx.x];
    put(p, total, matrix.bias + n, out + u64(j) * p.out_row + n);
}
