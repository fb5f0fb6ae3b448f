// Rows by index: of a weight's table, decoded, or of a value.
//
// embed (compiled with TYPE, a name of types.cuh): grid rows of the step, then runs of 32 columns over 128; block 128.
// An index past the table is that of its last row. `row_bytes` are even, for f32 a multiple of four, for mxfp4 any.
// select_rows: grid rows of the step, then columns over 1024; block 256. Neither needs shared memory.

#include "step.cuh"

#ifdef TYPE
#include "types/types.cuh"
#endif

struct Params {
    const u32 *args;
    const u8 *w;
    const u32 *index;
    const f32 *x;
    f32 *out;
    u32 dim;
    u32 cols;
    // Bytes from a row of the table to the next, and rows.
    u32 row_bytes;
    u32 vocab;
    f32 scale;
};

#ifdef TYPE

// One thread: thirty-two numbers of a row.
KERNEL(embed, 128, 4) {
    const u32 row = blockIdx.x;
    if (row >= rows_of(p.args, p.dim)) return;
    const u32 run = blockIdx.y * 128 + threadIdx.x;
    if (run * 32 >= p.cols) return;
    const u32 id = p.index[row] < p.vocab ? p.index[row] : p.vocab - 1;
    f32 x[32];
    TYPE_OF(TYPE)::run(p.w + u64(id) * p.row_bytes, run, x);
    f32 *out = p.out + u64(row) * p.cols + run * 32;
    const u32 count = p.cols - run * 32;
#pragma unroll
    for (u32 k = 0; k < 32; k++) {
        if (k < count) out[k] = x[k] * p.scale;
    }
}

#endif

// One thread: four numbers of a row, a block's threads apart.
KERNEL(select_rows, 256, 4) {
    const u32 row = blockIdx.x;
    if (row >= rows_of(p.args, p.dim)) return;
    const f32 *x = p.x + u64(p.index[row]) * p.cols;
    f32 *out = p.out + u64(row) * p.cols;
    for (u32 k = 0; k < 4; k++) {
        const u32 col = blockIdx.y * 1024 + k * 256 + threadIdx.x;
        if (col < p.cols) out[col] = x[col];
    }
}
