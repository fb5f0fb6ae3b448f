// Scaled dot-product attention of query rows over the cells of their sequence in paged caches, in the order of their
// places: causal, or of the last `window` cells. Cells fall into parts of `span` places from the start of the sequence
// on; a part is summed by itself, then added to those before it. All entries do the same in the same order, so a row has
// the same bits alone and among others, for all pages and holes.
//
// Compiled for -DKEYS=, -DVALUES= (F32, F16, BF16, Q8_0, Q4_0: the types of the caches), -DKEY_DIM=, -DVALUE_DIM= (elements of
// a head) and, where values are the first elements of the keys in the same rows, -DSAME=1. `values` is then not read.
// Caches hold cell after cell, rows as files hold them; caches and `q`, `out` begin at multiples of 16 bytes.
//
//     attention        many rows. Grid: x rows / (VECTORS / heads_a_group, at least 1), rounded up; y KV heads times
//                      heads_a_group / VECTORS, rounded up. VECTORS is 16 MANY, see attention_shape.cuh.
//     attention_parts  few rows, each part by itself. Grid: x rows; y KV heads times heads_a_group / 16, rounded up; z `count`.
//     attention_merge  what that left in `parts`. Grid: x rows, y heads. No shared memory of the launch.
//
// Blocks have 128 threads. Shared memory of the launch: Shape<MANY>::bytes, Shape<1>::bytes, see attention_shape.cuh.

#include "attention_walk.cuh"

struct Params {
    const u32 *args;
    const u8 *keys;
    const u8 *values;
    const f32 *q;
    f32 *out;
    // For each row, head and part: a maximum, a sum of weights, values.
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
    // Cells of a part, a multiple of 256, and how many parts a row has room for.
    u32 span;
    u32 count;
};

constexpr f32 LOG2_E = 1.44269504f;

// The heads that a block takes: query heads from `first` on.
struct Heads {
    u32 first;
    u32 count;
    u32 kv;
};

template <u32 groups>
DEVICE Heads heads_of_block(const Params &p) {
    constexpr u32 most = 16 * groups;
    u32 chunks = (p.heads_a_group + most - 1) / most, chunk = blockIdx.y % chunks * most;
    u32 left = p.heads_a_group - chunk, kv = blockIdx.y / chunks;
    return {kv * p.heads_a_group + chunk, left < most ? left : most, kv};
}

DEVICE u32 rows_a_block(const Params &p, u32 vectors) {
    return p.heads_a_group >= vectors ? 1 : vectors / p.heads_a_group;
}

DEVICE Caches caches_of(const Params &p, u32 kv) {
    const u8 *values = SAME ? nullptr : p.values + u64(kv) * p.value_head;
    return {p.args,     p.keys + u64(kv) * p.key_head, values, p.key_row, p.value_row, p.of_class, p.window, p.span,
            p.scale * LOG2_E};
}

// What does not change while a block walks through cells.
template <u32 groups>
DEVICE void begin(const Params &p, const Shared<groups> &shared, const Rows &rows, const Heads &heads) {
    take_queries(shared, p.q + (u64(rows.row) * p.heads + heads.first) * KEY_DIM, rows, u64(p.heads) * KEY_DIM);
    if constexpr (KEY_COLS != KEY_DIM) {
        for (u32 i = 0; i < Shape<groups>::stages; i++) clear_columns<CELLS, KEY_DIM, KEY_ROW>(shared.keys(i));
    }
}

// The query head of all rows that a lane holds sums of, or NONE.
DEVICE u32 head_of_lane(const Params &p, const Rows &rows, const Heads &heads, u32 group, u32 r) {
    u32 v = vector_of(group, r), row = rows.row + v / heads.count;
    return row < rows.end ? row * p.heads + heads.first + v % heads.count : NONE;
}

// The first element of two that a lane holds.
template <u32 groups>
DEVICE u32 element_of(u32 slice, u32 eight) {
    return slice * Shape<groups>::own_sixteens * 16 + eight * 8 + threadIdx.x % 4 * 2;
}

template <u32 groups>
DEVICE void finish(const Params &p, const Rows &rows, const Heads &heads, const SumsOf<groups> &all) {
    typedef Shape<groups> S;
    u32 group = threadIdx.x / 32 / S::warps, slice = threadIdx.x / 32 % S::warps;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = head_of_lane(p, rows, heads, group, r);
        if (t == NONE) continue;
#pragma unroll
        for (u32 i = 0; i < 4 * S::own_sixteens; i++) {
            u32 e = element_of<groups>(slice, i / 2) + i % 2;
            // A sum of nothing but -0 is 0, whatever else was added to it.
            f32 x = divided(all.values[i / 4][i / 2 % 2][2 * r + i % 2], all.total[r]) + 0.0f;
            if (e < VALUE_DIM) p.out[u64(t) * VALUE_DIM + e] = x;
        }
    }
}

