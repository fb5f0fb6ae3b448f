// Rotation of a part of each head by the row's position; the rest is copied. Angles are products in single precision,
// pair after pair.
//
// rope: grid rows of the step, then heads over 8; block 256; 8 bytes of shared memory a pair.
// rope_cache (compiled with STATE, see cache.cu): as rope, for keys of token rows, which also go into their cells: the same
// bytes as from cache. Heads are whole blocks of the cache's type.

#include "rope.cuh"
#include "step.cuh"

#ifdef STATE
#include "store.cuh"
#endif

struct Params {
    const u32 *args;
    // The share of each pair's angle that is not scaled.
    const f32 *keeps;
    // What angles are divided by, or null.
    const f32 *factors;
    const u32 *positions;
    const f32 *x;
    f32 *out;
    u8 *state;
    u32 dim;
    u32 heads;
    u32 head_dim;
    // Elements of a head before the rotated ones.
    u32 offset;
    u32 pairs;
    // 1: elements 2i and 2i + 1 are a pair; 0: i and i + pairs.
    u32 interleaved;
    f32 step;
    f32 scale;
    f32 magnitude;
    // Bytes of a row of the cache, and its class.
    u32 row_bytes;
    u32 of_class;
};

// Heads of a row that a block takes.
constexpr u32 HEADS = 8;

// The turn of each pair at the position of a row.
DEVICE void find_turns(const Params &p, u32 row, Turn *found) {
    for (u32 pair = threadIdx.x; pair < p.pairs; pair += 256) {
        f32 angle = f32(p.positions[row]);
        for (u32 k = 0; k < pair; k++) angle *= p.step;
        if (p.factors != nullptr) angle = divided(angle, p.factors[pair]);
        const f32 keep = p.keeps[pair];
        const Turn turn = turn_of(angle * p.scale * (1.0f - keep) + angle * keep);
        found[pair] = {turn.cosine * p.magnitude, turn.sine * p.magnitude};
    }
}

// A pair of a head, or one of the elements before the rotated ones and behind.
DEVICE void rope_unit(const Params &p, const Turn *found, u32 unit, const f32 *x, f32 *out) {
    if (unit >= p.pairs) {
        const u32 rest = unit - p.pairs, e = rest < p.offset ? rest : rest + 2 * p.pairs;
        out[e] = x[e];
        return;
    }
    const Pair pair = pair_of(unit, p.offset, p.pairs, p.interleaved);
    const Turned to = turned(x[pair.first], x[pair.second], found[unit]);
    out[pair.first] = to.first;
    out[pair.second] = to.second;
}

// The heads of a block, of a row that there is.
DEVICE void rope_heads(const Params &p, Turn *found) {
    find_turns(p, blockIdx.x, found);
    block_sync();
    const u32 units = p.head_dim - p.pairs, first = blockIdx.y * HEADS;
    const u32 heads = p.heads - first < HEADS ? p.heads - first : HEADS;
    const u64 at = (u64(blockIdx.x) * p.heads + first) * p.head_dim;
    for (u32 i = threadIdx.x; i < heads * units; i += 256) {
        const u64 head = at + i / units * p.head_dim;
        rope_unit(p, found, i % units, p.x + head, p.out + head);
    }
}

KERNEL(rope, 256, 4) {
    if (blockIdx.x >= rows_of(p.args, p.dim) || blockIdx.y * HEADS >= p.heads) return;
    LAUNCH_SHARED(Turn, found);
    rope_heads(p, found);
}

#ifdef STATE

KERNEL(rope_cache, 256, 4) {
    if (blockIdx.x >= rows_of(p.args, p.dim) || blockIdx.y * HEADS >= p.heads) return;
    LAUNCH_SHARED(Turn, found);
    rope_heads(p, found);
    block_sync();
    const u32 first = blockIdx.y * HEADS, end = p.heads - first < HEADS ? p.heads : first + HEADS;
    u8 *cell = p.state + u64(cell_written(p.args, p.of_class, blockIdx.x)) * p.row_bytes;
    const f32 *row = p.out + u64(blockIdx.x) * p.heads * p.head_dim;
    store_row<TYPE_OF(STATE)>(cell, row, first * p.head_dim, end * p.head_dim, 8);
}

#endif
