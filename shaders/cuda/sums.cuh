// Sums of single numbers to twice their precision: what each addition rounds away is kept beside the sum (Knuth's two-sum).
// Rounded in the end, they are those that a processor finds in double precision, which few cards have plenty of.

#pragma once

#include "machine.cuh"

struct Sum {
    f32 high, low;
};

DEVICE Sum added(Sum a, Sum b) {
    const f32 sum = a.high + b.high;
    const f32 part = sum - a.high;
    const f32 lost = (a.high - (sum - part)) + (b.high - part);
    return {sum, (a.low + b.low) + lost};
}

// The sum of all lanes, in each.
DEVICE Sum warp_sum(Sum sum) {
    for (u32 mask = 16; mask > 0; mask /= 2) sum = added(sum, {warp_xor(sum.high, mask), warp_xor(sum.low, mask)});
    return sum;
}

// The sum of all threads of a block of so many warps, in each. `shared` has room for as many sums.
DEVICE Sum block_sum(Sum sum, Sum *shared, u32 warps) {
    sum = warp_sum(sum);
    const u32 lane = threadIdx.x % 32;
    if (lane == 0) shared[threadIdx.x / 32] = sum;
    block_sync();
    return warp_sum(lane < warps ? shared[lane] : Sum{0.0f, 0.0f});
}

// Over a number.
DEVICE f32 quotient(Sum sum, f32 by) {
    const f32 first = divided(sum.high, by);
    const f32 rest = fmaf(-first, by, sum.high) + sum.low;
    const f32 both = first + divided(rest, by);
    // What is not finite has lost nothing that counts.
    return fabsf(both) <= 3.4028235e38f ? both : first;
}

// One over it.
DEVICE f32 inverse(Sum sum) {
    const f32 first = divided(1.0f, sum.high);
    const f32 rest = fmaf(-first, sum.high, 1.0f) - first * sum.low;
    return fmaf(first, rest, first);
}
