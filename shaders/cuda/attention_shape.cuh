// How attention cuts its work, from the types and dims that it is compiled for. A tile is a fixed number of cells at
// places of the sequence that are multiples of it. A block takes query vectors in groups of 16, which see the tile in
// shared memory together; the warps of a group divide the cells of a tile for the scores and the elements for the values.
// Neither changes a bit of a result: a score is a sum over the elements of a key, an element of the values is a sum over
// cells, each in one order.

#pragma once

#include "step.cuh"

#define F32 0
#define F16 1
#define BF16 2
#define Q8_0 3
#define Q4_0 4

// Whether values are the first elements of the keys.
#ifndef SAME
#define SAME 0
#endif

// Bytes of shared memory that a block may have.
#ifndef ROOM
#define ROOM 101376
#endif

// On tensor cores, or in single precision.
#if TENSOR_CORES && KEYS != F32 && VALUES != F32
#define ON_TENSORS 1
typedef u16 Element;
#else
#define ON_TENSORS 0
typedef f32 Element;
#endif

// No cell, row or vector.
constexpr u32 NONE = 0xffffffffu;

DEVICE constexpr u32 up_to(u32 n, u32 multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// Elements of a row in shared memory; 16 bytes more than it needs, so that eight rows lie in different banks.
constexpr u32 SPARE = 16 / sizeof(Element);
constexpr u32 KEY_COLS = up_to(KEY_DIM, 32);
constexpr u32 VALUE_COLS = up_to(VALUE_DIM, 16);
constexpr u32 KEY_ROW = KEY_COLS + SPARE;
constexpr u32 VALUE_ROW = SAME ? KEY_ROW : VALUE_COLS + SPARE;
constexpr u32 WIDER = KEY_COLS > VALUE_COLS ? KEY_COLS : VALUE_COLS;

// Cells of a tile, a divisor of 256, and eights of them.
constexpr u32 CELLS = ON_TENSORS ? (KEY_COLS + VALUE_COLS <= 256 ? 64 : 32) : WIDER <= 128 ? 32 : WIDER <= 256 ? 16 : 8;
constexpr u32 EIGHTS = CELLS / 8;

// Queries against bf16 keys are a sum of two bf16.
constexpr u32 KEY_TERMS = ON_TENSORS && KEYS == BF16 ? 2 : 1;

// Whether a head is as it is needed in a tile, in pieces of 16 bytes.
DEVICE constexpr bool as_needed(u32 type, u32 dim) {
    return ON_TENSORS ? (type == F16 || type == BF16) && dim % 8 == 0 : type == F32 && dim % 4 == 0;
}

constexpr bool COPIED = as_needed(KEYS, KEY_DIM) && as_needed(VALUES, VALUE_DIM);

DEVICE constexpr u32 head_bytes(u32 type, u32 dim) {
    return type == F32 ? 4 * dim : type == Q8_0 ? dim / 32 * 34 : type == Q4_0 ? dim / 32 * 18 : 2 * dim;
}

// Bytes of the pieces of 16 that a head can lie in.
DEVICE constexpr u32 pieces_bytes(u32 bytes) {
    return up_to(bytes + 16 - (bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 2), 16);
}

constexpr u32 KEY_PIECES = pieces_bytes(head_bytes(KEYS, KEY_DIM));
constexpr u32 VALUE_PIECES = pieces_bytes(head_bytes(VALUES, VALUE_DIM));

// A block of so many groups, each of so many warps, and its shared memory.
template <u32 groups_, u32 warps_>
struct Shape {
    static constexpr u32 groups = groups_;
    static constexpr u32 warps = warps_;
    static constexpr u32 vectors = 16 * groups;
    static constexpr u32 threads = 32 * groups * warps;
    // Eights of cells of which a warp computes scores, sixteens of elements of the values that it sums.
    static constexpr u32 own_eights = (EIGHTS + warps - 1) / warps;
    static constexpr u32 own_sixteens = (VALUE_COLS / 16 + warps - 1) / warps;
    // Copies that a thread begins, and steps of scores that it is in, at once: as registers are enough.
    static constexpr u32 copies = own_sixteens > 8 ? 2 : 4;
    static constexpr u32 steps = warps == 1 ? 1 : 4;
    static constexpr u32 query_elements = KEY_TERMS * vectors * KEY_ROW;
    static constexpr u32 tile_elements = CELLS * (KEY_ROW + (SAME ? 0 : VALUE_ROW));
    static constexpr u32 tile_bytes = tile_elements * sizeof(Element);
    static constexpr u32 pieces_bytes = CELLS * (KEY_PIECES + (SAME ? 0 : VALUE_PIECES));
    static constexpr u32 scores_bytes = warps == 1 ? 0 : groups * EIGHTS * 32 * 16;
    static constexpr u32 least_bytes = query_elements * sizeof(Element) + tile_bytes + scores_bytes + 4 * CELLS * 4;
    // Whether the next tile comes while one is computed: as it is needed, or as it lies, to be decoded then.
    static constexpr u32 ahead_bytes = least_bytes + (COPIED ? tile_bytes : 2 * pieces_bytes);
    static constexpr bool ahead = ON_TENSORS && ahead_bytes <= ROOM;
    static constexpr u32 bytes = ahead ? ahead_bytes : least_bytes;
};

template <bool first, typename A, typename B>
struct Choose {
    typedef A Type;
};

template <typename A, typename B>
struct Choose<false, A, B> {
    typedef B Type;
};

typedef Choose<Shape<2, 4>::least_bytes <= ROOM, Shape<2, 4>, Shape<1, 8>>::Type Large;
typedef Choose<Shape<4, 2>::ahead, Shape<4, 2>, Large>::Type Larger;

// Blocks that take many rows: as many vectors share a tile as there is room for, in registers for two sums of values. Two
// blocks to a multiprocessor with a warp a group do least beside products.
typedef Choose<COPIED && KEY_TERMS == 1 && VALUE_COLS <= 128 && 2 * Shape<4, 1>::ahead_bytes <= ROOM, Shape<4, 1>,
               Choose<VALUE_COLS <= 256, Larger, Large>::Type>::Type WideOnTensors;
typedef Choose<ON_TENSORS, WideOnTensors, Shape<1, 4>>::Type Wide;

// Blocks that take a part of few rows.
typedef Choose<ON_TENSORS && (VALUE_COLS > 256), Larger, Shape<1, 4>>::Type Narrow;

// Shared memory of a block.
template <typename S>
struct Shared {
    Element *queries;
    Element *tiles;
    u8 *pieces;
    // Scores of eights of cells as a warp's lanes hold them.
    f32 *scores;
    // The cells of four tiles.
    u32 *cells;

    DEVICE explicit Shared(u8 *all) {
        queries = reinterpret_cast<Element *>(all);
        tiles = queries + S::query_elements;
        pieces = reinterpret_cast<u8 *>(tiles + S::tile_elements);
        scores = reinterpret_cast<f32 *>(all + S::bytes - S::scores_bytes - 16 * CELLS);
        cells = reinterpret_cast<u32 *>(all + S::bytes - 16 * CELLS);
    }

    DEVICE Element *keys(u32 turn) const {
        return tiles + (S::ahead && COPIED ? turn % 2 * S::tile_elements : 0);
    }

    DEVICE Element *values(u32 turn) const {
        return keys(turn) + (SAME ? 0 : CELLS * KEY_ROW);
    }

    DEVICE u8 *key_pieces(u32 turn) const {
        return pieces + turn % 2 * S::pieces_bytes;
    }

    DEVICE u8 *value_pieces(u32 turn) const {
        return key_pieces(turn) + CELLS * KEY_PIECES;
    }
};

// Numbers that are loaded and stored together.
template <typename T, u32 count>
struct alignas(sizeof(T) * count < 16 ? sizeof(T) * count : 16) Few {
    T x[count];
};
