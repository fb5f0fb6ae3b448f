// Values → codes, also of what is computed in passing: see acts.cuh for how these are made and lie.
//
// Compiled with RUNS, of runs of 32 a block: 1 or 8. Columns are whole blocks. Codes and scales are 16-aligned.
// quantize, gated_quantize: grid rows of the step times heads times columns over 1024; block 128; no shared memory.

#include "acts.cuh"
#include "activation.cuh"
#include "eights.cuh"
#include "step.cuh"

struct Params {
    const u32 *args;
    // What is rounded, or for gated_quantize the gate, what it lets through, and where their product goes.
    const f32 *x;
    const f32 *up;
    f32 *out;
    u64 *codes;
    u64 *scales;
    u32 dim;
    // Columns of a part of a row that is multiplied, and those parts.
    u32 cols;
    u32 heads;
    // Numbers of x from a row to the next, and from a head to the next.
    u32 x_row;
    u32 x_head;
    // 0 silu, 1 gelu.
    u32 activation;
};

// Eights of numbers of all rows.
DEVICE u32 eights(const Params &p) {
    return rows_of(p.args, p.dim) * p.heads * (p.cols / 8);
}

KERNEL(quantize, 128, 8) {
    const u32 eight = blockIdx.x * 128 + threadIdx.x, all = eights(p);
    if (blockIdx.x * 128 >= all) return;
    const u32 each = p.cols / 8, slice = eight / each;
    const u64 at = u64(slice / p.heads) * p.x_row + slice % p.heads * p.x_head + eight % each * 8;
    f32 x[8];
    load_eight(x, p.x + at, eight < all ? 8 : 0);
    quantize_eight({p.codes, p.scales}, x, eight, eight < all);
}

// One part a row: the value `activation(x) * up`, and its codes.
KERNEL(gated_quantize, 128, 8) {
    const u32 eight = blockIdx.x * 128 + threadIdx.x, all = eights(p);
    if (blockIdx.x * 128 >= all) return;
    const u32 count = eight < all ? 8 : 0;
    f32 x[8], up[8];
    load_eight(x, p.x + u64(eight) * 8, count);
    load_eight(up, p.up + u64(eight) * 8, count);
    for (u32 k = 0; k < 8; k++) x[k] = activated(p.activation, x[k]) * up[k];
    store_eight(p.out + u64(eight) * 8, x, count);
    quantize_eight({p.codes, p.scales}, x, eight, eight < all);
}
