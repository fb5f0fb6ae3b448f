// Tiles in signed bytes: a block takes WEIGHTS rows of the weight and TILE of x, of which each warp takes a part in tensor
// cores. A chunk of the weight's bytes is brought ahead and decoded to signed bytes, a step of four runs at a time.

#pragma once

#include "machine.cuh"

constexpr u32 LARGEST_CHUNK = 240;

#include "matmul_i8.cuh"

constexpr u32 THREADS = 256, WARPS = THREADS / 32;
constexpr u32 WEIGHTS = 128;
// Runs of a step, and bytes from a row of them to the next: an odd number of words.
constexpr u32 STEP = 4, LINE = STEP * 32 + 16;
// Warps along the weight and along x, and sixteens and eights of rows of a warp's part.
constexpr u32 WIDE = 4, HIGH = WARPS / WIDE;
constexpr u32 SIXTEENS = WEIGHTS / WIDE / 16, EIGHTS = TILE / HIGH / 8;

// Shared memory: a chunk of the weight, a step of it in signed bytes, two steps of x, scales of both by their runs.
struct Shared {
    u8 chunk[WEIGHTS * W_SLOT];
    u8 w[WEIGHTS * LINE];
    u8 x[2][TILE * LINE];
    f32 of_w[W_PARTS][STEP][WEIGHTS];
    f32 of_x[X_PARTS][STEP][TILE];
};

constexpr u32 SHARED_BYTES = sizeof(Shared);

// Numbers of x and of the value where rows of the tile begin.
struct Places {
    u64 x[TILE];
    u64 out[TILE];
};

// Sums of a lane: for each product of tensor cores its four.
struct Sums {
    f32 of[SIXTEENS][EIGHTS][4];
};

// A step: runs `run` to `run + count` of the segment that begins at `segment`.
struct Step {
    u32 run;
    u32 count;
    u32 segment;
};

DEVICE Step step_at(u32 run, u32 each, u32 runs) {
    u32 segment = run / each * each;
    return {run, least_of(STEP, least_of(segment + each, runs) - run), segment};
}

// Where a step's chunk begins.
DEVICE u32 chunk_of(const Step &step) {
    return step.run - (step.run - step.segment) % CHUNK;
}

// Begins to bring the chunk that a step is the first of.
DEVICE void bring_chunk(const Params &p, const Matrix &matrix, Shared &s, const Step &step, u32 each, u32 runs) {
    u32 bytes = bytes_of_runs(least_of(CHUNK, least_of(step.segment + each, runs) - step.run));
    for (u32 i = threadIdx.x / 4; i < WEIGHTS; i += THREADS / 4) {
        const u8 *from = row_of(p, matrix, i) + bytes_of_runs(step.run);
        copy_fourth<W_WORDS>(s.chunk + i * W_SLOT, from, bytes, threadIdx.x % 4);
    }
}

// Begins to bring a step of x.
DEVICE void bring_x(const Params &p, const Places &places, u8 *to, const Step &step) {
    for (u32 i = threadIdx.x; i < TILE * 2 * STEP; i += THREADS) {
        u32 j = i / (2 * STEP), word = i % (2 * STEP);
        const u8 *from = static_cast<const u8 *>(p.x) + places.x[j] + step.run * 32;
        if (word < 2 * step.count) copy16(to + j * LINE + word * 16, from + word * 16);
    }
}

// Of the run of a step and the row of x that a thread has, the two words of scales.
DEVICE u64 take_x_scales(const Params &p, const Places &places, const Step &step) {
    u32 j = threadIdx.x % TILE, r = threadIdx.x / TILE;
    if (r >= step.count) return 0;
    return *reinterpret_cast<const u64 *>(p.scales + (places.x[j] / 32 + step.run + r) * 2);
}

// Decodes a step: a warp sixteen rows, whose four lanes have the words of a run together and the scales of one each.
DEVICE void decode(const Params &p, const Matrix &matrix, Shared &s, const Step &step, u64 of_x) {
    u32 lane = threadIdx.x % 32, t = lane % 4, first = chunk_of(step);
    for (u32 i = threadIdx.x / 4; i < WEIGHTS; i += THREADS / 4) {
        const u8 *chunk = s.chunk + i * W_SLOT + lead_of(row_of(p, matrix, i) + bytes_of_runs(first));
        u32 *line = reinterpret_cast<u32 *>(s.w + i * LINE);
        u32 before = (step.run - first) / STEP * STEP;
#pragma unroll
        for (u32 r = 0; r < STEP; r++) {
            if (r < step.count) chunk_codes(chunk, before + r, t, line[8 * r + t], line[8 * r + t + 4]);
        }
        f32 of[W_PARTS];
        chunk_scales(chunk, before + t, of);
        for (u32 k = 0; k < W_PARTS; k++) s.of_w[k][t][i] = of[k];
    }
    if (threadIdx.x < TILE * STEP) {
        f32 of[X_PARTS];
        x_scales(u32(of_x), u32(of_x >> 32), of);
        for (u32 k = 0; k < X_PARTS; k++) s.of_x[k][threadIdx.x / TILE][threadIdx.x % TILE] = of[k];
    }
}

