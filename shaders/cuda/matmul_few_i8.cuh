// Several rows in signed bytes: a block takes PLACES rows of the weight, a warp of it a segment. Each warp brings what it
// needs by itself, ahead where there is room, and holds sums as tensor cores leave them.

#pragma once

#include "matmul_i8.cuh"

// Sixteens of rows of the weight, and eights of x.
constexpr u32 SIXTEENS = ROWS > 16 ? 2 : 1, EIGHTS = ROWS / 8;
constexpr u32 PLACES = SIXTEENS * 16;
constexpr u32 X_SLOT = CHUNK * 32 + 16, SCALE_SLOT = CHUNK * 8 + 8;
// Bytes of a stage: chunks of the weight, the codes of x, their scales.
constexpr u32 X_AT = PLACES * W_SLOT, SCALES_AT = X_AT + ROWS * X_SLOT, STAGE = SCALES_AT + ROWS * SCALE_SLOT;
// Two where a multiprocessor of the smallest shared memory has room for them.
constexpr u32 STAGES = TENSOR_CORES && 2 * SEGMENTS * STAGE <= 97280 ? 2 : 1;
constexpr u32 SHARED_BYTES = STAGES * STAGE;

// What a warp sums: `count` rows of x that begin at number `x`, in runs up to `end`.
struct Share {
    const Params &p;
    const Matrix &matrix;
    u64 x;
    u32 count;
    u32 end;
};

// Begins to bring the chunk from `run` on: four lanes a row.
DEVICE void bring(const Share &share, u8 *stage, u32 run, u32 lane) {
    if (run < share.end) {
        u32 runs = BLOCK_RUNS == CHUNK ? CHUNK : least_of(CHUNK, share.end - run), t = lane % 4;
#pragma unroll
        for (u32 i = 0; i < PLACES; i += 8) {
            const u8 *from = row_of(share.p, share.matrix, i + lane / 4) + bytes_of_runs(run);
            copy_fourth<W_WORDS>(stage + (i + lane / 4) * W_SLOT, from, bytes_of_runs(runs), t);
        }
        for (u32 j = lane / 4; j < share.count; j += 8) {
            u64 x = share.x + u64(j) * share.p.x_row + run * 32;
            copy_fourth<CHUNK * 2>(stage + X_AT + j * X_SLOT, static_cast<const u8 *>(share.p.x) + x, runs * 32, t);
#pragma unroll
            for (u32 k = 0; k < CHUNK * 2; k += 4) {
                u8 *to = stage + SCALES_AT + j * SCALE_SLOT + (k + t) * 4;
                copy4_if(k + t < runs * 2, to, share.p.scales + x / 32 * 2 + k + t);
            }
        }
    }
    copies_mark();
}

// A chunk in shared memory, as a lane sees it: its rows of the weight, eight from one to the next, its words of its rows of
// x for products, and the scales of the two rows of x of every eight that its sums are of.
struct Chunk {
    const u8 *w[PLACES / 8];
    const u32 *x;
    const u32 *scales;
};

DEVICE Chunk chunk_at(const Share &share, const u8 *stage, u32 run, u32 lane) {
    Chunk chunk;
    for (u32 h = 0; h < PLACES / 8; h++) {
        u32 i = lane / 4 + 8 * h;
        chunk.w[h] = stage + i * W_SLOT + lead_of(row_of(share.p, share.matrix, i) + bytes_of_runs(run));
    }
    chunk.x = reinterpret_cast<const u32 *>(stage + X_AT + lane / 4 * X_SLOT) + lane % 4;
    chunk.scales = reinterpret_cast<const u32 *>(stage + SCALES_AT + lane % 4 * 2 * SCALE_SLOT);
    return chunk;
}

// Scales of a lane's rows of the weight: each lane of four makes those of one of four runs for all four.
struct Made {
    f32 of[PLACES / 8][W_PARTS];
};

// Scales and sums of a run of x.
struct alignas(8) Two {
    u32 words[2];
};

struct Sums {
    f32 of[SIXTEENS][EIGHTS][4];
};

