// Scaled dot-product attention of query rows over the cells of their sequence in paged caches, in the order of their
// places: causal, or of the last `window` cells. Cells fall into parts of `span` places from the start of the sequence
// on; a part is summed by itself, then added to those before it. All entries do the same in the same order, so a row has
// the same bits alone and among others, for all pages and holes.
//
// Compiled for -DKEYS=, -DVALUES= (F32, F16, BF16, Q8_0, Q4_0: the types of the caches), -DKEY_DIM=, -DVALUE_DIM= (elements of
// a head), -DROOM= (bytes of shared memory that a block may have, 101376 if left out) and, where values are the first
// elements of the keys in the same rows, -DSAME=1: `values`, `value_row` and `value_head` are then not read. Caches hold
// cell after cell, rows as files hold them, heads without gaps; they begin and end at multiples of 16 bytes, `q`, `out`
// and `parts` begin at multiples of 8. Rows are token rows. Sequences have tables of their own.
//
//     attention        many rows. Grid: x rows / max(1, vectors / heads_a_group), rounded up; y KV heads times
//                      heads_a_group / vectors, rounded up; z groups. Does not use `parts` and `count`.
//     attention_parts  few rows, each part by itself. Grid: x rows; y KV heads times heads_a_group / vectors, rounded up;
//                      z `count`.
//     attention_merge  what that left in `parts`. Grid: x rows, y heads; 128 threads, no shared memory of the launch.
//     attention_shape  what the grids, threads and shared memory of the first two are: see there. One thread.

#include "attention_walk.cuh"

struct Params {
    const u32 *args;
    const u8 *keys;
    const u8 *values;
    const f32 *q;
    f32 *out;
    // For each row, head and part: a maximum, a sum of weights, values. 4 bytes each.
    f32 *parts;
    u32 heads;
    // Query heads a KV head.
    u32 heads_a_group;
    // Cells in reach, or 0 for all.
    u32 window;
    f32 scale;
    // Bytes of a row and of a head in it.
    u32 key_row;
    u32 key_head;
    u32 value_row;
    u32 value_head;
    // That of the caches.
    u32 of_class;
    // Cells of a part, a multiple of 256, and how many parts a row has room for: as many as it may reach into.
    u32 span;
    u32 count;
};

constexpr f32 LOG2_E = 1.44269504f;

// The query heads that a block takes, of one KV head.
struct Queries {
    u32 first;
    u32 count;
    u32 kv;
};

template <typename S>
DEVICE Queries queries_of_block(const Params &p) {
    u32 chunks = (p.heads_a_group + S::vectors - 1) / S::vectors, chunk = blockIdx.y % chunks * S::vectors;
    u32 left = p.heads_a_group - chunk, kv = blockIdx.y / chunks;
    return {kv * p.heads_a_group + chunk, least(left, S::vectors), kv};
}

template <typename S>
DEVICE u32 rows_a_block(const Params &p) {
    return p.heads_a_group >= S::vectors ? 1 : S::vectors / p.heads_a_group;
}

DEVICE Caches caches_of(const Params &p, u32 kv) {
    Heads keys = {p.keys + u64(kv) * p.key_head, p.key_row};
    Heads values = {SAME ? p.keys : p.values + u64(kv) * p.value_head, p.value_row};
    return {p.args, keys, values, p.of_class, p.window, p.span, p.scale * LOG2_E};
}

// What does not change while a block walks through cells.
template <typename S>
DEVICE void begin(const Params &p, const Shared<S> &shared, const Rows &rows, const Queries &queries) {
    take_queries(shared, p.q + (u64(rows.row) * p.heads + queries.first) * KEY_DIM, rows, u64(p.heads) * KEY_DIM);
    if constexpr (KEY_COLS != KEY_DIM) {
        clear_past_keys<S>(shared.keys(0));
        if (S::ahead && COPIED) clear_past_keys<S>(shared.keys(1));
    }
}