// Adds the products of sixteen rows of the weight, from `m` on, with eight of x, from `n` on, in run `r` of a step.
DEVICE void add_sixteen(const u32 (&a)[4], const u32 (&b)[2], const f32 (&of_w)[2][W_PARTS],
                         const f32 (&of_x)[2][X_PARTS], f32 (&sums)[4]) {
    i32 d[HALF_COUNT][4] = {};
    add_products(d, a, b);
    for (u32 i = 0; i < 4; i++) {
        i32 dots[HALF_COUNT];
        for (u32 k = 0; k < HALF_COUNT; k++) dots[k] = d[k][i];
        sums[i] = scaled(dots, of_w[i / 2], of_x[i % 2], sums[i]);
    }
}

// Adds run `r` of a step to the sums of a warp's part.
DEVICE void add_run(const Shared &s, const u8 *x, u32 r, Sums &sums) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 m0 = warp % WIDE * SIXTEENS * 16, n0 = warp / WIDE * EIGHTS * 8;
    u32 a[SIXTEENS][4];
    f32 of_w[SIXTEENS][2][W_PARTS];
#pragma unroll
    for (u32 i = 0; i < SIXTEENS; i++) {
        load_matrices(a[i], s.w + (m0 + 16 * i + lane % 16) * LINE + r * 32 + lane / 16 * 16);
        for (u32 h = 0; h < 2; h++) {
            for (u32 k = 0; k < W_PARTS; k++) of_w[i][h][k] = s.of_w[k][r][m0 + 16 * i + 8 * h + lane / 4];
        }
    }
#pragma unroll
    for (u32 j = 0; j < EIGHTS; j += 2) {
        // Two eights of x: the halves of the first, then those of the second.
        u32 both[4];
        u32 row = EIGHTS == 1 ? lane % 8 : lane / 16 * 8 + lane % 8;
        load_matrices(both, x + (n0 + 8 * j + row) * LINE + r * 32 + lane / 8 % 2 * 16);
#pragma unroll
        for (u32 e = 0; e < 2 && j + e < EIGHTS; e++) {
            f32 of_x[2][X_PARTS];
            for (u32 c = 0; c < 2; c++) {
                for (u32 k = 0; k < X_PARTS; k++) of_x[c][k] = s.of_x[k][r][n0 + 8 * (j + e) + lane % 4 * 2 + c];
            }
            for (u32 i = 0; i < SIXTEENS; i++) {
                add_sixteen(a[i], {both[2 * e], both[2 * e + 1]}, of_w[i], of_x, sums.of[i][j + e]);
            }
        }
    }
}

// Sums of a tile, in the segments' order.
DEVICE void sum_tile(const Params &p, const Matrix &matrix, const Places &places, Shared &s, Sums &totals) {
    u32 runs = p.cols / 32, each = segment_runs(p.cols);
    Step step = step_at(0, each, runs);
    bring_chunk(p, matrix, s, step, each, runs);
    bring_x(p, places, s.x[0], step);
    copies_mark();
    u64 of_x = take_x_scales(p, places, step);
    Sums sums = {};
    for (u32 turn = 0; step.count != 0; turn ^= 1) {
        copies_wait<0>();
        block_sync();
        decode(p, matrix, s, step, of_x);
        block_sync();
        u32 after = step.run + step.count;
        Step next = after < runs ? step_at(after, each, runs) : Step{after, 0, after};
        if (next.count != 0) {
            if (chunk_of(next) == next.run) bring_chunk(p, matrix, s, next, each, runs);
            bring_x(p, places, s.x[turn ^ 1], next);
            of_x = take_x_scales(p, places, next);
        }
        copies_mark();
#pragma unroll 1
        for (u32 r = 0; r < step.count; r++) add_run(s, s.x[turn], r, sums);
        if (next.segment != step.segment) {
            for (u32 i = 0; i < SIXTEENS * EIGHTS * 4; i++) {
                f32 &sum = sums.of[i / 4 / EIGHTS][i / 4 % EIGHTS][i % 4];
                totals.of[i / 4 / EIGHTS][i / 4 % EIGHTS][i % 4] += sum;
                sum = 0.0f;
            }
        }
        step = next;
    }
}

// A tile of a matrix and of `count` rows of x.
DEVICE void tile(const Params &p, const Matrix &matrix, const Places &places, u32 count) {
    LAUNCH_SHARED(Shared, shared);
    Sums totals = {};
    sum_tile(p, matrix, places, *shared, totals);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 m0 = warp % WIDE * SIXTEENS * 16 + lane / 4, n0 = warp / WIDE * EIGHTS * 8 + lane % 4 * 2;
#pragma unroll
    for (u32 i = 0; i < SIXTEENS * EIGHTS * 4; i++) {
        u32 n = matrix.first + m0 + i / 4 / EIGHTS * 16 + i % 4 / 2 * 8;
        u32 j = n0 + i / 4 % EIGHTS * 8 + i % 2;
        if (j < count && n < p.rows) {
            put(p, totals.of[i / 4 / EIGHTS][i / 4 % EIGHTS][i % 4], matrix.bias + n, places.out[j] + n);
        }
    }
}
