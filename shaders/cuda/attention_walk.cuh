// Rows of a step over the cells of their sequence, tile after tile.

#pragma once

#include "attention_cells.cuh"
#include "attention_sums.cuh"

// Where the cells of rows lie and how scores are made of them.
struct Caches {
    const u32 *args;
    Heads keys;
    Heads values;
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

// The cells that each of them attends to.
DEVICE Reach reach_of(const Caches &c, const Rows &rows, const Run &run, u32 group) {
    Reach reach = {};
    for (u32 r = 0; r < 2; r++) {
        u32 row = rows.row + vector_of(group, r) / rows.queries;
        if (row >= run.row && row < run.end) {
            reach.to[r] = cells_up_to(c.args, c.of_class, row);
            reach.from[r] = first_in_reach(c, reach.to[r]);
        }
        reach.any[r] = warp_ballot(reach.to[r] != 0) != 0;
    }
    return reach;
}

// Query vectors into shared memory: `q` is the first of the block's, rows of them lie `row` elements apart.
template <typename S>
DEVICE void take_queries(const Shared<S> &shared, const f32 *q, const Rows &rows, u64 row) {
    for (u32 i = threadIdx.x; i < S::vectors * KEY_COLS; i += S::threads) {
        u32 v = i / KEY_COLS, e = i % KEY_COLS;
        bool there = e < KEY_DIM && rows.row + v / rows.queries < rows.end;
        f32 x = there ? q[v / rows.queries * row + v % rows.queries * KEY_DIM + e] : 0.0f;
        Element *to = shared.queries + v * KEY_ROW + e;
#if !ON_TENSORS
        *to = x;
#elif KEYS == BF16
        *to = to_bf16(x);
        to[S::vectors * KEY_ROW] = to_bf16(x - from_bf16(*to));
#else
        *to = to_half(x);
#endif
    }
}

// Begins to bring the cells of a tile, as they are needed or as they lie.
template <typename S>
DEVICE void bring(const Caches &c, const Shared<S> &shared, u32 turn) {
    const u32 *cells = shared.cells + turn % 4 * CELLS;
    if constexpr (COPIED) {
        copy_tile<S, KEY_DIM, KEY_ROW>(shared.keys(turn), c.keys, cells);
        if (!SAME) copy_tile<S, VALUE_DIM, VALUE_ROW>(shared.values(turn), c.values, cells);
    } else if constexpr (S::ahead) {
        copy_pieces<S, head_bytes(KEYS, KEY_DIM)>(shared.key_pieces(turn), c.keys, cells);
        if (!SAME) copy_pieces<S, head_bytes(VALUES, VALUE_DIM)>(shared.value_pieces(turn), c.values, cells);
    }
}

// Decodes a tile.
template <typename S>
DEVICE void decode(const Caches &c, const Shared<S> &shared, u32 turn) {
    const u32 *cells = shared.cells + turn % 4 * CELLS;
    decode_tile<S, KEYS, KEY_DIM, KEY_ROW>(shared.keys(turn), shared.key_pieces(turn), c.keys, cells);
    if (SAME) return;
    decode_tile<S, VALUES, VALUE_DIM, VALUE_ROW>(shared.values(turn), shared.value_pieces(turn), c.values, cells);
}

// Tile `turn` of those that a block takes, ready in shared memory; the ones after it are on their way.
template <typename S>
DEVICE void ready(const Caches &c, const Shared<S> &shared, u32 turn, u32 count) {
    if constexpr (!S::ahead) {
        block_sync();
        bring(c, shared, turn);
        copies_mark();
        if (!COPIED) decode(c, shared, turn);
        copies_wait<0>();
        block_sync();
    } else if constexpr (COPIED) {
        copies_wait<0>();
        block_sync();
        if (turn + 1 < count) bring(c, shared, turn + 1);
        copies_mark();
    } else {
        copies_wait<1>();
        block_sync();
        decode(c, shared, turn);
        block_sync();
        if (turn + 2 < count) bring(c, shared, turn + 2);
        copies_mark();
    }
}

// The cell that this thread looks up for a tile.
DEVICE u32 look_up(const Caches &c, const Run &run, u32 tile) {
    u32 place = tile * CELLS + threadIdx.x;
    bool there = threadIdx.x < CELLS && place >= run.from && place < run.to;
    return there ? cell_at(c.args, c.of_class, run.table, place) : NONE;
}

// The tiles of a run.
struct Tiles {
    u32 first;
    u32 count;
};

// Looks up the first cells of a run and begins to bring what `ready` waits for first.
template <typename S>
DEVICE Tiles start(const Caches &c, const Shared<S> &shared, const Run &run) {
    u32 first = run.from / CELLS;
    Tiles tiles = {first, (run.to + CELLS - 1) / CELLS - first};
    for (u32 turn = 0; turn < 3 && threadIdx.x < CELLS; turn++) {
        shared.cells[turn * CELLS + threadIdx.x] = look_up(c, run, first + turn);
    }
    block_sync();
    for (u32 turn = 0; S::ahead && turn < (COPIED ? 1 : 2); turn++) {
        if (turn < tiles.count) bring(c, shared, turn);
        copies_mark();
    }
    return tiles;
}

// Scores of a group with all cells of a tile; its warps share what each has computed. An idle group has no vectors.
template <typename S>
DEVICE void score_all(f32 (&s)[EIGHTS][4], const Shared<S> &shared, u32 turn, u32 group, u32 slice, bool idle) {
    f32 own[S::own_eights][4] = {};
    if (!idle) score<S>(own, shared.queries + group * 16 * KEY_ROW, shared.keys(turn), slice);
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

// Sums the cells of a run that was started for a block's queries; `ended` takes each part.
template <typename S, typename Ended>
DEVICE void walk(const Caches &c, const Shared<S> &shared, const Rows &rows, const Run &run, const Tiles &tiles, Ended ended) {
    u32 group = threadIdx.x / 32 / S::warps, slice = threadIdx.x / 32 % S::warps;
    Reach reach = reach_of(c, rows, run, group);
    bool idle = !reach.any[0] && !reach.any[1];
    SumsOf<S> part;
    part.clear();
    // Where the part ends.
    u32 stop = (run.from / c.span + 1) * (c.span / CELLS);
    for (u32 turn = 0; turn < tiles.count; turn++) {
        u32 tile = tiles.first + turn;
        ready(c, shared, turn, tiles.count);
        u32 later = look_up(c, run, tile + 3);
        f32 s[EIGHTS][4];
        score_all(s, shared, turn, group, slice, idle);
        if (!idle) {
            weigh<S>(part, s, reach, tile * CELLS, c.factor);
            add_values<S>(part, s, shared.values(turn), slice * S::own_sixteens);
        }
        if (turn + 1 == tiles.count || tile + 1 == stop) {
            stop += c.span / CELLS;
            part.complete();
            ended(part);
            part.clear();
        }
        if (threadIdx.x < CELLS) shared.cells[(turn + 3) % 4 * CELLS + threadIdx.x] = later;
    }
}
