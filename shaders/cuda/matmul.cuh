// Products of rows with a weight, plus bias, plus residual: with one matrix, with a matrix a head, or with the matrices of
// the experts that a row chose. Rows of a weight lie as files hold them, one matrix behind the other.
//
// A sum has one order in every kernel. The columns are cut into at most eight segments, of whole units of 256 columns
// where all are such, else of 32. A segment is summed in the order of its runs of 32 (see `matmul_i8.cuh`), or by four
// sums of every fourth sixteen bytes of the weight (see `matmul_f32.cuh`). Then the segments are, the first first.
//
// Of the weight, of x and of its scales, words of sixteen bytes are read that hold a needed byte: up to the multiple of
// sixteen bytes behind their end.

#pragma once

#include "machine.cuh"
#include "step.cuh"

// Only these are multiplied in cuts, and only where there are tensor cores for them.
#if !TENSOR_CORES || !(defined(TYPE_f16) || defined(TYPE_bf16))
#undef SPLIT
#endif

struct Params {
    const u32 *args;
    // The first matrix that there is: of heads that of the first, of experts that of `first_expert`.
    const u8 *w;
    // Null where there is none. An expert's begins at `rows` times its number, whatever the first is.
    const f32 *bias;
    // Codes of x and, two words a run, their scales and sums as `acts.cu` leaves them; or x itself, and nothing.
    const void *x;
    const u32 *scales;
    // Null where there is none; lies as the value does.
    const f32 *residual;
    // Two words a slot: the expert and its weight; or, for tiles, slots by expert as `groups.cu` leaves them.
    const u32 *routing;
    f32 *out;
    u32 dim;
    // Columns, and rows of one matrix.
    u32 cols;
    u32 rows;
    u32 row_bytes;
    // Numbers from a row of x to the next, and from a head to the next.
    u32 x_row;
    u32 x_head;
    u32 out_row;
    u32 out_head;
    u32 heads;
    // Elements at the end of each head that are copied.
    u32 carried;
    // Experts a row, the first of the weight's and their end, whether x has slots.
    u32 used;
    u32 first_expert;
    u32 end_expert;
    u32 slotted;
};

// Segments at most.
constexpr u32 SEGMENTS = 8;

// Runs of a segment.
DEVICE u32 segment_runs(u32 cols) {
    if (cols % 256 == 0) return (cols / 256 + SEGMENTS - 1) / SEGMENTS * 8;
    return ((cols + 31) / 32 + SEGMENTS - 1) / SEGMENTS;
}

DEVICE u32 least_of(u32 a, u32 b) {
    return a < b ? a : b;
}

// Writes a sum, plus bias, plus residual, at `at` of the value.
DEVICE void put(const Params &p, f32 sum, u64 bias, u64 at) {
    if (p.bias != nullptr) sum += p.bias[bias];
    if (p.residual != nullptr) sum += p.residual[at];
    p.out[at] = sum;
}

// What is multiplied by a block: a matrix, and the row of it where the block begins.
struct Matrix {
    const u8 *w;
    u32 first;
    u64 bias;
};

// Row `i` of those of the block; behind the last is the last.
DEVICE const u8 *row_of(const Params &p, const Matrix &matrix, u32 i) {
    return matrix.w + u64(least_of(matrix.first + i, p.rows - 1)) * p.row_bytes;
}

// The bytes of matrices before so many.
DEVICE u64 matrices_bytes(const Params &p, u32 matrices) {
    return u64(matrices) * p.rows * p.row_bytes;
}

DEVICE u32 lead_of(const void *from) {
    return u32(reinterpret_cast<u64>(from) & 15);
}

// Begins to copy the words of sixteen bytes that hold `bytes` bytes from `from` on, at most WORDS: every fourth from `t` on.
// What is at `from` comes to be at its lead in the slot.
template <u32 WORDS>
DEVICE void copy_fourth(u8 *slot, const u8 *from, u32 bytes, u32 t) {
    u32 lead = lead_of(from);
    i32 left = i32(lead + bytes) - i32(16 * t);
    const u8 *first = from + (i32(16 * t) - i32(lead));
    u8 *to = slot + 16 * t;
#pragma unroll
    for (u32 k = 0; k < WORDS; k += 4) {
        copy16_if(left > i32(16 * k), to + 16 * k, first + 16 * k);
    }
}

// Words that hold so many bytes from a multiple of `align` on, at most.
DEVICE constexpr u32 words_around(u32 bytes, u32 align) {
    return (16 - align + bytes + 15) / 16;
}
