// Heads of the cells of a tile into shared memory, as products need them: copied as they are, or decoded, from where they
// lie or from pieces of 16 bytes that were copied before. A cell that there is none of becomes zeros.

#pragma once

#include "attention_shape.cuh"

// The head of a KV head in the cells of a cache.
struct Heads {
    const u8 *first;
    u64 row_bytes;

    DEVICE const u8 *of(u32 cell) const {
        return first + cell * row_bytes;
    }

    // Bytes of the piece that it begins in before its beginning.
    DEVICE u32 before(u32 cell) const {
        return reinterpret_cast<u64>(of(cell)) % 16;
    }
};

typedef Few<Element, 8> Eight;

template <typename T>
DEVICE T load(const u8 *at, u32 index) {
    return reinterpret_cast<const T *>(at)[index];
}

#if ON_TENSORS

// Two bytes, each without its sign 1024 more: halves so.
DEVICE u32 two_of_1024(u32 two) {
    return bytes_of(two, 0x64646464u, 0x4140u);
}

// Eight elements of a head from element 8 `eight` on; those past its end are 0.
template <u32 type, u32 dim>
DEVICE Eight eight_of(const u8 *head, u32 eight) {
    Eight out = {};
    if constexpr (type == Q8_0 || type == Q4_0) {
        const u8 *block = head + eight / 4 * head_bytes(type, 32);
        u32 d = load<u16>(block, 0) * 0x10001u;
        const u8 *codes = block + 2 + eight % (type == Q8_0 ? 4 : 2) * 8;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 two = load<u16>(codes, i), x;
            // Less 1024 and 128, less 1024 and 8.
            if (type == Q8_0) x = halves_sum(two_of_1024(two ^ 0x8080u), 0xe480e480u);
            if (type == Q4_0) x = halves_sum(two_of_1024(two >> eight / 2 % 2 * 4 & 0x0f0fu), 0xe408e408u);
            x = halves_product(x, d);
            out.x[2 * i] = u16(x);
            out.x[2 * i + 1] = u16(x >> 16);
        }
    } else if constexpr (as_needed(type, dim)) {
        out = load<Eight>(head, eight);
    } else {
        for (u32 i = 0; i < 8; i++) out.x[i] = 8 * eight + i < dim ? load<u16>(head, 8 * eight + i) : 0;
    }
    return out;
}

#else

template <u32 type>
DEVICE f32 element(const u8 *head, u32 e) {
    if (type == F32) return load<f32>(head, e);
    if (type == BF16) return from_bf16(load<u16>(head, e));
    if (type == F16) return from_half(load<u16>(head, e));
    const u8 *block = head + e / 32 * head_bytes(type, 32);
    i32 code = type == Q8_0 ? load<i8>(block, 2 + e % 32) : i32(block[2 + e % 16] >> e / 16 % 2 * 4 & 15) - 8;
    return from_half(load<u16>(block, 0)) * f32(code);
}

template <u32 type, u32 dim>
DEVICE Eight eight_of(const u8 *head, u32 eight) {
    Eight out;
    for (u32 i = 0; i < 8; i++) out.x[i] = 8 * eight + i < dim ? element<type>(head, 8 * eight + i) : 0.0f;
    return out;
}

#endif

// Decodes a tile, from the pieces if there are any.
template <typename S, u32 type, u32 dim, u32 stride>
DEVICE void decode_tile(Element *tile, const u8 *pieces, const Heads &heads, const u32 *cells) {
    constexpr u32 eights = (dim + 7) / 8, apart = pieces_bytes(head_bytes(type, dim));
#pragma unroll 4
    for (u32 i = threadIdx.x; i < CELLS * eights; i += S::threads) {
        u32 n = i / eights, eight = i % eights, cell = cells[n];
        Eight x = {};
        if (cell != NONE) {
            const u8 *head = S::ahead ? pieces + n * apart + heads.before(cell) : heads.of(cell);
            x = eight_of<type, dim>(head, eight);
        }
        *reinterpret_cast<Eight *>(tile + n * stride + eight * 8) = x;
    }
}

// Begins to copy pieces of heads that are so many bytes.
template <typename S, u32 bytes>
DEVICE void copy_pieces(u8 *pieces, const Heads &heads, const u32 *cells) {
    constexpr u32 apart = pieces_bytes(bytes), count = apart / 16;
#pragma unroll S::copies
    for (u32 i = threadIdx.x; i < CELLS * count; i += S::threads) {
        u32 cell = cells[i / count], at = i % count * 16;
        if (cell == NONE) continue;
        u32 before = heads.before(cell);
        if (at < before + bytes) copy16(pieces + i / count * apart + at, heads.of(cell) - before + at);
    }
}

// Begins to copy a tile of heads that are as they are needed.
template <typename S, u32 dim, u32 stride>
DEVICE void copy_tile(Element *tile, const Heads &heads, const u32 *cells) {
    constexpr u32 each = 16 / sizeof(Element), count = dim / each;
#pragma unroll S::copies
    for (u32 i = threadIdx.x; i < CELLS * count; i += S::threads) {
        u32 cell = cells[i / count];
        Element *to = tile + i / count * stride + i % count * each;
        if (cell != NONE) {
            copy16(to, heads.of(cell) + i % count * 16);
        } else {
            *reinterpret_cast<Few<Element, each> *>(to) = {};
        }
    }
}

// Zeros in the columns of keys past their end, which nothing else writes.
template <typename S>
DEVICE void clear_past_keys(Element *tile) {
    constexpr u32 columns = KEY_ROW - KEY_DIM;
    for (u32 i = threadIdx.x; i < CELLS * columns; i += S::threads) tile[i / columns * KEY_ROW + KEY_DIM + i % columns] = 0;
}
