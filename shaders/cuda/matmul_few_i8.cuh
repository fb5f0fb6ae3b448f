// Few rows in signed bytes: a block takes sixteen rows of the weight, a warp of it a segment. Each warp brings what it
// needs by itself, two chunks ahead, and holds sums as tensor cores leave them.

#pragma once

#include "matmul_i8.cuh"

constexpr u32 PLACES = 16;
constexpr u32 STAGES = 2;
// Sums of a lane: of rows of the weight `lane / 4` and eight on, each with so many of x.
constexpr u32 ACROSS = ROWS == 1 ? 1 : 2;
constexpr u32 X_SLOT = CHUNK * 32 + 16;
constexpr u32 SCALE_WORDS = words_around(CHUNK * 8, 8);
constexpr u32 SCALE_SLOT = SCALE_WORDS * 16;
constexpr u32 STAGE = PLACES * W_SLOT + ROWS * (X_SLOT + SCALE_SLOT);
constexpr u32 SHARED_BYTES = WARPS * STAGES * STAGE;

// What a warp sums: `count` rows of x that begin at number `x`, in runs up to `end`.
struct Share {
    Matrix matrix;
    u64 x;
    u32 count;
    u32 end;
};

DEVICE u32 runs_of_chunk(const Share &share, u32 run) {
    return run < share.end ? least_of(CHUNK, share.end - run) : 0;
}

DEVICE const u8 *codes_of(const Params &p, const Share &share, u32 j, u32 run) {
    return static_cast<const u8 *>(p.x) + share.x + u64(j) * p.x_row + run * 32;
}

DEVICE const u8 *scales_of(const Params &p, const Share &share, u32 j, u32 run) {
    return reinterpret_cast<const u8 *>(p.scales + ((share.x + u64(j) * p.x_row) / 32 + run) * 2);
}

// Begins to bring the chunk from `run` on.
DEVICE void bring(const Params &p, const Share &share, u8 *stage, u32 run, u32 lane) {
    u32 runs = runs_of_chunk(share, run);
    for (u32 i = lane; i < PLACES * W_WORDS; i += 32) {
        const u8 *from = row_of(p, share.matrix, i / W_WORDS) + bytes_of_runs(run);
        copy_around(stage + i / W_WORDS * W_SLOT, from, bytes_of_runs(runs), i % W_WORDS);
    }
    u8 *x = stage + PLACES * W_SLOT;
    for (u32 i = lane; i < share.count * 2 * CHUNK; i += 32) {
        u32 j = i / (2 * CHUNK), word = i % (2 * CHUNK);
        copy_around(x + j * X_SLOT, codes_of(p, share, j, run), runs * 32, word);
    }
    u8 *of_x = x + ROWS * X_SLOT;
    for (u32 i = lane; i < share.count * SCALE_WORDS; i += 32) {
        u32 j = i / SCALE_WORDS;
        copy_around(of_x + j * SCALE_SLOT, scales_of(p, share, j, run), runs * 8, i % SCALE_WORDS);
    }
    copies_mark();
}

// A chunk in shared memory, as a lane sees it.
struct Chunk {
    // Its two rows of the weight.
    const u8 *w[2];
    // Its row of x for products, and the scales of those that its sums are of.
    const u8 *x;
    const u32 *scales[ACROSS];
};

DEVICE Chunk chunk_at(const Params &p, const Share &share, const u8 *stage, u32 run, u32 lane) {
    Chunk chunk;
    for (u32 h = 0; h < 2; h++) {
        u32 i = lane / 4 + 8 * h;
        chunk.w[h] = stage + i * W_SLOT + lead_of(row_of(p, share.matrix, i) + bytes_of_runs(run));
    }
    const u8 *x = stage + PLACES * W_SLOT;
    // Where there are fewer rows of x than eight, what stands for the others is one of them.
    chunk.x = x + least_of(lane / 4, share.count - 1) * X_SLOT;
    for (u32 c = 0; c < ACROSS; c++) {
        u32 j = ACROSS == 1 ? 0 : least_of(lane % 4 * 2 + c, share.count - 1);
        const u8 *of_x = x + ROWS * X_SLOT + j * SCALE_SLOT + lead_of(scales_of(p, share, j, run));
        chunk.scales[c] = reinterpret_cast<const u32 *>(of_x);
    }
    return chunk;
}

