// Few rows in signed bytes: a block takes sixteen rows of the weight, a warp of it a segment. Each warp brings what it
// needs by itself, two chunks ahead, and holds sums as tensor cores leave them.

#pragma once

#include "machine.cuh"

constexpr u32 LARGEST_CHUNK = 240;

#include "matmul_i8.cuh"

constexpr u32 PLACES = 16;
constexpr u32 X_SLOT = CHUNK * 32 + 16, SCALE_SLOT = CHUNK * 8;
// Bytes of a stage: chunks of the weight, the codes of x, their scales.
constexpr u32 X_AT = PLACES * W_SLOT, SCALES_AT = X_AT + ROWS * X_SLOT, STAGE = SCALES_AT + ROWS * SCALE_SLOT;
// Two where a multiprocessor of the smallest shared memory has room for them.
constexpr u32 STAGES = TENSOR_CORES && 2 * SEGMENTS * STAGE <= 97280 ? 2 : 1;
constexpr u32 SHARED_BYTES = STAGES * STAGE;

// What a lane of a warp reads: its two rows of the weight, the codes and the scales of its row of x. Runs end at `end`.
struct Share {
    const u8 *w[2];
    const u8 *x;
    const u32 *scales;
    bool has_x;
    u32 end;
};

// Begins to bring the chunk from `run` on: four lanes a row.
DEVICE void bring(const Share &share, u8 *stage, u32 run, u32 lane) {
    if (run < share.end) {
        u32 runs = BLOCK_RUNS == CHUNK ? CHUNK : least_of(CHUNK, share.end - run), j = lane / 4, t = lane % 4;
        for (u32 h = 0; h < 2; h++) {
            u8 *slot = stage + (j + 8 * h) * W_SLOT;
            copy_fourth<W_WORDS>(slot, share.w[h] + bytes_of_runs(run), bytes_of_runs(runs), t);
        }
        if (share.has_x) {
            copy_fourth<CHUNK * 2>(stage + X_AT + j * X_SLOT, share.x + run * 32, runs * 32, t);
#pragma unroll
            for (u32 k = t; k < CHUNK * 2; k += 4) {
                if (k < runs * 2) copy4(stage + SCALES_AT + j * SCALE_SLOT + k * 4, share.scales + run * 2 + k);
            }
        }
    }
    copies_mark();
}

// A chunk in shared memory, as a lane sees it: its two rows of the weight, its words of its row of x for products, and
// the scales of the two rows of x that its sums are of.
struct Chunk {
    const u8 *w[2];
    const u32 *x;
    const u32 *scales;
};

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

// Scales and sums of a run of x.
struct alignas(8) Two {
    u32 words[2];
};

// Adds run `r` of a chunk, if it is there.
DEVICE void add_run(const Chunk &chunk, const Made &made, u32 r, bool there, u32 lane, f32 (&sums)[2][2]) {
    u32 a[4];
    for (u32 h = 0; h < 2; h++) chunk_codes(chunk.w[h], r, lane % 4, a[h], a[h + 2]);
    i32 d[HALF_COUNT][4] = {};
    add_products(d, a, {chunk.x[r * 8], chunk.x[r * 8 + 4]});
    f32 of_x[2][X_PARTS];
    for (u32 c = 0; c < 2; c++) {
        Two two = reinterpret_cast<const Two *>(chunk.scales)[c * CHUNK + r];
        x_scales(two.words[0], two.words[1], of_x[c]);
    }
    for (u32 h = 0; h < 2; h++) {
        f32 of_w[W_PARTS];
        for (u32 k = 0; k < W_PARTS; k++) of_w[k] = warp_take(made.of[h][r / 4][k], (lane & 28) + r % 4);
        for (u32 c = 0; c < 2; c++) {
            i32 dots[HALF_COUNT];
            for (u32 k = 0; k < HALF_COUNT; k++) dots[k] = d[k][2 * h + c];
            f32 sum = scaled(dots, of_w, of_x[c], sums[h][c]);
            sums[h][c] = there ? sum : sums[h][c];
        }
    }
}

// Sums a warp's segment, from `run` on.
DEVICE void sum_share(const Share &share, u8 *stages, u32 run, u32 lane, f32 (&sums)[2][2]) {
    for (u32 s = 0; s < STAGES; s++) bring(share, stages + s * STAGE, run + s * CHUNK, lane);
    for (u32 s = 0; run < share.end; s = (s + 1) % STAGES) {
        u8 *stage = stages + s * STAGE;
        copies_wait<STAGES - 1>();
        warp_sync();
        Chunk chunk;
        for (u32 h = 0; h < 2; h++) {
            chunk.w[h] = stage + (lane / 4 + 8 * h) * W_SLOT + lead_of(share.w[h] + bytes_of_runs(run));
        }
        chunk.x = reinterpret_cast<const u32 *>(stage + X_AT + lane / 4 * X_SLOT) + lane % 4;
        chunk.scales = reinterpret_cast<const u32 *>(stage + SCALES_AT + lane % 4 * 2 * SCALE_SLOT);
        Made made = make_scales(chunk, lane);
#pragma unroll
        for (u32 r = 0; r < CHUNK; r++) {
            add_run(chunk, made, r, BLOCK_RUNS == CHUNK || r < share.end - run, lane, sums);
        }
        warp_sync();
        bring(share, stage, run + STAGES * CHUNK, lane);
        run += CHUNK;
    }
}

// Sums of `count` rows of x that begin at number `x`, which are rows of the value from `out` on. Where there are fewer rows
// than ROWS, sums of the others are of what happens to be there, and left out.
DEVICE void few(const Params &p, const Matrix &matrix, u64 x, u32 count, u64 out) {
    LAUNCH_SHARED(u8, stages);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 runs = p.cols / 32, each = segment_runs(p.cols), from = least_of(warp * each, runs);
    u64 own = x + u64(least_of(lane / 4, count - 1)) * p.x_row;
    Share share = {{row_of(p, matrix, lane / 4), row_of(p, matrix, lane / 4 + 8)},
                   static_cast<const u8 *>(p.x) + own, p.scales + own / 32 * 2, lane / 4 < count, least_of(from + each, runs)};
    f32 sums[2][2] = {};
    sum_share(share, stages + warp * STAGES * STAGE, from, lane, sums);
    // Stages have been read.
    block_sync();
    f32 *parts = reinterpret_cast<f32 *>(stages);
    for (u32 i = 0; i < 4; i++) {
        parts[(warp * ROWS + lane % 4 * 2 + i % 2) * PLACES + lane / 4 + i / 2 * 8] = sums[i / 2][i % 2];
    }
    block_sync();
    for (u32 i = threadIdx.x; i < count * PLACES; i += blockDim.x) {
        u32 n = matrix.first + i % PLACES;
        f32 total = 0.0f;
        for (u32 s = 0; s * each < runs; s++) total += parts[s * ROWS * PLACES + i];
        if (n < p.rows) put(p, total, matrix.bias + n, out + u64(i / PLACES) * p.out_row + n);
    }
}
