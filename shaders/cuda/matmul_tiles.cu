// Products for many rows; see `matmul.cuh` for the parameters and `matmul.cu` for types, SPLIT and alignment. A block
// takes a tile: WEIGHTS rows of a matrix and up to TILE rows of x (16, 32 or 64).
//
// matmul_tiles: ceil(rows / WEIGHTS) blocks, on y ceil(rows of the step / TILE), on z heads.
// experts_tiles: the same with, on z, the experts from the first of the weight's to their end; fewer on y do, too.
// Blocks have 256 threads, and shared memory of SHARED_BYTES; without TENSOR_CORES, TILE is at most 32.

#include "matmul.cuh"

#ifndef TILE
#define TILE 64
#endif

#ifdef SPLIT
#include "matmul_tiles_split.cuh"
#elif defined(TYPE_f32) || defined(TYPE_f16) || defined(TYPE_bf16)
#include "matmul_tiles_f32.cuh"
#else
#include "matmul_tiles_i8.cuh"
#endif

KERNEL(matmul_tiles, THREADS, 2) {
    SHARED(Places, places, 1);
    u32 row = blockIdx.y * TILE, rows = rows_of(p.args, p.dim), head = blockIdx.z;
    if (row >= rows) return;
    if (threadIdx.x == 0) {
        places->matrix = {p.w + matrices_bytes(p, head), blockIdx.x * WEIGHTS, 0};
        places->count = least_of(TILE, rows - row);
    }
    if (threadIdx.x < TILE) {
        u64 own = least_of(row + threadIdx.x, rows - 1);
        places->x[threadIdx.x] = own * p.x_row + u64(head) * p.x_head;
        places->out[threadIdx.x] = own * p.out_row + u64(head) * p.out_head;
    }
    block_sync();
    tile(p, *places);
}

// Finds the slots of an expert's group from the first on.
DEVICE void find_slots(const Params &p, Places &places) {
    u32 group = blockIdx.z, first = places.first, count = p.routing[2 * group + 1] - first;
    const u32 *slots = p.routing + 2 * (p.end_expert - p.first_expert) + p.routing[2 * group] + first;
    if (threadIdx.x == 0) {
        u64 bias = u64(p.first_expert + group) * p.rows;
        places.matrix = {p.w + matrices_bytes(p, group), blockIdx.x * WEIGHTS, bias};
        places.count = least_of(TILE, count);
    }
    if (threadIdx.x < TILE) {
        u32 slot = slots[least_of(threadIdx.x, count - 1)];
        u64 of_slot = p.slotted != 0 ? u64(slot % p.used) * p.x_head : 0;
        places.x[threadIdx.x] = u64(slot / p.used) * p.x_row + of_slot;
        places.out[threadIdx.x] = u64(slot) * p.out_row;
    }
}

// Slots of an expert's group. There are groups where the choices were.
KERNEL(experts_tiles, THREADS, 2) {
    SHARED(Places, places, 1);
    if (threadIdx.x == 0) places->first = blockIdx.y * TILE;
    block_sync();
    while (places->first < p.routing[2 * blockIdx.z + 1]) {
        find_slots(p, *places);
        block_sync();
        tile(p, *places);
        block_sync();
        if (threadIdx.x == 0) places->first += gridDim.y * TILE;
        block_sync();
    }
}

// What launches need to know: shared memory, and rows of the weight that a block takes.
KERNEL(sizes, 1, 1) {
    u32 *out = reinterpret_cast<u32 *>(p.out);
    out[0] = SHARED_BYTES;
    out[1] = WEIGHTS;
}
