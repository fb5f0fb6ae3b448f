// What is done to cells of a cache between steps. `list` holds how many cells, the cells, then for turns where in `table`
// the cosines and sines of each begin, for moves the cells that rows go to.
//
// gather, scatter, scatter_on: grid listed cells, then bytes of a row over 4,096; block 256; no shared memory.
// turn (compiled with STATE, see cache.cu): grid listed cells, which are all different, then heads; block 128; 4 bytes of
// shared memory an element of a head.
// Bytes of a row are an even number, of f32 a multiple of four; the cache and rows begin at a multiple of four.

#include "rope.cuh"

#ifdef STATE
#include "store.cuh"
#endif

struct Params {
    const u32 *list;
    const f32 *table;
    u8 *state;
    // Rows on their way, one after the other.
    u8 *rows;
    u32 row_bytes;
    // The rotation: bytes and elements of a head, those before the rotated ones, pairs, how they lie.
    u32 head_bytes;
    u32 head_dim;
    u32 offset;
    u32 pairs;
    u32 interleaved;
};

struct alignas(16) Sixteen {
    u64 bytes[2];
};

// A block's part of a row.
DEVICE void copy_part(u8 *to, const u8 *from, u32 row_bytes) {
    const u32 first = blockIdx.y * 4096, end = row_bytes - first < 4096 ? row_bytes : first + 4096;
    if (((reinterpret_cast<u64>(to) | reinterpret_cast<u64>(from) | row_bytes) & 15) == 0) {
        const u32 at = first + 16 * threadIdx.x;
        if (at < end) *reinterpret_cast<Sixteen *>(to + at) = *reinterpret_cast<const Sixteen *>(from + at);
        return;
    }
    for (u32 at = first + 2 * threadIdx.x; at < end; at += 512) {
        *reinterpret_cast<u16 *>(to + at) = *reinterpret_cast<const u16 *>(from + at);
    }
}

DEVICE bool copies(const Params &p) {
    return blockIdx.x < p.list[0] && blockIdx.y * 4096 < p.row_bytes;
}

// The row of the cell that a block has, listed from `first` on.
DEVICE u8 *listed(const Params &p, u32 first) {
    return p.state + u64(p.list[first + blockIdx.x]) * p.row_bytes;
}

DEVICE u8 *own_row(const Params &p) {
    return p.rows + u64(blockIdx.x) * p.row_bytes;
}

// Rows out of the cache.
KERNEL(gather, 256, 4) {
    if (copies(p)) copy_part(own_row(p), listed(p, 1), p.row_bytes);
}

// Rows into the listed cells.
KERNEL(scatter, 256, 4) {
    if (copies(p)) copy_part(listed(p, 1), own_row(p), p.row_bytes);
}

// Rows that were gathered into the cells that are listed behind those.
KERNEL(scatter_on, 256, 4) {
    if (copies(p)) copy_part(listed(p, 1 + p.list[0]), own_row(p), p.row_bytes);
}

#ifdef STATE

// One head of a key, where it lies: whole runs of 32 elements are written again.
KERNEL(turn, 128, 8) {
    if (blockIdx.x >= p.list[0]) return;
    LAUNCH_SHARED(f32, x);
    u8 *head = listed(p, 1) + u64(blockIdx.y) * p.head_bytes;
    const Turn *turns = reinterpret_cast<const Turn *>(p.table + p.list[1 + p.list[0] + blockIdx.x]);
    const u32 first = p.offset / 32 * 32, runs_end = (p.offset + 2 * p.pairs + 31) / 32 * 32;
    const u32 end = p.head_dim < runs_end ? p.head_dim : runs_end;
    for (u32 i = first + threadIdx.x; i < end; i += 128) x[i] = TYPE_OF(STATE)::element(head, i);
    block_sync();
    for (u32 i = threadIdx.x; i < p.pairs; i += 128) {
        const Pair pair = pair_of(i, p.offset, p.pairs, p.interleaved);
        const Turned to = turned(x[pair.first], x[pair.second], turns[i]);
        x[pair.first] = to.first;
        x[pair.second] = to.second;
    }
    block_sync();
    store_row<TYPE_OF(STATE)>(head, x, first, end, 4);
}

#endif
