// Codes of four bits that stand for values of a table.

#pragma once

#include "types/read.cuh"

// Sixteen bytes that codes of four bits stand for, four a word.
struct Table {
    u32 words[4];
};

// The bytes that four codes stand for, each code a byte below 16.
DEVICE u32 looked_up(const Table &table, u32 codes) {
    const u32 two = (codes | codes >> 4) & 0x00ff00ff;
    const u32 digits = (two | two >> 8) & 0x7777;
    const u32 upper = (codes >> 3 & 0x01010101) * 255;
    const u32 low = bytes_of(table.words[0], table.words[1], digits);
    const u32 high = bytes_of(table.words[2], table.words[3], digits);
    return (low & ~upper) | (high & upper);
}

// The values of IQ4 codes: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113.
DEVICE Table iq4_values() {
    return {{0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535}};
}

// The values of E2M1 codes, doubled: 0 1 2 3 4 6 8 12, then the same below 0.
DEVICE Table mxfp4_values() {
    return {{0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc}};
}

// A scale times what 32 codes stand for: four words of them, the first sixteen in the low nibbles.
DEVICE void table_run(const Table &table, f32 scale, const u32 (&words)[4], f32 (&x)[32]) {
    for (u32 i = 0; i < 4; i++) {
        const u32 low = looked_up(table, words[i] & 0x0f0f0f0f);
        const u32 high = looked_up(table, words[i] >> 4 & 0x0f0f0f0f);
        for (u32 k = 0; k < 4; k++) {
            x[4 * i + k] = scale * f32(signed_byte_of(low, k));
            x[4 * i + k + 16] = scale * f32(signed_byte_of(high, k));
        }
    }
}