KERNEL(attention, THREADS, 2) {
    constexpr u32 groups = MANY;
    LAUNCH_SHARED(u8, memory);
    // The last rows have most to do, so they begin.
    u32 each = rows_a_block(p, 16 * groups), row = (gridDim.x - 1 - blockIdx.x) * each, end = rows_of(p.args, 0);
    if (row >= end) return;
    Heads heads = heads_of_block<groups>(p);
    Rows rows = {row, row + each < end ? row + each : end, heads.count};
    Caches caches = caches_of(p, heads.kv);
    Shared<groups> shared(memory);
    begin(p, shared, rows, heads);
    SumsOf<groups> all;
    all.clear();
    while (row < rows.end) {
        Run run = run_from(caches, row, rows.end);
        walk(caches, shared, rows, run, [&](const SumsOf<groups> &part) { all.merge(part); });
        row = run.end;
    }
    finish<groups>(p, rows, heads, all);
}

DEVICE f32 *part_of(const Params &p, u32 t, u32 part) {
    return p.parts + (u64(t) * p.count + part) * (VALUE_DIM + 2);
}

// Rows from a block's own on that it takes together, or none if a block before it takes this one: rows of a sequence
// within as many rows as there is room for. Rows with windows begin in parts of their own, so each is taken alone.
DEVICE Rows rows_of_block(const Params &p, const Caches &c, u32 queries) {
    u32 row = blockIdx.x, each = p.window != 0 ? 1 : rows_a_block(p, 16), end = rows_of(p.args, 0);
    if (row % each != 0 && table_of(c.args, c.of_class, row - 1) == table_of(c.args, c.of_class, row)) return {};
    u32 last = row - row % each + each;
    return {row, run_from(c, row, last < end ? last : end).end, queries};
}

DEVICE void keep_part(const Params &p, const Rows &rows, const Heads &heads, u32 place, const SumsOf<1> &part) {
    u32 slice = threadIdx.x / 32;
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 t = head_of_lane(p, rows, heads, 0, r);
        if (t == NONE) continue;
        f32 *to = part_of(p, t, place);
        if (threadIdx.x % 4 == 0 && slice == 0) {
            to[0] = part.most[r];
            to[1] = part.total[r];
        }
#pragma unroll
        for (u32 i = 0; i < 4 * Shape<1>::own_sixteens; i++) {
            u32 e = element_of<1>(slice, i / 2) + i % 2;
            if (e < VALUE_DIM) to[2 + e] = part.values[i / 4][i / 2 % 2][2 * r + i % 2];
        }
    }
}

KERNEL(attention_parts, THREADS, 2) {
    LAUNCH_SHARED(u8, memory);
    if (blockIdx.x >= rows_of(p.args, 0)) return;
    Heads heads = heads_of_block<1>(p);
    Caches caches = caches_of(p, heads.kv);
    Rows rows = rows_of_block(p, caches, heads.count);
    if (rows.row == rows.end) return;
    Run run = run_from(caches, rows.row, rows.end);
    u32 place = blockIdx.z, part = run.from / p.span + place;
    if (u64(part) * p.span >= run.to) return;
    run.from = run.from > part * p.span ? run.from : part * p.span;
    run.to = run.to - part * p.span > p.span ? part * p.span + p.span : run.to;
    Shared<1> shared(memory);
    begin(p, shared, rows, heads);
    walk(caches, shared, rows, run, [&](const SumsOf<1> &sums) { keep_part(p, rows, heads, place, sums); });
}

KERNEL(attention_merge, THREADS, 8) {
    if (blockIdx.x >= rows_of(p.args, 0)) return;
    u32 t = blockIdx.x * p.heads + blockIdx.y;
    u32 to = cells_up_to(p.args, p.of_class, blockIdx.x);
    u32 from = p.window == 0 || p.window >= to ? 0 : to - p.window;
    u32 parts = to == 0 ? 0 : (to - 1) / p.span - from / p.span + 1;
    for (u32 e = threadIdx.x; e < VALUE_DIM; e += THREADS) {
        f32 most = LEAST, total = 0.0f, sum = 0.0f;
#pragma unroll 4
        for (u32 i = 0; i < parts; i++) {
            const f32 *part = part_of(p, t, i);
            f32 risen = fmaxf(most, part[0]), keep = power_of_two(most - risen), take = power_of_two(part[0] - risen);
            most = risen;
            total = fmaf(total, keep, part[1] * take);
            sum = fmaf(sum, keep, part[2 + e] * take);
        }
        p.out[u64(t) * VALUE_DIM + e] = divided(sum, total) + 0.0f;
    }
}

// What launches need to know: vectors of a block that takes many rows, its shared memory, and that of one for few.
KERNEL(sizes, 1, 1) {
    u32 *out = reinterpret_cast<u32 *>(p.out);
    out[0] = 16 * MANY;
    out[1] = Shape<MANY>::bytes;
    out[2] = Shape<1>::bytes;
}