// Adds run `r` of a chunk, if it is there, of eight rows of x, to the sums of sixteen rows of the weight.
DEVICE void add_eight(const u32 (&a)[4], const f32 (&of_w)[2][W_PARTS], const Chunk &chunk, u32 eight, u32 r, bool there,
                      f32 (&sums)[4]) {
    const u32 *x = chunk.x + eight * 2 * X_SLOT + r * 8;
    i32 d[HALF_COUNT][4] = {};
    add_products(d, a, {x[0], x[4]});
    for (u32 c = 0; c < 2; c++) {
        Two two = *reinterpret_cast<const Two *>(chunk.scales + (eight * 8 + c) * (SCALE_SLOT / 4) + 2 * r);
        f32 of_x[X_PARTS];
        x_scales(two.words[0], two.words[1], of_x);
        for (u32 h = 0; h < 2; h++) {
            i32 dots[HALF_COUNT];
            for (u32 k = 0; k < HALF_COUNT; k++) dots[k] = d[k][2 * h + c];
            f32 sum = scaled(dots, of_w[h], of_x, sums[2 * h + c]);
            sums[2 * h + c] = there ? sum : sums[2 * h + c];
        }
    }
}

// Adds run `r` of a chunk, if it is there.
DEVICE void add_run(const Chunk &chunk, const Made &made, u32 r, bool there, u32 lane, Sums &sums) {
#pragma unroll
    for (u32 i = 0; i < SIXTEENS; i++) {
        u32 a[4];
        f32 of_w[2][W_PARTS];
        for (u32 h = 0; h < 2; h++) {
            chunk_codes(chunk.w[2 * i + h], r, lane % 4, a[h], a[h + 2]);
            for (u32 k = 0; k < W_PARTS; k++) of_w[h][k] = warp_take(made.of[2 * i + h][k], (lane & 28) + r % 4);
        }
#pragma unroll
        for (u32 e = 0; e < EIGHTS; e++) add_eight(a, of_w, chunk, e, r, there, sums.of[i][e]);
    }
}

// Adds the first runs of a chunk, so many if there are.
DEVICE void add_chunk(const Chunk &chunk, u32 runs, u32 lane, Sums &sums) {
#pragma unroll(ROWS > 8 ? 1 : CHUNK / 4)
    for (u32 first = 0; first < CHUNK; first += 4) {
        Made made;
        for (u32 h = 0; h < PLACES / 8; h++) chunk_scales(chunk.w[h], first + lane % 4, made.of[h]);
#pragma unroll(ROWS > 16 ? 2 : 4)
        for (u32 r = 0; r < 4; r++) {
            add_run(chunk, made, first + r, BLOCK_RUNS == CHUNK || first + r < runs, lane, sums);
        }
    }
}

// Sums a warp's segment, from `run` on.
DEVICE void sum_share(const Share &share, u8 *stages, u32 run, u32 lane, Sums &sums) {
    for (u32 s = 0; s < STAGES; s++) bring(share, stages + s * STAGE, run + s * CHUNK, lane);
    for (u32 s = 0; run < share.end; s = (s + 1) % STAGES) {
        u8 *stage = stages + s * STAGE;
        copies_wait<STAGES - 1>();
        warp_sync();
        add_chunk(chunk_at(share, stage, run, lane), share.end - run, lane, sums);
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
    Share share = {p, matrix, x, count, least_of(from + each, runs)};
    Sums sums = {};
    sum_share(share, stages + warp * STAGES * STAGE, from, lane, sums);
    // Stages have been read.
    block_sync();
    f32 *parts = reinterpret_cast<f32 *>(stages);
    for (u32 k = 0; k < SIXTEENS * EIGHTS * 4; k++) {
        u32 i = k / 4 / EIGHTS * 16 + k % 4 / 2 * 8 + lane / 4, j = k / 4 % EIGHTS * 8 + lane % 4 * 2 + k % 2;
        parts[(warp * ROWS + j) * PLACES + i] = sums.of[k / 4 / EIGHTS][k / 4 % EIGHTS][k % 4];
    }
    block_sync();
    for (u32 i = threadIdx.x; i < count * PLACES; i += blockDim.x) {
        u32 n = matrix.first + i % PLACES;
        f32 total = 0.0f;
        for (u32 s = 0; s * each < runs; s++) total += parts[s * ROWS * PLACES + i];
        if (n < p.rows) put(p, total, matrix.bias + n, out + u64(i / PLACES) * p.out_row + n);
    }
}
