// Ops on corresponding elements: `out = activation(x) * y`, `out = x + y`.
//
// gated, add: grid elements of all rows over 1,024; block 256; no shared memory.

#include "activation.cuh"
#include "step.cuh"

struct Params {
    const u32 *args;
    const f32 *x;
    const f32 *y;
    f32 *out;
    u32 dim;
    u32 cols;
    // 0 silu, 1 gelu.
    u32 activation;
};

// Numbers that a thread has, a block's threads apart.
constexpr u32 EACH = 4;

// Writes what becomes of each pair of elements.
template <typename Become>
DEVICE void each_pair(const Params &p, Become become) {
    const u64 all = u64(rows_of(p.args, p.dim)) * p.cols, first = u64(blockIdx.x) * (256 * EACH) + threadIdx.x;
    f32 x[EACH], y[EACH];
#pragma unroll
    for (u32 k = 0; k < EACH; k++) {
        const bool there = first + k * 256 < all;
        x[k] = there ? p.x[first + k * 256] : 0.0f;
        y[k] = there ? p.y[first + k * 256] : 0.0f;
    }
#pragma unroll
    for (u32 k = 0; k < EACH; k++) {
        if (first + k * 256 < all) p.out[first + k * 256] = become(x[k], y[k]);
    }
}

KERNEL(gated, 256, 4) {
    each_pair(p, [&](f32 x, f32 y) { return activated(p.activation, x) * y; });
}

KERNEL(add, 256, 4) {
    each_pair(p, [](f32 x, f32 y) { return x + y; });
}
