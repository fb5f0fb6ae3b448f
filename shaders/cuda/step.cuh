// The arguments of a step as kernels read them. Words: token rows, output rows, then for each class of caches where its
// words begin. These are: whether there are holes, then three numbers a token row (the cell that it is written to, the
// cells that it attends to and its own counted from the start of its sequence, where its table would begin if it left out
// none), then the tables: pages, or with holes cells.

#pragma once

#include "machine.cuh"

// Rows of a kind: 0 token rows, 1 output rows.
DEVICE u32 rows_of(const u32 *args, u32 dim) {
    return args[dim];
}

DEVICE const u32 *words_of_row(const u32 *args, u32 of_class, u32 row) {
    return args + args[2 + of_class] + 1 + 3 * row;
}

DEVICE u32 cell_written(const u32 *args, u32 of_class, u32 row) {
    return words_of_row(args, of_class, row)[0];
}

// The cells of its sequence up to a row's own.
DEVICE u32 cells_up_to(const u32 *args, u32 of_class, u32 row) {
    return words_of_row(args, of_class, row)[1];
}

// Where the table of a row's sequence would begin, as an index of words that wraps.
DEVICE u32 table_of(const u32 *args, u32 of_class, u32 row) {
    return words_of_row(args, of_class, row)[2];
}

// The cache cell at a place of the sequence that has this table.
DEVICE u32 cell_at(const u32 *args, u32 of_class, u32 table, u32 place) {
    if (args[args[2 + of_class]] != 0) return args[u32(table + place)];
    return args[u32(table + place / 16)] * 16 + place % 16;
}
