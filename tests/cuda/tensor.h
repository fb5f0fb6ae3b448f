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

typedef f32 Floats4 __attribute__((vector_size(16)));

// Of rows g and g + 8 of a and of column g of b, a lane's bytes: four from 4 t on and four from 4 t + 16.
struct __attribute__((may_alias)) Bytes {
    Words8 a[2], b;
};

DEVICE const Bytes &bytes_of_lane(const Shown &lane) {
    return *reinterpret_cast<const Bytes *>(&lane);
}

// 16 x 8 += 16 x 32 times 32 x 8 signed bytes. Lane 4 g + t holds, of the sums, those of rows g and g + 8, columns 2 t and
// 2 t + 1. They cannot overflow but by what was there.
inline void multiply_bytes(Fiber &fiber, i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    const Bytes mine = {{widened(a[0], a[2]), widened(a[1], a[3])}, widened(b[0], b[1])};
    const Shown *shown = show(fiber, Wait::MMA_BYTES, mine);
    const Shown *row = shown + fiber.lane / 4 * 4, *column = shown + fiber.lane % 4 * 8;
    Sums4 sums[4] = {};
    for (u32 t = 0; t < 4; t++) {
        const Bytes &lane = bytes_of_lane(row[t]);
        for (u32 i = 0; i < 4; i++) sums[i] += products(lane.a[i / 2], bytes_of_lane(column[i % 2 * 4 + t]).b);
    }
    for (u32 i = 0; i < 4; i++) d[i] = i32(u32(d[i]) + u32(sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3]));
}

// The same of halves: two numbers from 2 t on and two from 2 t + 8; of a, those of rows g and g + 8 side by side.
struct __attribute__((may_alias)) Floats {
    Floats4 a[2], b;
};

DEVICE const Floats &floats_of_lane(const Shown &lane) {
    return *reinterpret_cast<const Floats *>(&lane);
}

template <f32 (*number)(u16)>
DEVICE Floats4 numbers(u32 one, u32 other) {
    return Floats4{number(u16(one)), number(u16(other)), number(u16(one >> 16)), number(u16(other >> 16))};
}

// The sums of rows g, g + 8 and columns 2 t, 2 t + 1, after products with two more numbers of k.
DEVICE Floats4 two_more(Floats4 sums, Floats4 rows, Floats4 one, Floats4 other, u32 half) {
    const Sums4 low = {0, 0, 1, 1}, high = {2, 2, 3, 3}, first = {0, 4, 0, 4}, second = {1, 5, 1, 5},
                third = {2, 6, 2, 6}, last = {3, 7, 3, 7};
    sums += __builtin_shuffle(rows, low) * __builtin_shuffle(one, other, half == 0 ? first : third);
    sums += __builtin_shuffle(rows, high) * __builtin_shuffle(one, other, half == 0 ? second : last);
    return sums;
}

// 16 x 8 += 16 x 16 times 16 x 8, one k after the other.
template <f32 (*number)(u16)>
inline void multiply_floats(Fiber &fiber, Wait wait, f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    const Floats mine = {{numbers<number>(a[0], a[1]), numbers<number>(a[2], a[3])},
                         {number(u16(b[0])), number(u16(b[0] >> 16)), number(u16(b[1])), number(u16(b[1] >> 16))}};
    const Shown *shown = show(fiber, wait, mine);
    const Shown *row = shown + fiber.lane / 4 * 4, *column = shown + fiber.lane % 4 * 8;
    Floats4 sums = {d[0], d[1], d[2], d[3]};
    for (u32 t = 0; t < 4; t++)
        sums = two_more(sums, floats_of_lane(row[t]).a[0], floats_of_lane(column[t]).b, floats_of_lane(column[4 + t]).b,
                        0);
    for (u32 t = 0; t < 4; t++)
        sums = two_more(sums, floats_of_lane(row[t]).a[1], floats_of_lane(column[t]).b, floats_of_lane(column[4 + t]).b,
                        1);
    for (u32 i = 0; i < 4; i++) d[i] = sums[i];
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
