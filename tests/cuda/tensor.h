// What the lanes of a warp do together: exchange values, multiply fragments, load matrices; and copies that are seen only
// once waited for. Fragments lie as PTX's mma and ldmatrix have them. Products of halves are exact and summed in single
// precision from the first to the last, onto what was there.

#pragma once

#include "block.h"

namespace emulated {

// Shows the other lanes a value, waits for theirs, and gives all 32.
template <typename T>
DEVICE const Shown *show(Fiber &fiber, Wait wait, const T &value) {
    static_assert(sizeof(T) <= sizeof(Shown), "what a lane can show");
    Warp &warp = *fiber.warp;
    Shown *shown = warp.shown[fiber.shows++ & 1];
    memcpy(shown[fiber.lane].words, &value, sizeof(T));
    leave(fiber, wait);
    return shown;
}

template <typename T>
DEVICE T exchanged(Fiber &fiber, Wait wait, T value, u32 lane) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "what a shuffle can move");
    const Shown *shown = show(fiber, wait, value);
    memcpy(&value, shown[lane].words, sizeof(T));
    return value;
}

struct Bytes {
    u32 a[4], b[2];
};

inline i32 dot_halves(const u32 *a, const u32 *b, i32 sum) {
    return dot4(a[2], b[1], dot4(a[0], b[0], sum));
}

// 16 x 8 += 16 x 32 times 32 x 8 signed bytes. Lane 4 g + t holds, of rows g and g + 8 and of column g, bytes 4 t + 0..3
// and 16 more on; of the sums those of rows g and g + 8, columns 2 t and 2 t + 1.
inline void multiply_bytes(Fiber &fiber, i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    const Bytes mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const Shown *shown = show(fiber, Wait::MMA_BYTES, mine);
    const Shown *row = shown + fiber.lane / 4 * 4;
    for (u32 i = 0; i < 4; i++) {
        const Shown *column = shown + (fiber.lane % 4 * 2 + i % 2) * 4;
        for (u32 t = 0; t < 4; t++) d[i] = dot_halves(row[t].words + i / 2, column[t].words + 4, d[i]);
    }
}

// Rows g and g + 8 of a, then column g of b: of each, two numbers from 2 t on and two from 2 t + 8.
struct Floats {
    f32 a[2][4], b[4];
};

template <f32 (*number)(u16)>
DEVICE void put_pair(f32 *to, u32 pair) {
    to[0] = number(u16(pair));
    to[1] = number(u16(pair >> 16));
}

// 16 x 8 += 16 x 16 times 16 x 8.
template <f32 (*number)(u16)>
inline void multiply_floats(Fiber &fiber, Wait wait, f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    Floats mine;
    for (u32 i = 0; i < 4; i++) put_pair<number>(mine.a[i % 2] + i / 2 * 2, a[i]);
    for (u32 i = 0; i < 2; i++) put_pair<number>(mine.b + i * 2, b[i]);
    const Shown *shown = show(fiber, wait, mine);
    const Shown *row = shown + fiber.lane / 4 * 4;
    for (u32 i = 0; i < 4; i++) {
        const Shown *column = shown + (fiber.lane % 4 * 2 + i % 2) * 4;
        f32 sum = d[i];
        for (u32 k = 0; k < 16; k++) {
            const u32 t = k % 8 / 2, at = k / 8 * 2 + k % 2;
            sum += from_bits(row[t].words[i / 2 * 4 + at]) * from_bits(column[t].words[8 + at]);
        }
        d[i] = sum;
    }
}

// Memory of the running block, aligned, or the end of the process.
inline void *checked(const Fiber &fiber, const void *at, u64 bytes) {
    const u64 offset = static_cast<const u8 *>(at) - fiber.block->shared;
    if (offset % bytes != 0) fail(fiber, "an address in shared memory is not aligned");
    if (offset >= fiber.block->shared_used) fail(fiber, "an address is not one of the block's shared memory");
    return const_cast<void *>(at);
}

inline const void *aligned(const Fiber &fiber, const void *at, u64 bytes) {
    if (reinterpret_cast<u64>(at) % bytes != 0) fail(fiber, "an address in global memory is not aligned");
    return at;
}

// A row is read when its lane comes, before others do: what they write to it needs a warp_sync first.
inline const Shown *show_row(Fiber &fiber, Wait wait, const void *row) {
    struct Row {
        u32 words[4];
    } bytes;
    memcpy(&bytes, checked(fiber, row, 16), 16);
    return show(fiber, wait, bytes);
}

// Lane l gets, of row l / 4 of each matrix, word l % 4; lanes 8 m + 0..7 name the rows of matrix m.
inline void load_words(Fiber &fiber, u32 (&r)[4], const void *row) {
    const Shown *shown = show_row(fiber, Wait::MATRICES, row);
    for (u32 m = 0; m < 4; m++) r[m] = shown[m * 8 + fiber.lane / 4].words[fiber.lane % 4];
}

// Lane l gets, of column l / 4 of each matrix, pairs of bytes of rows 2 (l % 4) and 2 (l % 4) + 1.
inline void load_columns(Fiber &fiber, u32 (&r)[4], const void *row) {
    const Shown *shown = show_row(fiber, Wait::MATRICES_TRANSPOSED, row);
    const u32 word = fiber.lane / 8, shift = fiber.lane / 4 % 2 * 16;
    for (u32 m = 0; m < 4; m++) {
        const Shown *pair = shown + m * 8 + fiber.lane % 4 * 2;
        r[m] = (pair[0].words[word] >> shift & 0xffff) | pair[1].words[word] >> shift << 16;
    }
}

// Until a copy is waited for, what it overwrites is garbage.
inline void begin_copy(Fiber &fiber, void *shared, const void *global, u32 bytes) {
    if (fiber.copying == fiber.room) {
        fiber.room = fiber.room * 2 + 16;
        fiber.copies = static_cast<Copy *>(realloc(fiber.copies, fiber.room * sizeof(Copy)));
    }
    memset(checked(fiber, shared, bytes), 0xff, bytes);
    fiber.copies[fiber.copying++] = {shared, aligned(fiber, global, bytes), bytes, fiber.group};
}

// Ends all copies but those of the newest groups, so many; what is not marked yet stays under way.
inline void end_copies(Fiber &fiber, u32 groups) {
    u32 ended = 0;
    while (ended < fiber.copying && fiber.copies[ended].group + groups < fiber.group) {
        const Copy &copy = fiber.copies[ended++];
        memcpy(copy.to, copy.from, copy.bytes);
    }
    fiber.copying -= ended;
    memmove(fiber.copies, fiber.copies + ended, fiber.copying * sizeof(Copy));
}

}  // namespace emulated
