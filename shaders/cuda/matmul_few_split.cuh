// Few rows of values that are cut: a block takes sixteen rows of the weight, a warp of it a segment. Each warp brings what it
// needs by itself, two chunks ahead, and holds sums as tensor cores leave them.

#pragma once

#include "matmul_split.cuh"

constexpr u32 PLACES = 16;
constexpr u32 STAGES = 2;
constexpr u32 STAGE = PLACES * W_SLOT + ROWS * X_SLOT;
constexpr u32 SHARED_BYTES = STAGES * STAGE;

// What a warp sums: `count` rows of x that begin at number `x`, in columns up to `end`.
struct Share {
    const Params &p;
    const Matrix &matrix;
    u64 x;
    u32 count;
    u32 end;
    bool whole;
};

// Begins to bring the chunk from column `from` on: four lanes a row.
DEVICE void bring(const Share &share, u8 *stage, u32 from, u32 lane) {
    u32 columns = columns_of_chunk(from, share.end), j = lane / 4;
#pragma unroll
    for (u32 i = 0; i < PLACES; i += 8) {
        const u8 *row = row_of(share.p, share.matrix, i + j) + u64(from) * BYTES;
        copy_fourth<W_WORDS>(stage + (i + j) * W_SLOT, row, columns * BYTES, lane % 4);
    }
    if (j < share.count) {
        const u8 *x = x_at(share.p, share.x + u64(j) * share.p.x_row + from);
        copy_fourth<X_WORDS>(stage + PLACES * W_SLOT + j * X_SLOT, x, columns * 4, lane % 4);
    }
    copies_mark();
}

// Two numbers of the weight: of a whole word, or those of them that are before the end, and zeros.
DEVICE Pair w_pair(const u8 *from, bool whole, u32 count) {
    const u16 *two = reinterpret_cast<const u16 *>(from);
    if (!whole) return {{count > 0 ? number_of(two[0]) : 0.0f, count > 1 ? number_of(two[1]) : 0.0f}};
    u32 word = *reinterpret_cast<const u32 *>(from);
    return {{number_of(u16(word)), number_of(u16(word >> 16))}};
}

// Two numbers of x, likewise.
DEVICE Pair x_pair(const u8 *from, bool whole, u32 count) {
    const f32 *two = reinterpret_cast<const f32 *>(from);
    if (!whole) return {{count > 0 ? two[0] : 0.0f, count > 1 ? two[1] : 0.0f}};
    TwoWords words = *reinterpret_cast<const TwoWords *>(from);
    return {{from_bits(words.words[0]), from_bits(words.words[1])}};
}

// A lane's rows of a chunk in shared memory, and how many columns there are; whether in whole sixteens, all aligned.
struct Chunk {
    const u8 *w[2];
    const u8 *x;
    u32 columns;
    bool whole;
};

DEVICE Chunk chunk_at(const Share &share, const u8 *stage, u32 from, u32 lane) {
    Chunk chunk;
    for (u32 h = 0; h < 2; h++) {
        u32 i = lane / 4 + 8 * h;
        chunk.w[h] = stage + i * W_SLOT + lead_of(row_of(share.p, share.matrix, i) + u64(from) * BYTES);
    }
    // Where there are fewer rows of x than eight, what stands for the others is one of them.
    u32 j = least_of(lane / 4, share.count - 1);
    chunk.x = stage + PLACES * W_SLOT + j * X_SLOT + lead_of(x_at(share.p, share.x + u64(j) * share.p.x_row + from));
    chunk.columns = columns_of_chunk(from, share.end);
    chunk.whole = share.whole && chunk.columns % 16 == 0;
    return chunk;
}

// Adds sixteen columns of a chunk, of which the lane's first is `at`.
DEVICE void add_columns(const Chunk &chunk, u32 at, f32 (&sums)[4]) {
    u32 a[W_CUTS][4], b[X_CUTS][2], left = chunk.columns < at ? 0 : chunk.columns - at;
    for (u32 h = 0; h < 4; h++) {
        u32 cuts[W_CUTS], on = h / 2 * 8;
        cut(w_pair(chunk.w[h % 2] + (at + on) * BYTES, chunk.whole, left < on ? 0 : left - on), cuts);
        for (u32 k = 0; k < W_CUTS; k++) a[k][h] = cuts[k];
    }
    for (u32 h = 0; h < 2; h++) {
        u32 cuts[X_CUTS], on = h * 8;
        cut(x_pair(chunk.x + (at + on) * 4, chunk.whole, left < on ? 0 : left - on), cuts);
        for (u32 c = 0; c < X_CUTS; c++) b[c][h] = cuts[c];
    }
    add_cuts(a, b, sums);
}

// Sums a warp's segment, from column `from` on.
DEVICE void sum_share(const Share &share, u8 *stages, u32 from, u32 lane, f32 (&sums)[4]) {
    for (u32 s = 0; s < STAGES; s++) bring(share, stages + s * STAGE, from + s * CHUNK, lane);
    for (u32 s = 0; from < share.end; s = (s + 1) % STAGES) {
        u8 *stage = stages + s * STAGE;
        copies_wait<STAGES - 1>();
        warp_sync();
        Chunk chunk = chunk_at(share, stage, from, lane);
        if (chunk.whole && chunk.columns == CHUNK) {
#pragma unroll 2
            for (u32 at = 0; at < CHUNK; at += 16) add_columns(chunk, at + lane % 4 * 2, sums);
        } else {
#pragma unroll 1
            for (u32 at = 0; at < chunk.columns; at += 16) add_columns(chunk, at + lane % 4 * 2, sums);
        }
        warp_sync();
        bring(share, stage, from + STAGES * CHUNK, lane);
        from += CHUNK;
    }
}

// Sums of `count` rows of x that begin at number `x`, which are rows of the value from `out` on.
DEVICE void few(const Params &p, const Matrix &matrix, u64 x, u32 count, u64 out) {
    LAUNCH_SHARED(u8, stages);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, each = segment_runs(p.cols) * 32;
    u32 from = least_of(warp * each, p.cols);
    Share share = {p, matrix, x, count, least_of(from + each, p.cols), in_words(p)};
    f32 sums[4] = {};
    sum_share(share, stages + warp * STAGES * STAGE, from, lane, sums);
    // Stages have been read.
    block_sync();
    f32 *parts = reinterpret_cast<f32 *>(stages);
    for (u32 k = 0; k < 4; k++) {
        u32 j = lane % 4 * 2 + k % 2;
        if (j < ROWS) parts[(warp * ROWS + j) * PLACES + lane / 4 + k / 2 * 8] = sums[k];
    }
    block_sync();
    for (u32 i = threadIdx.x; i < count * PLACES; i += blockDim.x) {
        u32 n = matrix.first + i % PLACES;
        f32 total = 0.0f;
        for (u32 s = 0; s * each < p.cols; s++) total += parts[s * ROWS * PLACES + i];
        if (n < p.rows) put(p, total, matrix.bias + n, out + u64(i / PLACES) * p.out_row + n);
    }
}
