// Rows of a step over the cells of their sequence, tile after tile.

#pragma once

#include "attention_cells.cuh"
#include "attention_sums.cuh"

// Where the cells of rows lie and how scores are made of them.
struct Caches {
    const u32 *args;
    const u8 *keys;
    const u8 *values;
    u64 key_row;
    u64 value_row;
    u32 of_class;
    u32 window;
    u32 span;
    f32 factor;
};

// The query vectors of a block: of rows from `row` to `end`, `queries` each.
struct Rows {
    u32 row;
    u32 end;
    u32 queries;
};

// Rows of one sequence, and the places that they attend to together.
struct Run {
    u32 row;
    u32 end;
    u32 table;
    u32 from;
    u32 to;
};

DEVICE u32 first_in_reach(const Caches &c, u32 to) {
    return c.window == 0 || c.window >= to ? 0 : to - c.window;
}

DEVICE u32 least(u32 a, u32 b) {
    return a < b ? a : b;
}

DEVICE u32 warp_least(u32 x) {
    for (u32 mask = 16; mask > 0; mask /= 2) x = least(x, warp_xor(x, mask));
    return x;
}

// The rows of a sequence from `row` on, of those before `end`.
DEVICE Run run_from(const Caches &c, u32 row, u32 end) {
    u32 table = table_of(c.args, c.of_class, row), lane = threadIdx.x % 32, others = end;
    for (u32 r = row + lane; r < end; r += 32) {
        if (table_of(c.args, c.of_class, r) != table) others = least(others, r);
    }
    end = warp_least(others);
    u32 from = NONE, beyond = NONE;
    for (u32 r = row + lane; r < end; r += 32) {
        u32 to = cells_up_to(c.args, c.of_class, r);
        from = least(from, first_in_reach(c, to));
        beyond = least(beyond, ~to);
    }
    return {row, end, table, warp_least(from), ~warp_least(beyond)};
}

// The vectors of a group that a lane holds sums of.
DEVICE u32 vector_of(u32 group, u32 r) {
    return group * 16 + threadIdx.x % 32 / 4 + 8 * r;
}

DEVICE Reach reach_of(const Caches &c, const Rows &rows, const Run &run, u32 group) {
    Reach reach = {};
    for (u32 r = 0; r < 2; r++) {
        u32 row = rows.row + vector_of(group, r) / rows.queries;
        if (row < run.row || row >= run.end) continue;
        reach.to[r] = cells_up_to(c.args, c.of_class, row);
        reach.from[r] = first_in_reach(c, reach.to[r]);
    }
    return reach;
}

// Query vectors into shared memory: `q` is the first of the block's, rows of them lie `row` elements apart.
template <u32 groups>
DEVICE void take_queries(const Shared<groups> &shared, const f32 *q, const Rows &rows, u64 row) {
    constexpr u32 vectors = Shape<groups>::vectors;
    for (u32 i = threadIdx.x; i < vectors * KEY_COLS; i += THREADS) {
        u32 v = i / KEY_COLS, e = i % KEY_COLS;
        bool there = e < KEY_DIM && rows.row + v / rows.queries < rows.end;
        f32 x = there ? q[v / rows.queries * row + v % rows.queries * KEY_DIM + e] : 0.0f;
        Element *to = shared.queries + v * KEY_ROW + e;
#if !ON_TENSORS
        *to = x;
#elif KEYS == BF16
        *to = to_bf16(x);
        to[vectors * KEY_ROW] = to_bf16(x - from_bf16(*to));
#else
        *to = to_half(x);
#endif
    }
}

// Begins to bring the cells of a tile.
template <u32 groups>
DEVICE void bring(const Caches &c, const Shared<groups> &shared, u32 stage, const u32 *cells) {
    fetch<KEYS, KEY_DIM, KEY_ROW>(shared.keys(stage), c.keys, c.key_row, cells);
    if (!SAME) fetch<VALUES, VALUE_DIM, VALUE_ROW>(shared.values(stage), c.values, c.value_row, cells);
    copies_mark();
}

