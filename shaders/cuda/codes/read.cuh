// Signed bytes of a weight's runs of 32: what the files beside this one say of a type.
//
// BLOCK_BYTES bytes hold BLOCK_RUNS runs; a block begins at a multiple of ALIGN bytes. A run has a scale, or with HALVES
// each half of it; with MINIMA what is taken off for each unit of x, too: `scales` leaves scales, then minima.
// `codes` leaves the words `t` and `t + 4` of a run's eight: what a lane holds of it for tensor cores.

#pragma once

#include "machine.cuh"

// Four bytes, two and a half number from a multiple of so many.
template <u32 ALIGN>
DEVICE u32 word_at(const u8 *from) {
    if (ALIGN == 4) return *reinterpret_cast<const u32 *>(from);
    if (ALIGN == 2) {
        const u16 *two = reinterpret_cast<const u16 *>(from);
        return u32(two[0]) | u32(two[1]) << 16;
    }
    return u32(from[0]) | u32(from[1]) << 8 | u32(from[2]) << 16 | u32(from[3]) << 24;
}

DEVICE u32 two_at(const u8 *from) {
    return *reinterpret_cast<const u16 *>(from);
}

DEVICE f32 half_at(const u8 *from) {
    return from_half(u16(two_at(from)));
}

// Numbers of few bits of which the half is none are signed once their highest bit is turned and stands as that of a byte:
// such codes are a power of two times what they stand for, and scales are divided by it.
constexpr u32 SIGNS = 0x80808080u;

// Four bits, each the bit `place` of a byte. No two of the products' bits meet.
DEVICE u32 spread(u32 bits, u32 place) {
    return (bits & 15) * (0x00204081u << place) & 0x01010101u << place;
}

// Shifted to the left, or if that is less than none to the right.
DEVICE u32 shifted(u32 bits, i32 left) {
    return left < 0 ? bits >> -left : bits << left;
}

// Sixteen signed bytes.
struct Table {
    u32 words[4];
};

// What the low, and the high, fours of bits of four bytes stand for.
DEVICE void looked_up(const Table &table, u32 four, u32 &low, u32 &high) {
    u32 which = 0x32103210u | (four & 0x88888888u) >> 1;
    u32 place = four & 0x77777777u;
    u32 first = bytes_of(bytes_of(table.words[0], table.words[1], place & 0xffffu),
                         bytes_of(table.words[2], table.words[3], place & 0xffffu), which & 0xffffu);
    u32 second = bytes_of(bytes_of(table.words[0], table.words[1], place >> 16),
                          bytes_of(table.words[2], table.words[3], place >> 16), which >> 16);
    low = bytes_of(first, second, 0x6420u);
    high = bytes_of(first, second, 0x7531u);
}

// -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113
DEVICE Table iq4_table() {
    return {{0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u}};
}