// The query head of all rows that a lane holds sums of, or NONE.
DEVICE u32 head_of_lane(const Params &p, const Rows &rows, const Queries &queries, u32 group, u32 r) {
    u32 v = vector_of(group, r), row = rows.row + v / queries.count;
    return row < rows.end ? row * p.heads + queries.first + v % queries.count : NONE;
}

// Has `take` see the two elements of each eight that a lane holds: the first one's number, where a row has any.
template <typename S, typename Take>
DEVICE void each_two(Take take) {
    u32 first = threadIdx.x / 32 % S::warps * S::own_sixteens * 16 + threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 i = 0; i < 2 * S::own_sixteens; i++) {
        if (first + i * 8 < VALUE_DIM) take(i, first + i * 8);
    }
}

// Two elements from `e` on, or one where a row ends.
DEVICE void write_two(f32 *row, u32 e, f32 a, f32 b) {
    if constexpr (VALUE_DIM % 2 == 0) {
        *reinterpret_cast<Few<f32, 2> *>(row + e) = {{a, b}};
    } else {
        row[e] = a;
        if (e + 1 < VALUE_DIM) row[e + 1] = b;
    }
}

// All parts so far of the rows that a lane holds sums of.
template <typename S>
struct All {
    Merged merged[2];
    f32 values[2][S::own_sixteens * 4];

    DEVICE void clear() {
#pragma unroll
        for (u32 i = 0; i < S::own_sixteens * 8; i++) values[i % 2][i / 2] = 0.0f;
    }

    // Adds a part.
    DEVICE void add(const SumsOf<S> &part) {
        for (u32 r = 0; r < 2; r++) merged[r].add(part.most[r], part.total[r]);
#pragma unroll
        for (u32 i = 0; i < S::own_sixteens * 8; i++) {
            f32 &x = values[i % 2][i / 2];
            x = merged[i % 2].value(x, part.values[i / 8][i / 4 % 2][2 * (i % 2) + i / 2 % 2]);
        }
    }
};

template <typename S>
DEVICE void finish(const Params &p, const Rows &rows, const Queries &queries, const All<S> &all) {
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = head_of_lane(p, rows, queries, threadIdx.x / 32 / S::warps, r);
        if (t == NONE) continue;
        each_two<S>([&](u32 i, u32 e) {
            f32 a = all.merged[r].mean(all.values[r][2 * i]), b = all.merged[r].mean(all.values[r][2 * i + 1]);
            write_two(p.out + u64(t) * VALUE_DIM, e, a, b);
        });
    }
}

// The rows of a block: of as many as there is room for, all if they are of one sequence, else as many as the block's
// share of z, so that sequences of a row or two are not taken one after another.
template <typename S>
DEVICE Rows rows_of_many(const Params &p, const Caches &c, u32 queries) {
    u32 each = rows_a_block<S>(p), rows = rows_of(p.args, 0);
    // The last rows have most to do, so they begin.
    u32 row = (gridDim.x - 1 - blockIdx.x) * each, end = least(row + each, rows);
    if (row >= rows) return {};
    if (run_from(c, row, end).end == end) return {row, blockIdx.z == 0 ? end : row, queries};
    u32 share = (each + gridDim.z - 1) / gridDim.z;
    row += blockIdx.z * share;
    return {row, row < end ? least(row + share, end) : row, queries};
}

KERNEL(attention, Wide::threads, Wide::threads == 128 ? 2 : 1) {
    LAUNCH_SHARED(u8, memory);
    Queries queries = queries_of_block<Wide>(p);
    Caches caches = caches_of(p, queries.kv);
    Rows rows = rows_of_many<Wide>(p, caches, queries.count);
    if (rows.row == rows.end) return;
    Shared<Wide> shared(memory);
    begin(p, shared, rows, queries);
    All<Wide> all;
    all.clear();
    for (u32 row = rows.row; row < rows.end;) {
        Run run = run_from(caches, row, rows.end);
        Tiles tiles = start(caches, shared, run);
        walk(caches, shared, rows, run, tiles, [&](const SumsOf<Wide> &part) { all.add(part); });
        row = run.end;
    }
    finish(p, rows, queries, all);
}

