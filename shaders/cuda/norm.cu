// `out = x / sqrt(mean(x^2) + eps) * weight` over the first elements of each slice of a row; the others are copied.
// Squares are rounded, then summed to twice the precision, as a processor does in double.
//
// norm_narrow, a warp a slice: grid slices of all rows over 8; block 256. For slices up to some 1,024 wide.
// norm_wide, a block a slice: grid slices of all rows; block 512. For wider ones, and where norm_quantize may take its place.
// norm_quantize (compiled with RUNS, see acts.cuh): as norm_wide, the same bits, and the codes of what it writes; one slice a
// row, columns are whole blocks, nothing behind them; codes and scales are 16-aligned.
// None needs shared memory of the launch.

#include "eights.cuh"
#include "step.cuh"
#include "sums.cuh"

#ifdef RUNS
#include "acts.cuh"
#endif

struct Params {
    const u32 *args;
    const f32 *x;
    const f32 *weight;
    f32 *out;
    u64 *codes;
    u64 *scales;
    u32 dim;
    // Elements of a slice that are normalised, and those behind them.
    u32 cols;
    u32 carried;
    u32 slices;
    f32 eps;
};

// Threads of a block that has a slice, and eights of it that each keeps: what is behind them is read twice.
constexpr u32 WIDE = 512, KEPT = 2;

// Numbers from `i` on of so many.
DEVICE u32 left(u32 cols, u32 i) {
    return i < cols ? cols - i : 0;
}

DEVICE f32 factor_of(Sum squares, const Params &p) {
    return divided(1.0f, root(quotient(squares, f32(p.cols)) + p.eps));
}

DEVICE void square(Sum &sum, const f32 (&x)[8]) {
    for (u32 k = 0; k < 8; k++) sum = added(sum, {x[k] * x[k], 0.0f});
}

// A slice, as the threads of a block have it between reading and writing.
struct Slice {
    f32 x[KEPT][8], weight[KEPT][8];
};

// Reads what is kept. Returns what all numbers are multiplied with.
DEVICE f32 read(Slice &kept, const Params &p, const f32 *x, Sum *shared) {
    Sum sum = {0.0f, 0.0f};
    for (u32 g = 0; g < KEPT; g++) {
        const u32 i = 8 * (g * WIDE + threadIdx.x);
        load_eight(kept.x[g], x + i, left(p.cols, i));
        load_eight(kept.weight[g], p.weight + i, left(p.cols, i));
    }
    for (u32 g = 0; g < KEPT; g++) square(sum, kept.x[g]);
    for (u32 i = 8 * (KEPT * WIDE + threadIdx.x); i < p.cols; i += 8 * WIDE) {
        f32 more[8];
        load_eight(more, x + i, left(p.cols, i));
        square(sum, more);
    }
    return factor_of(block_sum(sum, shared, WIDE / 32), p);
}

// Eight numbers from `i` on, written, and left in `x`.
DEVICE void scale_eight(f32 (&x)[8], const f32 (&weight)[8], f32 factor, f32 *out, u32 count) {
    for (u32 k = 0; k < 8; k++) x[k] = x[k] * factor * weight[k];
    store_eight(out, x, count);
}

// Writes a slice; `also` takes each eight of it, by its first number: all lanes of a warp do, or none.
template <typename Also>
DEVICE void write(Slice &kept, const Params &p, f32 factor, const f32 *x, f32 *out, Also also) {
    for (u32 g = 0; g < KEPT; g++) {
        const u32 i = 8 * (g * WIDE + threadIdx.x);
        if (i - i % 256 >= p.cols) return;
        scale_eight(kept.x[g], kept.weight[g], factor, out + i, left(p.cols, i));
        also(kept.x[g], i);
    }
    for (u32 i = 8 * (KEPT * WIDE + threadIdx.x); i - i % 256 < p.cols; i += 8 * WIDE) {
        f32 more[8], weight[8];
        load_eight(more, x + i, left(p.cols, i));
        load_eight(weight, p.weight + i, left(p.cols, i));
        scale_eight(more, weight, factor, out + i, left(p.cols, i));
        also(more, i);
    }
}

KERNEL(norm_wide, WIDE, 2) {
    const u32 slice = blockIdx.x;
    if (slice >= rows_of(p.args, p.dim) * p.slices) return;
    SHARED(Sum, sums, WIDE / 32);
    const u64 at = u64(slice) * (p.cols + p.carried);
    Slice kept;
    const f32 factor = read(kept, p, p.x + at, sums);
    write(kept, p, factor, p.x + at, p.out + at, [](f32(&)[8], u32) {});
    for (u32 i = p.cols + threadIdx.x; i < p.cols + p.carried; i += WIDE) p.out[at + i] = p.x[at + i];
}

#ifdef RUNS

KERNEL(norm_quantize, WIDE, 2) {
    const u32 row = blockIdx.x;
    if (row >= rows_of(p.args, p.dim)) return;
    SHARED(Sum, sums, WIDE / 32);
    const u64 at = u64(row) * p.cols;
    const Codes codes = {p.codes, p.scales};
    Slice kept;
    const f32 factor = read(kept, p, p.x + at, sums);
    write(kept, p, factor, p.x + at, p.out + at, [&](f32(&x)[8], u32 i) {
        quantize_eight(codes, x, row * (p.cols / 8) + i / 8, i < p.cols);
    });
}

#endif

// Numbers that a lane keeps.
constexpr u32 FEW = 8;

KERNEL(norm_narrow, 256, 4) {
    const u32 slice = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (slice >= rows_of(p.args, p.dim) * p.slices) return;
    const f32 *x = p.x + u64(slice) * (p.cols + p.carried);
    f32 *out = p.out + u64(slice) * (p.cols + p.carried);
    f32 kept[FEW], weight[FEW];
    for (u32 k = 0; k < FEW; k++) {
        const u32 i = k * 32 + lane;
        kept[k] = i < p.cols ? x[i] : 0.0f;
        weight[k] = i < p.cols ? p.weight[i] : 0.0f;
    }
    Sum sum = {0.0f, 0.0f};
    for (u32 k = 0; k < FEW; k++) sum = added(sum, {kept[k] * kept[k], 0.0f});
    for (u32 i = FEW * 32 + lane; i < p.cols; i += 32) sum = added(sum, {x[i] * x[i], 0.0f});
    const f32 factor = factor_of(warp_sum(sum), p);
    for (u32 k = 0; k < FEW; k++) {
        if (k * 32 + lane < p.cols) out[k * 32 + lane] = kept[k] * factor * weight[k];
    }
    for (u32 i = FEW * 32 + lane; i < p.cols; i += 32) out[i] = x[i] * factor * p.weight[i];
    for (u32 i = p.cols + lane; i < p.cols + p.carried; i += 32) out[i] = x[i];
}
