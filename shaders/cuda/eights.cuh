// Eight numbers of a thread, read and written four at a time where they lie so that a device can.

#pragma once

#include "machine.cuh"

struct alignas(16) Four {
    f32 x, y, z, w;
};

DEVICE bool by_fours(const f32 *at) {
    return (reinterpret_cast<u64>(at) & 15) == 0;
}

// Those from `at` on, of which there are `count`; the others are 0.
DEVICE void load_eight(f32 (&x)[8], const f32 *at, u32 count) {
    if (count >= 8 && by_fours(at)) {
        const Four *fours = reinterpret_cast<const Four *>(at);
        const Four low = fours[0], high = fours[1];
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
        return;
    }
#pragma unroll
    for (u32 k = 0; k < 8; k++) x[k] = k < count ? at[k] : 0.0f;
}

DEVICE void store_eight(f32 *at, const f32 (&x)[8], u32 count) {
    if (count >= 8 && by_fours(at)) {
        Four *fours = reinterpret_cast<Four *>(at);
        fours[0] = {x[0], x[1], x[2], x[3]};
        fours[1] = {x[4], x[5], x[6], x[7]};
        return;
    }
#pragma unroll
    for (u32 k = 0; k < 8; k++) {
        if (k < count) at[k] = x[k];
    }
}
