// Products for few rows, up to ROWS a block: 1 or 8, or of block types 16 or 32, too. See `matmul.cuh` for the parameters.
// TYPE_... names the weight's type. For block types x is codes, which begin at a multiple of sixteen bytes, as do all rows
// and heads of them; for f32, f16 and bf16 it is values.
//
// The rows of a weight begin where its blocks' bytes let them: at a multiple of 4 (f32 q4_1 q5_1 q2_k q4_k q5_k iq4_xs), of
// 2 (f16 bf16 q4_0 q5_0 q8_0 q3_k q6_k iq4_nl), or anywhere (mxfp4). Values are fastest where all rows of both begin at
// multiples of sixteen bytes.
//
// With SPLIT, f16 and bf16 are multiplied on tensor cores where there are such, see `matmul_split.cuh`: all products of a
// weight are to be compiled so, or none.
//
// Blocks of matmul and experts have 32 threads for each segment that there is, and shared memory of SHARED_BYTES for each.
// Without TENSOR_CORES, ROWS is at most 8.
//
// matmul: heads * ceil(rows / PLACES) blocks, and ceil(rows of the step / ROWS) on y. One matrix is one head.
// experts (of ROWS 1): slots * ceil(rows / PLACES) blocks.
// carry (of ROWS 1): ceil(rows of the step * heads * carried / 256) blocks of 256; x is values.

#include "matmul.cuh"

#ifndef ROWS
#define ROWS 1
#endif

#ifdef SPLIT
#include "matmul_few_split.cuh"
#elif defined(TYPE_f32) || defined(TYPE_f16) || defined(TYPE_bf16)
#include "matmul_few_f32.cuh"
#elif ROWS == 1
#include "matmul_one_i8.cuh"
#else
#include "matmul_few_i8.cuh"
#endif

// Blocks that a multiprocessor is to hold.
#ifdef SPLIT
constexpr u32 BLOCKS = ROWS == 1 ? 3 : 2;
#else
constexpr u32 BLOCKS = ROWS == 1 ? 4 : ROWS <= 16 ? 2 : 1;
#endif

KERNEL(matmul, 32 * SEGMENTS, BLOCKS) {
    u32 blocks = (p.rows + PLACES - 1) / PLACES;
    u32 head = blockIdx.x / blocks, row = blockIdx.y * ROWS, rows = rows_of(p.args, p.dim);
    if (row >= rows || head >= p.heads) return;
    Matrix matrix = {p.w + matrices_bytes(p, head), blockIdx.x % blocks * PLACES, 0};
    u64 x = u64(row) * p.x_row + u64(head) * p.x_head;
    few(p, matrix, x, least_of(ROWS, rows - row), u64(row) * p.out_row + u64(head) * p.out_head);
}

#if ROWS == 1

// Each slot of a row's choices by itself.
KERNEL(experts, 32 * SEGMENTS, BLOCKS) {
    u32 blocks = (p.rows + PLACES - 1) / PLACES;
    u32 slot = blockIdx.x / blocks;
    if (slot >= rows_of(p.args, p.dim) * p.used) return;
    u32 expert = p.routing[2 * slot];
    if (expert < p.first_expert || expert >= p.end_expert) return;
    const u8 *w = p.w + matrices_bytes(p, expert - p.first_expert);
    Matrix matrix = {w, blockIdx.x % blocks * PLACES, u64(expert) * p.rows};
    u64 x = u64(slot / p.used) * p.x_row + (p.slotted != 0 ? u64(slot % p.used) * p.x_head : 0);
    few(p, matrix, x, 1, u64(slot) * p.out_row);
}

// One thread: one element behind a head's product.
KERNEL(carry, 256, 1) {
    u64 i = u64(blockIdx.x) * 256 + threadIdx.x;
    u64 row = i / (p.heads * p.carried);
    if (row >= rows_of(p.args, p.dim)) return;
    u32 head = u32(i / p.carried % p.heads), e = u32(i % p.carried);
    f32 value = static_cast<const f32 *>(p.x)[row * p.x_row + u64(head) * p.x_head + p.cols + e];
    p.out[row * p.out_row + u64(head) * p.out_head + p.rows + e] = value;
}

#endif

// What launches need to know: shared memory, and rows of the weight that a block takes.
KERNEL(sizes, 1, 1) {
    u32 *out = reinterpret_cast<u32 *>(p.out);
    out[0] = SHARED_BYTES;
    out[1] = PLACES;
}