// Scores of a group with all cells of a tile; its warps share what each has computed.
template <u32 groups>
DEVICE void score_all(f32 (&s)[EIGHTS][4], const Shared<groups> &shared, u32 stage, u32 group, u32 slice) {
    typedef Shape<groups> S;
    f32 own[S::own_eights][4] = {};
    score<groups>(own, shared.queries + group * 16 * KEY_ROW, shared.keys(stage), slice);
    typedef Few<f32, 4> Lane;
    Lane *all = reinterpret_cast<Lane *>(shared.scores) + group * EIGHTS * 32 + threadIdx.x % 32;
    if (S::warps > 1) {
#pragma unroll
        for (u32 i = 0; i < S::own_eights; i++) {
            u32 eight = slice + i * S::warps;
            if (eight < EIGHTS) all[eight * 32] = {{own[i][0], own[i][1], own[i][2], own[i][3]}};
        }
        block_sync();
    }
#pragma unroll
    for (u32 i = 0; i < EIGHTS; i++) {
        Lane lane = {};
        if (S::warps > 1) lane = all[i * 32];
#pragma unroll
        for (u32 j = 0; j < 4; j++) s[i][j] = S::warps > 1 ? lane.x[j] : own[i % S::own_eights][j];
    }
}

// The cell at a place of a tile for a thread that looks it up.
DEVICE u32 look_up(const Caches &c, const Run &run, u32 place) {
    return place >= run.from && place < run.to ? cell_at(c.args, c.of_class, run.table, place) : NONE;
}

// The sums of a part, complete.
template <u32 sixteens>
DEVICE void complete(Sums<sixteens> &part) {
    for (u32 r = 0; r < 2; r++) {
        part.total[r] += warp_xor(part.total[r], 1);
        part.total[r] += warp_xor(part.total[r], 2);
    }
}

// Sums the cells of a run between its places for a block's queries; `ended` takes each part.
template <u32 groups, typename Ended>
DEVICE void walk(const Caches &c, const Shared<groups> &shared, const Rows &rows, const Run &run, Ended ended) {
    typedef Shape<groups> S;
    u32 group = threadIdx.x / 32 / S::warps, slice = threadIdx.x / 32 % S::warps;
    Reach reach = reach_of(c, rows, run, group);
    SumsOf<groups> part;
    part.clear();
    u32 first = run.from / CELLS, end = (run.to + CELLS - 1) / CELLS;
    u32 *cells = shared.cells + threadIdx.x;
    for (u32 i = 0; i < 2 && threadIdx.x < CELLS; i++) cells[i * CELLS] = look_up(c, run, (first + i) * CELLS + threadIdx.x);
    block_sync();
    if (S::stages == 2) bring(c, shared, 0, shared.cells);
    for (u32 tile = first; tile < end; tile++) {
        u32 turn = (tile - first) % 2, stage = turn % S::stages;
        if (S::stages == 1) bring(c, shared, 0, shared.cells + turn * CELLS);
        copies_wait<0>();
        block_sync();
        if (S::stages == 2 && tile + 1 < end) bring(c, shared, 1 - stage, shared.cells + (1 - turn) * CELLS);
        u32 next = threadIdx.x < CELLS ? look_up(c, run, (tile + 2) * CELLS + threadIdx.x) : NONE;
        f32 s[EIGHTS][4];
        score_all(s, shared, stage, group, slice);
        weigh(part, s, reach, tile * CELLS, c.factor);
        add_values<groups>(part, s, shared.values(stage), slice * S::own_sixteens);
        if (tile + 1 == end || (tile + 1) * CELLS % c.span == 0) {
            complete(part);
            ended(part);
            part.clear();
        }
        if (threadIdx.x < CELLS) cells[turn * CELLS] = next;
        if (S::stages == 1) block_sync();
    }
}
