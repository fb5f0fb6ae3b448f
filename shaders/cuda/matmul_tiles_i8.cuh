// Tiles in signed bytes: a block takes WEIGHTS rows of the weight and TILE of x, of which each warp takes a part in tensor
// cores. A chunk of the weight's bytes is brought ahead and decoded to signed bytes, a step of four runs at a time.

#pragma once

#include "matmul_i8.cuh"

constexpr u32 THREADS = 256, WARPS = THREADS / 32;
constexpr u32 WEIGHTS = 128;
// Runs of a step, and bytes from a row of them to the next: an odd number of words.
constexpr u32 STEP = 4, LINE = STEP * 32 + 16;
// Warps along the weight and along x, and sixteens and eights of rows of a warp's part.
constexpr u32 WIDE = W_PARTS == 4 && TILE == 64 ? 2 : 4, HIGH = WARPS / WIDE;
constexpr u32 SIXTEENS = WEIGHTS / WIDE / 16, EIGHTS = TILE / HIGH / 8;

// Shared memory: a chunk of the weight, a step of it in signed bytes, two steps of x, the words of its scales, then scales
// of both by their runs.
struct Shared {
    u8 chunk[WEIGHTS * W_SLOT];
    u8 w[WEIGHTS * LINE];
    u8 x[2][TILE * LINE];
    u32 words_of_x[2 * STEP][TILE];
    f32 of_w[W_PARTS][STEP][WEIGHTS];
    f32 of_x[X_PARTS][STEP][TILE];
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

// A step: runs `run` to `run + count`, so many runs behind the beginning of their segment.
struct Step {
    u32 run;
    u32 count;
    u32 behind;
};

// The step that begins at `run`, and so many behind the beginning of a segment that has `each` runs.
DEVICE Step step_at(u32 run, u32 behind, u32 each, u32 runs) {
    return {run, least_of(STEP, least_of(each - behind, runs - run)), behind};
}

// Where a step's chunk begins.
DEVICE u32 chunk_of(const Step &step) {
    return step.run - step.behind % CHUNK;
}

// Begins to bring the chunk that a step is the first of.
DEVICE void bring_chunk(const Params &p, const Places &places, Shared &s, const Step &step, u32 each, u32 runs) {
    u32 bytes = bytes_of_runs(least_of(CHUNK, least_of(each - step.behind, runs - step.run)));
#pragma unroll 1
    for (u32 i = threadIdx.x / 4; i < WEIGHTS; i += THREADS / 4) {
        const u8 *from = row_of(p, places.matrix, i) + bytes_of_runs(step.run);
        copy_fourth<W_WORDS>(s.chunk + i * W_SLOT, from, bytes, threadIdx.x % 4);
    }
}

// Begins to bring a step of x, and its scales.
DEVICE void bring_x(const Params &p, const Places &places, Shared &s, u8 *to, const Step &step) {
    for (u32 i = threadIdx.x; i < TILE * 2 * STEP; i += THREADS) {
        u32 j = i / (2 * STEP), word = i % (2 * STEP);
        const u8 *from = static_cast<const u8 *>(p.x) + places.x[j] + step.run * 32;
        if (word < 2 * step.count) {
            copy16(to + j * LINE + word * 16, from + word * 16);
            copy4(&s.words_of_x[word][j], p.scales + (places.x[j] / 32 + step.run) * 2 + word);
        }
    }
}

// Decodes a step: a warp sixteen rows, whose four lanes have the words of a run together and the scales of one each.
DEVICE void decode(const Params &p, const Places &places, Shared &s, const Step &step) {
    u32 lane = threadIdx.x % 32, t = lane % 4, first = chunk_of(step);
#pragma unroll 1
    for (u32 i = threadIdx.x / 4; i < WEIGHTS; i += THREADS / 4) {
        const u8 *chunk = s.chunk + i * W_SLOT + lead_of(row_of(p, places.matrix, i) + bytes_of_runs(first));
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
        u32 j = threadIdx.x % TILE, r = threadIdx.x / TILE;
        f32 of[X_PARTS];
        x_scales(s.words_of_x[2 * r][j], s.words_of_x[2 * r + 1][j], of);
        for (u32 k = 0; k < X_PARTS; k++) s.of_x[k][r][j] = of[k];
    }
}

// Adds the products of sixteen rows of the weight with eight of x, in a run.
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

// Codes of so many eights of x, in run `r` of a step.
DEVICE void load_x(const u8 *x, u32 r, u32 n0, u32 (&b)[EIGHTS][2]) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 j = 0; j < EIGHTS; j += 2) {
        // Two eights: the halves of the first, then those of the second.
        u32 both[4], row = EIGHTS == 1 ? lane % 8 : lane / 16 * 8 + lane % 8;
        load_matrices(both, x + (n0 + 8 * j + row) * LINE + r * 32 + lane / 8 % 2 * 16);
        for (u32 k = 0; k < 4 && j + k / 2 < EIGHTS; k++) b[j + k / 2][k % 2] = both[k];
    }
}

