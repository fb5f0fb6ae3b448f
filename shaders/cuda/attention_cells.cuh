// Rows of caches into shared memory as a tile's products need them: copied while others are computed, or decoded.

#pragma once

#include "attention_shape.cuh"

DEVICE u32 two_bytes(const u8 *at) {
    return *reinterpret_cast<const u16 *>(at);
}

// Element `e` of a row of numbers that are no blocks.
template <u32 type>
DEVICE f32 number(const u8 *row, u32 e) {
    if (type == F32) return reinterpret_cast<const f32 *>(row)[e];
    u16 bits = reinterpret_cast<const u16 *>(row)[e];
    return type == BF16 ? from_bf16(bits) : from_half(bits);
}

// Eight elements of a row from element 8 `eight` on; those past its end are 0.
template <u32 type, u32 dim>
DEVICE void decode(f32 (&x)[8], const u8 *row, u32 eight) {
    if (type == Q8_0) {
        const u8 *block = row + eight / 4 * 34;
        f32 d = from_half(u16(two_bytes(block)));
        for (u32 i = 0; i < 4; i++) {
            u32 two = two_bytes(block + 2 + 8 * (eight % 4) + 2 * i);
            x[2 * i] = d * f32(i8(two));
            x[2 * i + 1] = d * f32(i8(two >> 8));
        }
    } else if (type == Q4_0) {
        const u8 *block = row + eight / 4 * 18;
        f32 d = from_half(u16(two_bytes(block)));
        for (u32 i = 0; i < 4; i++) {
            u32 two = two_bytes(block + 2 + 8 * (eight % 2) + 2 * i) >> (eight / 2 % 2 * 4);
            x[2 * i] = d * f32(i32(two & 15) - 8);
            x[2 * i + 1] = d * f32(i32(two >> 8 & 15) - 8);
        }
    } else {
        for (u32 i = 0; i < 8; i++) {
            u32 e = 8 * eight + i;
            x[i] = e < dim ? number<type>(row, e) : 0.0f;
        }
    }
}

// Eight numbers as elements of a tile.
template <u32 type>
DEVICE void put(f32 *to, const f32 (&x)[8]) {
    for (u32 i = 0; i < 8; i++) to[i] = x[i];
}

template <u32 type>
DEVICE void put(u16 *to, const f32 (&x)[8]) {
    Few<u16, 8> bits;
    for (u32 i = 0; i < 8; i++) bits.x[i] = type == BF16 ? to_bf16(x[i]) : to_half(x[i]);
    *reinterpret_cast<Few<u16, 8> *>(to) = bits;
}

// A head of the cells of a tile; a cell that there is none of becomes zeros.
template <u32 type, u32 dim, u32 stride>
DEVICE void decode_tile(Element *tile, const u8 *head, u64 row_bytes, const u32 *cells) {
    constexpr u32 eights = (dim + 7) / 8;
    for (u32 i = threadIdx.x; i < CELLS * eights; i += THREADS) {
        u32 cell = cells[i / eights];
        f32 x[8] = {};
        if (cell != NONE) decode<type, dim>(x, head + cell * row_bytes, i % eights);
        put<type>(tile + i / eights * stride + i % eights * 8, x);
    }
}

// The same where elements lie as they are needed: begins to copy them.
template <u32 dim, u32 stride>
DEVICE void copy_tile(Element *tile, const u8 *head, u64 row_bytes, const u32 *cells) {
    constexpr u32 each = 16 / sizeof(Element);
    constexpr u32 chunks = dim / each;
    for (u32 i = threadIdx.x; i < CELLS * chunks; i += THREADS) {
        u32 cell = cells[i / chunks];
        Element *to = tile + i / chunks * stride + i % chunks * each;
        if (cell != NONE) {
            copy16(to, head + cell * row_bytes + i % chunks * 16);
        } else {
            *reinterpret_cast<Few<u32, 4> *>(to) = {};
        }
    }
}

template <u32 type, u32 dim, u32 stride>
DEVICE void fetch(Element *tile, const u8 *head, u64 row_bytes, const u32 *cells) {
    if constexpr (as_needed(type, dim)) {
        copy_tile<dim, stride>(tile, head, row_bytes, cells);
    } else {
        decode_tile<type, dim, stride>(tile, head, row_bytes, cells);
    }
}

// Zeros in the columns of a tile from `from` on, which nothing else writes.
template <u32 rows, u32 from, u32 stride>
DEVICE void clear_columns(Element *tile) {
    constexpr u32 columns = stride - from;
    for (u32 i = threadIdx.x; i < rows * columns; i += THREADS) tile[i / columns * stride + from + i % columns] = 0;
}
