// Rows into the cells of a cache: cell after cell, each a row as files hold it.
//
// Compiled with STATE, the cache's type: f32 f16 bf16 q8_0 q4_0.
// cache: grid token rows, then columns over 256; block 256; no shared memory. A row's bytes are an even number, of f32 a
// multiple of four, and the cache begins at a multiple of four.

#include "step.cuh"
#include "store.cuh"

struct Params {
    const u32 *args;
    const f32 *x;
    u8 *state;
    u32 cols;
    u32 row_bytes;
    // That of the cache.
    u32 of_class;
};

// One warp: thirty-two elements of a row.
KERNEL(cache, 256, 4) {
    const u32 row = blockIdx.x, first = blockIdx.y * 256;
    if (row >= rows_of(p.args, 0) || first >= p.cols) return;
    u8 *to = p.state + u64(cell_written(p.args, p.of_class, row)) * p.row_bytes;
    const u32 end = p.cols - first < 256 ? p.cols : first + 256;
    store_row<TYPE_OF(STATE)>(to, p.x + u64(row) * p.cols, first, end, 8);
}