// Scales of a lane's two rows of the weight: each lane of four makes those of every fourth run for all four.
struct Made {
    f32 of[2][CHUNK / 4][W_PARTS];
};

DEVICE Made make_scales(const Chunk &chunk, u32 lane) {
    Made made;
    for (u32 h = 0; h < 2; h++) {
        for (u32 q = 0; q < CHUNK / 4; q++) chunk_scales(chunk.w[h], 4 * q + lane % 4, made.of[h][q]);
    }
    return made;
}

// Adds run `r` of a chunk.
DEVICE void add_run(const Chunk &chunk, const Made &made, u32 r, u32 lane, f32 (&sums)[2][ACROSS]) {
    u32 a[4], b[2];
    for (u32 h = 0; h < 2; h++) chunk_codes(chunk.w[h], r, lane % 4, a[h], a[h + 2]);
    const u32 *x = reinterpret_cast<const u32 *>(chunk.x + r * 32);
    for (u32 h = 0; h < 2; h++) b[h] = x[lane % 4 + 4 * h];
    i32 d[HALF_COUNT][4];
    products(d, a, b);
    f32 of_x[ACROSS][X_PARTS];
    for (u32 c = 0; c < ACROSS; c++) x_scales(chunk.scales[c][2 * r], chunk.scales[c][2 * r + 1], of_x[c]);
    for (u32 h = 0; h < 2; h++) {
        f32 of_w[W_PARTS];
        for (u32 k = 0; k < W_PARTS; k++) of_w[k] = warp_take(made.of[h][r / 4][k], (lane & 28) + r % 4);
        for (u32 c = 0; c < ACROSS; c++) {
            i32 dots[HALF_COUNT];
            for (u32 k = 0; k < HALF_COUNT; k++) dots[k] = d[k][2 * h + c];
            sums[h][c] = scaled(dots, of_w, of_x[c], sums[h][c]);
        }
    }
}

// Sums a warp's share, from run `from` on.
DEVICE void sum_share(const Params &p, const Share &share, u8 *stages, u32 from, u32 lane, f32 (&sums)[2][ACROSS]) {
    for (u32 s = 0; s < STAGES; s++) bring(p, share, stages + s * STAGE, from + s * CHUNK, lane);
    u32 s = 0;
    for (u32 run = from; run < share.end; run += CHUNK) {
        copies_wait<STAGES - 1>();
        warp_sync();
        Chunk chunk = chunk_at(p, share, stages + s * STAGE, run, lane);
        Made made = make_scales(chunk, lane);
        u32 runs = runs_of_chunk(share, run);
#pragma unroll
        for (u32 r = 0; r < CHUNK; r++) {
            if (r < runs) add_run(chunk, made, r, lane, sums);
        }
        warp_sync();
        bring(p, share, stages + s * STAGE, run + STAGES * CHUNK, lane);
        s = (s + 1) % STAGES;
    }
}

// Sums of `count` rows of x that begin at number `x`, which are rows of the value from `out` on.
DEVICE void few(const Params &p, const Matrix &matrix, u64 x, u32 count, u64 out) {
    LAUNCH_SHARED(u8, stages);
    SHARED(f32, parts, WARPS * PLACES * ROWS);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 runs = p.cols / 32, each = segment_runs(p.cols);
    u32 from = least_of(warp * each, runs);
    Share share = {matrix, x, count, least_of(from + each, runs)};
    f32 sums[2][ACROSS] = {};
    sum_share(p, share, stages + warp * STAGES * STAGE, from, lane, sums);
    for (u32 h = 0; h < 2; h++) {
        for (u32 c = 0; c < ACROSS; c++) {
            u32 j = ACROSS == 1 ? 0 : lane % 4 * 2 + c;
            if (j < ROWS) parts[(warp * ROWS + j) * PLACES + lane / 4 + 8 * h] = sums[h][c];
        }
    }
    block_sync();
    u32 j = threadIdx.x / PLACES, n = matrix.first + threadIdx.x % PLACES;
    if (j >= count || n >= p.rows) return;
    f32 total = 0.0f;
    for (u32 s = 0; s * each < runs; s++) total += parts[s * PLACES * ROWS + threadIdx.x];
    put(p, total, matrix.bias + n, out + u64(j) * p.out_row + n);
}
