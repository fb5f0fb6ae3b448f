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

#ifndef SAME
#define SAME 0
#endif

// On tensor cores, or in single precision.
#if TENSOR_CORES && KEYS != F32 && VALUES != F32
#define ON_TENSORS 1
typedef u16 Element;
#else
#define ON_TENSORS 0
typedef f32 Element;
#endif

constexpr u32 THREADS = 128;
constexpr u32 NONE = 0xffffffffu;

// What lies beyond the largest number that a score is compared with at first.
constexpr f32 LEAST = -3.0e38f;

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

// Cells of a tile, a divisor of 256.
constexpr u32 CELLS = ON_TENSORS ? (KEY_COLS + VALUE_COLS <= 256 ? 64 : 32) : WIDER <= 128 ? 32 : WIDER <= 256 ? 16 : 8;

// Eights of them.
constexpr u32 EIGHTS = CELLS / 8;

// Queries against bf16 keys, and weights against bf16 values, are a sum of two bf16.
constexpr u32 KEY_TERMS = ON_TENSORS && KEYS == BF16 ? 2 : 1;

// Whether rows are as they are needed, and copied by 16 bytes.
DEVICE constexpr bool as_needed(u32 type, u32 dim) {
    return ON_TENSORS ? (type == F16 || type == BF16) && dim % 8 == 0 : type == F32 && dim % 4 == 0;
}

constexpr bool COPIED = as_needed(KEYS, KEY_DIM) && as_needed(VALUES, VALUE_DIM);

// Groups of 16 vectors of a block that takes many rows.
constexpr u32 MANY = !ON_TENSORS || VALUE_COLS > 256 ? 1 : VALUE_COLS > 128 || KEY_TERMS == 2 ? 2 : 4;

// A block of so many groups: shared memory from its start on, in bytes.
template <u32 groups>
struct Shape {
    static constexpr u32 vectors = 16 * groups;
    // Warps of a group.
    static constexpr u32 warps = THREADS / 32 / groups;
    // Eights of cells of which a warp computes scores, sixteens of elements of the values that it sums.
    static constexpr u32 own_eights = (EIGHTS + warps - 1) / warps;
    static constexpr u32 own_sixteens = (VALUE_COLS / 16 + warps - 1) / warps;
    static constexpr u32 query_elements = KEY_TERMS * vectors * KEY_ROW;
    static constexpr u32 stage_elements = CELLS * (KEY_ROW + (SAME ? 0 : VALUE_ROW));
    static constexpr u32 scores_bytes = warps == 1 ? 0 : groups * EIGHTS * 32 * 16;
    static constexpr u32 fixed_bytes = query_elements * sizeof(Element) + scores_bytes + 2 * CELLS * 4;
    static constexpr u32 two_stages = fixed_bytes + 2 * stage_elements * sizeof(Element);
    static constexpr u32 stages = COPIED && two_stages <= 99 * 1024 ? 2 : 1;
    static constexpr u32 bytes = fixed_bytes + stages * stage_elements * sizeof(Element);
};

// Shared memory of a block.
template <u32 groups>
struct Shared {
    Element *queries;
    Element *stages;
    // Scores of eights of cells as a warp's lanes hold them.
    f32 *scores;
    // The cells of two tiles.
    u32 *cells;

    DEVICE explicit Shared(u8 *all) {
        typedef Shape<groups> S;
        queries = reinterpret_cast<Element *>(all);
        stages = queries + S::query_elements;
        scores = reinterpret_cast<f32 *>(stages + S::stages * S::stage_elements);
        cells = reinterpret_cast<u32 *>(scores + S::scores_bytes / 4);
    }

    DEVICE Element *keys(u32 stage) const {
        return stages + stage * Shape<groups>::stage_elements;
    }

    DEVICE Element *values(u32 stage) const {
        return keys(stage) + (SAME ? 0 : CELLS * KEY_ROW);
    }
};

// Numbers that are loaded and stored together.
template <typename T, u32 count>
struct alignas(sizeof(T) * count) Few {
    T x[count];
};
