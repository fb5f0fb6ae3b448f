// Reading blocks, which begin at any even byte, or, of an odd number of bytes, at any.

#pragma once

#include "machine.cuh"

DEVICE u32 read_two(const u8 *even) {
    return *reinterpret_cast<const u16 *>(even);
}

DEVICE u32 read_word(const u8 *even) {
    return read_two(even) | read_two(even + 2) << 16;
}

DEVICE u32 read_word_anywhere(const u8 *at) {
    return at[0] | u32(at[1]) << 8 | u32(at[2]) << 16 | u32(at[3]) << 24;
}

DEVICE f32 read_half(const u8 *even) {
    return from_half(u16(read_two(even)));
}

// One of the four bytes of a word.
DEVICE u32 byte_of(u32 word, u32 k) {
    return word >> (8 * k) & 255;
}

DEVICE i32 signed_byte_of(u32 word, u32 k) {
    return i32(word << (24 - 8 * k)) >> 24;
}
