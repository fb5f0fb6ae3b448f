// Values that are multiplied on tensor cores, with weights of f16 and bf16: numbers of x are cut into three of eight bits of
// precision each, exactly, those of f16 into two. Products are exact then but for the smallest, which is left out with f16.
// What tensor cores make of sixteen columns is added to the sum of a segment, in the order of columns; segments are, the
// first first. What is infinite becomes no number.
//
// Few rows and tiles have the same bits so, but not those of kernels that multiply values as they are.

#pragma once

#include "matmul_f32.cuh"

// What a number of the weight, and one of x, is cut into.
#ifdef TYPE_f16
constexpr u32 W_CUTS = 2;
#else
constexpr u32 W_CUTS = 1;
#endif
constexpr u32 X_CUTS = 3;

// Two numbers.
struct Pair {
    f32 of[2];
};

// Cuts two numbers: the upper halves of what is left each time.
template <u32 CUTS>
DEVICE void cut(Pair pair, u32 (&cuts)[CUTS]) {
    for (u32 c = 0; c < CUTS; c++) {
        cuts[c] = bits_of(pair.of[0]) >> 16 | (bits_of(pair.of[1]) & 0xffff0000u);
        for (u32 i = 0; i < 2; i++) pair.of[i] -= from_bits(bits_of(pair.of[i]) & 0xffff0000u);
    }
}

// Adds to sums the products of all cuts of sixteen columns, which tensor cores sum from none on, the smallest first.
DEVICE void add_cuts(const u32 (&a)[W_CUTS][4], const u32 (&b)[X_CUTS][2], f32 (&sums)[4]) {
    f32 d[4] = {};
#pragma unroll
    for (u32 c = X_CUTS; c-- > 0;) {
#pragma unroll
        for (u32 k = W_CUTS; k-- > 0;) {
            if (k + c < X_CUTS) mma_bf16s(d, a[k], b[c]);
        }
    }
    for (u32 i = 0; i < 4; i++) sums[i] += d[i];
}