// Adds run `r` of a step to the sums of a warp's part.
DEVICE void add_run(const Shared &s, const u8 *x, u32 r, Sums &sums) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 m0 = warp % WIDE * SIXTEENS * 16, n0 = warp / WIDE * EIGHTS * 8;
    u32 b[EIGHTS][2];
    load_x(x, r, n0, b);
#pragma unroll
    for (u32 i = 0; i < SIXTEENS; i++) {
        u32 a[4];
        f32 of_w[2][W_PARTS];
        load_matrices(a, s.w + (m0 + 16 * i + lane % 16) * LINE + r * 32 + lane / 16 * 16);
        for (u32 h = 0; h < 2; h++) {
            for (u32 k = 0; k < W_PARTS; k++) of_w[h][k] = s.of_w[k][r][m0 + 16 * i + 8 * h + lane / 4];
        }
#pragma unroll
        for (u32 j = 0; j < EIGHTS; j++) {
            f32 of_x[2][X_PARTS];
            for (u32 c = 0; c < 2; c++) {
                for (u32 k = 0; k < X_PARTS; k++) of_x[c][k] = s.of_x[k][r][n0 + 8 * j + lane % 4 * 2 + c];
            }
            add_sixteen(a, b[j], of_w, of_x, sums.of[i][j]);
        }
    }
}

// Sums of a tile, in the segments' order.
DEVICE void sum_tile(const Params &p, const Places &places, Shared &s, Sums &totals) {
    u32 runs = p.cols / 32, each = segment_runs(p.cols);
    Step step = step_at(0, 0, each, runs);
    bring_chunk(p, places, s, step, each, runs);
    bring_x(p, places, s, s.x[0], step);
    copies_mark();
    Sums sums = {};
    for (u32 turn = 0; step.count != 0; turn ^= 1) {
        copies_wait<0>();
        block_sync();
        decode(p, places, s, step);
        block_sync();
        u32 behind = step.behind + step.count;
        Step next = step_at(step.run + step.count, behind == each ? 0 : behind, each, runs);
        if (next.count != 0) {
            if (chunk_of(next) == next.run) bring_chunk(p, places, s, next, each, runs);
            bring_x(p, places, s, s.x[turn ^ 1], next);
        }
        copies_mark();
#pragma unroll 1
        for (u32 r = 0; r < step.count; r++) add_run(s, s.x[turn], r, sums);
        if (next.behind == 0 || next.count == 0) {
            for (u32 i = 0; i < SIXTEENS * EIGHTS * 4; i++) {
                f32 &sum = sums.of[i / 4 / EIGHTS][i / 4 % EIGHTS][i % 4];
                totals.of[i / 4 / EIGHTS][i / 4 % EIGHTS][i % 4] += sum;
                sum = 0.0f;
            }
        }
        step = next;
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
