// The machine as kernels see it: fixed-size numbers, kernels and what they share, lanes of a warp, conversions, byte
// products, tensor cores and copies that go on by themselves. Nothing else in these files is particular to a device, so
// kernels can be compiled for a processor, where `emulated.h` says the same in its terms.
//
// Contractions are off: `fmaf` is one rounding, `a * b + c` two, on every device alike.

#pragma once

#ifdef EMULATED
#include "emulated.h"
#else

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef float f32;

// A kernel of its file's one `Params`, which has PARAMS_BYTES, for blocks of so many threads, of which a multiprocessor is to hold so many.
#define KERNEL(name, threads, blocks) \
    static_assert(sizeof(Params) == PARAMS_BYTES, "parameters are not those that launches have"); \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)

#define DEVICE __device__ __forceinline__

// An array that the threads of a block share.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]

// The shared memory that a launch was given, as words of 16 bytes lie.
#define LAUNCH_SHARED(type, name)                       \
    extern __shared__ __align__(16) u8 launch_shared[]; \
    type *name = reinterpret_cast<type *>(launch_shared)

// Whether there are tensor cores for halves of these shapes, and copies that go on by themselves; those for bytes are
// in every machine.
#if __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

// Waits for all threads of the block; what they wrote to shared and global memory is seen by them.
DEVICE void block_sync() {
    __syncthreads();
}

// Waits for all lanes of the warp; what they wrote to shared memory is seen by them.
DEVICE void warp_sync() {
    __syncwarp();
}

// `value` of another lane; all 32 take part in everything that is called warp_.
template <typename T>
DEVICE T warp_take(T value, u32 lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}

template <typename T>
DEVICE T warp_xor(T value, u32 mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

// A bit a lane.
DEVICE u32 warp_ballot(bool holds) {
    return __ballot_sync(0xffffffffu, holds);
}

DEVICE u32 bits_of(f32 x) {
    return __float_as_uint(x);
}

DEVICE f32 from_bits(u32 bits) {
    return __uint_as_float(bits);
}

DEVICE f32 from_half(u16 bits) {
    f32 x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// Rounded to the nearest, ties to even.
DEVICE u16 to_half(f32 x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

DEVICE f32 from_bf16(u16 bits) {
    return from_bits(u32(bits) << 16);
}

// Rounded to the nearest, ties to even; what is no number stays none.
DEVICE u16 to_bf16(f32 x) {
    u32 bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return u16(bits >> 16 | 0x40);
    return u16((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// Rounded to the nearest, whatever the compiler is told of divisions and roots.
DEVICE f32 divided(f32 a, f32 b) {
    return __fdiv_rn(a, b);
}

DEVICE f32 root(f32 x) {
    return __fsqrt_rn(x);
}

// 2 to the power of `x`, to 22 bits; exactly 1 for 0.
DEVICE f32 power_of_two(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// `c` and the products of four signed bytes of each.
DEVICE i32 dot4(u32 a, u32 b, i32 c) {
    return __dp4a(i32(a), i32(b), c);
}

// The bytes of `a`, then of `b`, that the digits of `choice` name, the lowest first.
DEVICE u32 bytes_of(u32 a, u32 b, u32 choice) {
    return __byte_perm(a, b, choice);
}

#if TENSOR_CORES

// Two numbers rounded to halves, as the fragments of a product hold them.
DEVICE u32 two_halves(f32 low, f32 high) {
    u32 bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// The same for bf16.
DEVICE u32 two_bf16s(f32 low, f32 high) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// Sums and products of two pairs of halves, each rounded once.
DEVICE u32 halves_sum(u32 a, u32 b) {
    u32 bits;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(bits) : "r"(a), "r"(b));
    return bits;
}

DEVICE u32 halves_product(u32 a, u32 b) {
    u32 bits;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(bits) : "r"(a), "r"(b));
    return bits;
}

// d += a b, 16 x 8 from 16 x 32 and 32 x 8 signed bytes: fragments as PTX's mma.m16n8k32 has them.
DEVICE void mma_bytes(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same from 16 x 16 and 16 x 8: as mma.m16n8k16.
DEVICE void mma_bytes_half(i32 (&d)[4], const u32 (&a)[2], u32 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
}

// d += a b, 16 x 8 from 16 x 16 and 16 x 8 halves, summed in single precision: as mma.m16n8k16.
DEVICE void mma_halves(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for bf16.
DEVICE void mma_bf16s(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// As load_matrices, each matrix transposed.
DEVICE void load_matrices_transposed(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
}

// Begins to copy 4 or 16 aligned bytes from global to shared memory.
DEVICE void copy4(void *shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(u32(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
}

DEVICE void copy16(void *shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(u32(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
}

// The same, if `holds`: no branch.
DEVICE void copy4_if(bool holds, void *shared, const void *global) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p cp.async.ca.shared.global [%0], [%1], 4; }" ::"r"(
                     u32(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(u32(holds))
                 : "memory");
}

DEVICE void copy16_if(bool holds, void *shared, const void *global) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16; }" ::"r"(
                     u32(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(u32(holds))
                 : "memory");
}

// What this thread began to copy since the last mark is a group.
DEVICE void copies_mark() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most so many groups of this thread are under way; a block_sync shows the others' too.
template <int groups>
DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#else

// Eight rows of 16 bytes with as many.
DEVICE void mma_bytes_quarter(i32 &d0, i32 &d1, u32 a, u32 b) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};" : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
}

DEVICE void mma_bytes_half(i32 (&d)[4], const u32 (&a)[2], u32 b) {
    mma_bytes_quarter(d[0], d[1], a[0], b);
    mma_bytes_quarter(d[2], d[3], a[1], b);
}

DEVICE void mma_bytes(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    mma_bytes_half(d, {a[0], a[1]}, b[0]);
    mma_bytes_half(d, {a[2], a[3]}, b[1]);
}

DEVICE void copy4(void *shared, const void *global) {
    *static_cast<u32 *>(shared) = *static_cast<const u32 *>(global);
}

DEVICE void copy16(void *shared, const void *global) {
    *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
}

DEVICE void copy4_if(bool holds, void *shared, const void *global) {
    if (holds) copy4(shared, global);
}

DEVICE void copy16_if(bool holds, void *shared, const void *global) {
    if (holds) copy16(shared, global);
}

DEVICE void copies_mark() {}

template <int groups>
DEVICE void copies_wait() {}

#endif

// Four matrices of 8 x 8 pairs of bytes from shared memory, each lane naming a row of 16 bytes: as ldmatrix.x4.
DEVICE void load_matrices(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
}

#endif

// The largest number of all lanes, in each.
DEVICE u32 warp_max(u32 value) {
#if !defined(EMULATED) && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffffu, value);
#else
    for (u32 mask = 16; mask > 0; mask /= 2) {
        const u32 other = warp_xor(value, mask);
        value = value > other ? value : other;
    }
    return value;
#endif
}