DEVICE f32 *part_of(const Params &p, u32 t, u32 part) {
    return p.parts + (u64(t) * p.count + part) * (VALUE_DIM + 2);
}

// Rows from a block's own on that it takes together, or none if a block before it takes this one: rows of a sequence
// within as many rows as there is room for. Rows with windows begin in parts of their own, so each is taken alone.
template <typename S>
DEVICE Rows rows_of_few(const Params &p, const Caches &c, u32 queries) {
    u32 row = blockIdx.x, each = p.window != 0 ? 1 : rows_a_block<S>(p), rows = rows_of(p.args, 0);
    if (row >= rows) return {};
    if (row % each != 0 && table_of(c.args, c.of_class, row - 1) == table_of(c.args, c.of_class, row)) return {};
    return {row, run_from(c, row, least(row - row % each + each, rows)).end, queries};
}

template <typename S>
DEVICE void keep_part(const Params &p, const Rows &rows, const Queries &queries, u32 place, const SumsOf<S> &part) {
    u32 group = threadIdx.x / 32 / S::warps, slice = threadIdx.x / 32 % S::warps;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = head_of_lane(p, rows, queries, group, r);
        if (t == NONE) continue;
        f32 *to = part_of(p, t, place);
        if (threadIdx.x % 4 == 0 && slice == 0) {
            to[0] = part.most[r];
            to[1] = part.total[r];
        }
        each_two<S>([&](u32 i, u32 e) {
            const f32 *two = part.values[i / 2][i % 2] + 2 * r;
            write_two(to + 2, e, two[0], two[1]);
        });
    }
}

KERNEL(attention_parts, Narrow::threads, Narrow::threads == 128 ? 2 : 1) {
    LAUNCH_SHARED(u8, memory);
    Queries queries = queries_of_block<Narrow>(p);
    Caches caches = caches_of(p, queries.kv);
    Rows rows = rows_of_few<Narrow>(p, caches, queries.count);
    if (rows.row == rows.end) return;
    Run run = run_from(caches, rows.row, rows.end);
    u32 place = blockIdx.z, part = run.from / p.span + place;
    if (u64(part) * p.span >= run.to) return;
    run.from = part * p.span > run.from ? part * p.span : run.from;
    run.to = part * p.span + least(run.to - part * p.span, p.span);
    Shared<Narrow> shared(memory);
    Tiles tiles = start(caches, shared, run);
    begin(p, shared, rows, queries);
    walk(caches, shared, rows, run, tiles,
         [&](const SumsOf<Narrow> &sums) { keep_part<Narrow>(p, rows, queries, place, sums); });
}

KERNEL(attention_merge, 128, 8) {
    if (blockIdx.x >= rows_of(p.args, 0)) return;
    u32 t = blockIdx.x * p.heads + blockIdx.y;
    u32 to = cells_up_to(p.args, p.of_class, blockIdx.x), from = p.window == 0 ? 0 : to - least(to, p.window);
    u32 parts = to == 0 ? 0 : (to - 1) / p.span - from / p.span + 1;
    for (u32 e = threadIdx.x; e < VALUE_DIM; e += 128) {
        Merged all;
        f32 sum = 0.0f;
#pragma unroll 4
        for (u32 i = 0; i < parts; i++) {
            const f32 *part = part_of(p, t, i);
            all.add(part[0], part[1]);
            sum = all.value(sum, part[2 + e]);
        }
        p.out[u64(t) * VALUE_DIM + e] = all.mean(sum);
    }
}

// Vectors, threads and bytes of shared memory of a block of `attention`, its groups, then the first three of a block of
// `attention_parts`: numbers of 4 bytes, to where `parts` are.
KERNEL(attention_shape, 32, 1) {
    u32 *to = reinterpret_cast<u32 *>(p.parts);
    const u32 shape[] = {Wide::vectors,   Wide::threads,   Wide::bytes,  Wide::groups,
                         Narrow::vectors, Narrow::threads, Narrow::bytes};
    for (u32 i = 0; i < 7 && threadIdx.x == 0; i++) to[i] = shape[i];
}
