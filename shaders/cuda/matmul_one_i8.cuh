// One row in signed bytes: a block takes sixteen rows of the weight, a warp of it a segment. Each warp brings what it
// needs by itself, two chunks ahead. The columns of tensor cores are the runs of a chunk: a lane has the products of
// two runs, and what becomes of them goes around its four lanes in order.

#pragma once

#include "matmul_i8.cuh"

constexpr u32 PLACES = 16;
constexpr u32 STAGES = TENSOR_CORES ? 2 : 1;
// Bytes of a stage: chunks of the weight, the codes of x, their scales.
constexpr u32 X_AT = PLACES * W_SLOT, SCALES_AT = X_AT + CHUNK * 32, STAGE = SCALES_AT + CHUNK * 8;
constexpr u32 SHARED_BYTES = STAGES * STAGE;

// What a lane of a warp reads: its two rows of the weight, codes of x and their scales. Runs end at `end`.
struct Share {
    const u8 *w[2];
    const u8 *x;
    const u32 *scales;
    u32 end;
};

// Begins to bring the chunk from `run` on: four lanes a row of the weight, half of all x, half of them its scales.
DEVICE void bring(const Share &share, u8 *stage, u32 run, u32 lane) {
    if (run < share.end) {
        u32 runs = BLOCK_RUNS == CHUNK ? CHUNK : least_of(CHUNK, share.end - run), own = lane % 16;
        for (u32 h = 0; h < 2; h++) {
            u8 *slot = stage + (lane / 4 + 8 * h) * W_SLOT;
            copy_fourth<W_WORDS>(slot, share.w[h] + bytes_of_runs(run), bytes_of_runs(runs), lane % 4);
        }
        copy16_if(own < 2 * runs && lane < 16, stage + X_AT + own * 16, share.x + run * 32 + own * 16);
        copy4_if(own < 2 * runs && lane >= 16, stage + SCALES_AT + own * 4, share.scales + run * 2 + own);
    }
    copies_mark();
}

// Scales and sums of two runs of x.
struct alignas(16) Two {
    u32 words[4];
};

// What a lane has of a chunk: of its two rows of the weight the sums of two runs, but for the scales of x.
DEVICE void sum_runs(const u8 *stage, const u8 *const (&w)[2], u32 lane, f32 (&values)[2][2]) {
    u32 t = lane % 4, column = lane / 4;
    const u32 *x = reinterpret_cast<const u32 *>(stage + X_AT) + column % CHUNK * 8 + t;
    u32 own[2] = {x[0], x[4]};
    i32 d[HALF_COUNT][4] = {};
#pragma unroll
    for (u32 r = 0; r < CHUNK; r++) {
        u32 a[4];
        for (u32 h = 0; h < 2; h++) chunk_codes(w[h], r, t, a[h], a[h + 2]);
        add_products(d, a, {column == r ? own[0] : 0, column == r ? own[1] : 0});
    }
    Two two = reinterpret_cast<const Two *>(stage + SCALES_AT)[t % (CHUNK / 2)];
    for (u32 c = 0; c < 2; c++) {
        f32 of_x[X_PARTS];
        x_scales(two.words[2 * c], two.words[2 * c + 1], of_x);
        for (u32 h = 0; h < 2; h++) {
            f32 of_w[W_PARTS];
            chunk_scales(w[h], (2 * t + c) % CHUNK, of_w);
            i32 dots[HALF_COUNT];
            for (u32 k = 0; k < HALF_COUNT; k++) dots[k] = d[k][2 * h + c];
            values[h][c] = run_value(dots, of_w, of_x);
        }
    }
}

// Adds the first runs of a chunk, so many if there are, to the sums of two rows of the weight, which four lanes have alike.
DEVICE void add_chunk(const u8 *stage, const u8 *const (&w)[2], u32 runs, u32 lane, f32 (&sums)[2]) {
    f32 values[2][2];
    sum_runs(stage, w, lane, values);
#pragma unroll
    for (u32 r = 0; r < CHUNK; r++) {
        f32 scale = from_bits(reinterpret_cast<const Two *>(stage + SCALES_AT)[r / 2].words[r % 2 * 2]);
        for (u32 h = 0; h < 2; h++) {
            f32 sum = fmaf(scale, warp_take(values[h][r % 2], (lane & 28) + r / 2), sums[h]);
            sums[h] = BLOCK_RUNS == CHUNK || r < runs ? sum : sums[h];
        }
    }
}

// Sums a warp's segment, from `run` on.
DEVICE void sum_share(const Share &share, u8 *stages, u32 run, u32 lane, f32 (&sums)[2]) {
    for (u32 s = 0; s < STAGES; s++) bring(share, stages + s * STAGE, run + s * CHUNK, lane);
    for (u32 s = 0; run < share.end; s = (s + 1) % STAGES) {
        u8 *stage = stages + s * STAGE;
        copies_wait<STAGES - 1>();
        warp_sync();
        const u8 *w[2];
        for (u32 h = 0; h < 2; h++) {
            w[h] = stage + (lane / 4 + 8 * h) * W_SLOT + lead_of(share.w[h] + bytes_of_runs(run));
        }
        add_chunk(stage, w, share.end - run, lane, sums);
        warp_sync();
        bring(share, stage, run + STAGES * CHUNK, lane);
        run += CHUNK;
    }
}

// Sums of the row of x that begins at number `x`, which are those of the value from `out` on.
DEVICE void few(const Params &p, const Matrix &matrix, u64 x, u32, u64 out) {
    LAUNCH_SHARED(u8, stages);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 runs = p.cols / 32, each = segment_runs(p.cols), from = least_of(warp * each, runs);
    Share share = {{row_of(p, matrix, lane / 4), row_of(p, matrix, lane / 4 + 8)},
                   static_cast<const u8 *>(p.x) + x, p.scales + x / 32 * 2, least_of(from + each, runs)};
    f32 sums[2] = {};
    sum_share(share, stages + warp * STAGES * STAGE, from, lane, sums);
    // Stages have been read.
    block_sync();
    f32 *parts = reinterpret_cast<f32 *>(stages);
    if (lane % 4 < 2) parts[warp * PLACES + lane / 4 + lane % 4 * 8] = lane % 4 == 0 ? sums[0] : sums[1];
    block_sync();
    u32 n = matrix.first + threadIdx.x;
    if (threadIdx.x >= PLACES || n >= p.rows) return;
    f32 total = 0.0f;
    for (u32 s = 0; s * each < runs; s++) total += parts[s * PLACES + threadIdx.x];
    put(p, total, matrix.bias + n, out + n);
}
