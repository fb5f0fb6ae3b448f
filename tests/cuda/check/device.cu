// Kernels that show what the machine does: each writes what its threads get of one function.

#include "machine.cuh"

struct Params {
    const u32 *x;
    u32 *y;
    u32 n;
};

DEVICE u32 thread() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

// Of each warp: another lane's value, that of a lane across, a ballot, and 64 bits of another lane.
KERNEL(exchanges, 1024, 1) {
    const u32 t = thread(), x = p.x[t];
    u32 *y = p.y + 5 * t;
    y[0] = warp_take(x, x);
    y[1] = warp_xor(x, 5);
    y[2] = warp_ballot(x & 1);
    const u64 wide = warp_xor(u64(x) << 32 | t, 16);
    y[3] = u32(wide >> 32);
    y[4] = bits_of(warp_take(f32(t), 3));
}

// Each thread writes, all wait, each reads what another wrote: in shared memory of both kinds, again and again.
KERNEL(turns, 1024, 1) {
    SHARED(u32, kept, 1024);
    LAUNCH_SHARED(u32, given);
    const u32 t = thread(), threads = blockDim.x * blockDim.y * blockDim.z;
    u32 x = p.x[t];
    for (u32 i = 0; i < p.n; i++) {
        kept[t] = x;
        given[threads - 1 - t] = x;
        block_sync();
        x = kept[(t * 7 + i) % threads] * 3 + given[(t + i) % threads];
        block_sync();
    }
    p.y[t] = x;
}

// Threads that have ended are not waited for.
KERNEL(leavers, 256, 1) {
    SHARED(u32, kept, 256);
    if (threadIdx.x >= 32 * (p.n + 1)) return;
    kept[threadIdx.x] = p.x[threadIdx.x];
    block_sync();
    p.y[threadIdx.x] = kept[32 * (p.n + 1) - 1 - threadIdx.x];
}

// Conversions and byte functions of two words.
KERNEL(words, 256, 1) {
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.n) return;
    const u32 a = p.x[2 * i], b = p.x[2 * i + 1];
    u32 *y = p.y + 14 * i;
    y[0] = bits_of(from_half(u16(a)));
    y[1] = to_half(from_bits(b));
    y[2] = bits_of(from_bf16(u16(a)));
    y[3] = to_bf16(from_bits(b));
    y[4] = u32(dot4(a, b, i32(a ^ b)));
    y[5] = bytes_of(a, b, a ^ b >> 7);
    y[6] = bits_of(divided(from_bits(a), from_bits(b)));
    y[7] = bits_of(root(from_bits(a)));
    y[8] = bits_of(fmaf(from_bits(a), from_bits(b), from_bits(a ^ b)));
    y[9] = bits_of(power_of_two(from_bits(b)));
#if TENSOR_CORES
    y[10] = two_halves(from_bits(a), from_bits(b));
    y[11] = two_bf16s(from_bits(a), from_bits(b));
    y[12] = halves_sum(a, b);
    y[13] = halves_product(a, b);
#endif
}

// One product a warp. Fragments are read as they lie: four words of a, two of b and four of d a lane.
KERNEL(products, 32, 1) {
    const u32 *x = p.x + (blockIdx.x * 32 + threadIdx.x) * 10;
    u32 *y = p.y + (blockIdx.x * 32 + threadIdx.x) * 4;
    const u32 a[4] = {x[0], x[1], x[2], x[3]}, b[2] = {x[4], x[5]};
    i32 sums[4];
    f32 d[4];
    for (u32 i = 0; i < 4; i++) sums[i] = i32(x[6 + i]), d[i] = from_bits(x[6 + i]);
    if (p.n == 0) mma_bytes(sums, a, b);
    if (p.n == 3) mma_bytes_half(sums, {x[0], x[1]}, b[0]);
#if TENSOR_CORES
    if (p.n == 1) mma_halves(d, a, b);
    if (p.n == 2) mma_bf16s(d, a, b);
#endif
    for (u32 i = 0; i < 4; i++) y[i] = p.n % 3 == 0 ? u32(sums[i]) : bits_of(d[i]);
}

// Rows of 16 bytes, of which a lane names one that x says, as matrices.
KERNEL(matrices, 32, 1) {
    SHARED(u32, rows, 4 * 64);
    for (u32 i = threadIdx.x; i < 256; i += 32) rows[i] = p.x[i];
    block_sync();
    u32 r[4];
    load_matrices(r, rows + 4 * p.x[256 + threadIdx.x]);
    for (u32 i = 0; i < 4; i++) p.y[8 * threadIdx.x + i] = r[i];
#if TENSOR_CORES
    u32 t[4];
    load_matrices_transposed(t, rows + 4 * p.x[256 + threadIdx.x]);
    for (u32 i = 0; i < 4; i++) p.y[8 * threadIdx.x + 4 + i] = t[i];
#endif
}

// A pipeline of copies, two groups deep; with n set, it waits for one group too few.
KERNEL(copies, 64, 1) {
    SHARED(u32, stage, 3 * 64 * 4);
    const u32 t = threadIdx.x;
    u32 sum = 0;
    for (u32 i = 0; i < 2; i++) {
        copy16(stage + (i * 64 + t) * 4, p.x + (i * 64 + t) * 4);
        copies_mark();
    }
    for (u32 i = 0; i < 16; i++) {
        copy16_if(i + 2 < 16, stage + ((i + 2) % 3 * 64 + t) * 4, p.x + ((i + 2) * 64 + t) * 4);
        copies_mark();
        if (p.n == 0) copies_wait<2>();
        if (p.n != 0) copies_wait<3>();
        block_sync();
        for (u32 k = 0; k < 4; k++) sum = sum * 5 + stage[(i % 3 * 64 + (t + 9) % 64) * 4 + k];
        block_sync();
    }
    p.y[t] = sum;
}
