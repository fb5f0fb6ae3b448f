// What a warp computes of a tile: scores of 16 query vectors with its cells, weights relative to a running maximum
// (Milakov & Gimelshein 2018, arXiv:1805.02867), weighted values. Lanes hold numbers as the sums of `mma_halves` lie: of
// each eight columns two in rows lane / 4 and lane / 4 + 8. Scores are in powers of two.

#pragma once

#include "attention_shape.cuh"

// Weights are this power of two larger, so that halves hold small ones too.
constexpr f32 LIFT = 15.0f;

// Less than any score that counts.
constexpr f32 LEAST = -3.0e38f;

// The largest score of the cells so far, the sum of their weights relative to that, and their values so weighted.
template <u32 sixteens>
struct Sums {
    f32 most[2];
    f32 total[2];
    f32 values[sixteens][2][4];

    DEVICE void clear() {
        for (u32 r = 0; r < 2; r++) {
            most[r] = LEAST;
            total[r] = 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < sixteens * 8; i++) values[i / 8][i / 4 % 2][i % 4] = 0.0f;
    }

    // Totals of the four lanes that hold a row.
    DEVICE void complete() {
        for (u32 r = 0; r < 2; r++) {
            total[r] += warp_xor(total[r], 1);
            total[r] += warp_xor(total[r], 2);
        }
    }
};

// The sum of parts so far, of a row: a part's numbers are added to those of the parts before it. A part of which the row
// reaches no cell adds nothing, whatever the values of others' cells are.
struct Merged {
    f32 most = LEAST;
    f32 total = 0.0f;
    f32 keep;
    f32 take;

    DEVICE void add(f32 part_most, f32 part_total) {
        f32 risen = part_total == 0.0f ? most : fmaxf(most, part_most);
        keep = power_of_two(most - risen);
        take = part_total == 0.0f ? 0.0f : power_of_two(part_most - risen);
        most = risen;
        total = fmaf(total, keep, part_total * take);
    }

    DEVICE f32 value(f32 before, f32 part) const {
        return fmaf(before, keep, take == 0.0f ? 0.0f : part * take);
    }

    // A sum of nothing but -0 is 0, whatever else was added to it.
    DEVICE f32 mean(f32 sum) const {
        return divided(sum, total) + 0.0f;
    }
};

template <typename S>
using SumsOf = Sums<S::own_sixteens>;

// Whether a sixteen of elements that a warp would sum is past the last.
template <typename S>
DEVICE bool lacks(u32 sixteen) {
    return S::own_sixteens * S::warps != VALUE_COLS / 16 && sixteen >= VALUE_COLS / 16;
}

#if ON_TENSORS

// Two numbers as a type.
template <u32 type>
DEVICE u32 two_of(f32 low, f32 high) {
    return type == BF16 ? two_bf16s(low, high) : two_halves(low, high);
}

template <u32 type>
DEVICE void mma_of(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    u32 b[2] = {b0, b1};
    if constexpr (type == BF16) {
        mma_bf16s(d, a, b);
    } else {
        mma_halves(d, a, b);
    }
}

// Scores of a group's queries with the eights of the cells that are a warp's, of which `first` is the first.
template <typename S>
DEVICE void score(f32 (&s)[S::own_eights][4], const u16 *queries, const u16 *keys, u32 first) {
    constexpr u32 step = S::warps * 8 * KEY_ROW;
    if (first >= EIGHTS) return;
    u32 lane = threadIdx.x % 32;
    const u16 *q = queries + lane % 16 * KEY_ROW + lane / 16 * 8;
    const u16 *k = keys + (first * 8 + lane % 8) * KEY_ROW + lane / 8 * 8;
#pragma unroll S::steps
    for (u32 at = 0; at < KEY_COLS; at += 32) {
        u32 a[KEY_TERMS][2][4];
#pragma unroll
        for (u32 t = 0; t < KEY_TERMS; t++) {
            load_matrices(a[t][0], q + t * S::vectors * KEY_ROW + at);
            load_matrices(a[t][1], q + t * S::vectors * KEY_ROW + at + 16);
        }
#pragma unroll
        for (u32 i = 0; i < S::own_eights; i++) {
            u32 b[4];
            load_matrices(b, k + i * step + at);
#pragma unroll
            for (u32 t = 0; t < KEY_TERMS; t++) mma_of<KEYS>(s[i], a[t][0], b[0], b[1]);
#pragma unroll
            for (u32 t = 0; t < KEY_TERMS; t++) mma_of<KEYS>(s[i], a[t][1], b[2], b[3]);
        }
    }
}

// Weights of 16 cells as the first factor of a product.
template <u32 type>
DEVICE void weights_of(u32 (&a)[4], const f32 (&s)[EIGHTS][4], u32 sixteen) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) a[i] = two_of<type>(s[2 * sixteen + i / 2][i % 2 * 2], s[2 * sixteen + i / 2][i % 2 * 2 + 1]);
}

// What bf16 leaves of them.
DEVICE void rest_of(u32 (&rest)[4], const u32 (&a)[4], const f32 (&s)[EIGHTS][4], u32 sixteen) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        f32 low = s[2 * sixteen + i / 2][i % 2 * 2] - from_bits(a[i] << 16);
        rest[i] = two_bf16s(low, s[2 * sixteen + i / 2][i % 2 * 2 + 1] - from_bits(a[i] & 0xffff0000u));
    }
}

// Adds the values of a tile, weighted: sixteens of elements from `first` on.
template <typename S>
DEVICE void add_values(SumsOf<S> &sums, const f32 (&s)[EIGHTS][4], const u16 *values, u32 first) {
    u32 lane = threadIdx.x % 32;
    const u16 *v = values + lane % 16 * VALUE_ROW + lane / 16 * 8 + first * 16;
#pragma unroll
    for (u32 c = 0; c < CELLS / 16; c++) {
        u32 a[4], rest[4];
        weights_of<VALUES>(a, s, c);
        if (VALUES == BF16) rest_of(rest, a, s, c);
#pragma unroll
        for (u32 i = 0; i < S::own_sixteens; i++) {
            if (lacks<S>(first + i)) break;
            u32 b[4];
            load_matrices_transposed(b, v + c * 16 * VALUE_ROW + i * 16);
            mma_of<VALUES>(sums.values[i][0], a, b[0], b[1]);
            mma_of<VALUES>(sums.values[i][1], a, b[2], b[3]);
            if (VALUES == BF16) mma_of<VALUES>(sums.values[i][0], rest, b[0], b[1]);
            if (VALUES == BF16) mma_of<VALUES>(sums.values[i][1], rest, b[2], b[3]);
        }
    }
}

#else

template <typename S>
DEVICE void score(f32 (&s)[S::own_eights][4], const f32 *queries, const f32 *keys, u32 first) {
    constexpr u32 step = S::warps;
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 i = 0; i < S::own_eights; i++) {
        if (first + i * step >= EIGHTS) break;
        const f32 *q = queries + lane / 4 * KEY_ROW;
        const f32 *k = keys + ((first + i * step) * 8 + lane % 4 * 2) * KEY_ROW;
        for (u32 at = 0; at < KEY_COLS; at += 4) {
            Few<f32, 4> x[2], y[2];
            for (u32 r = 0; r < 2; r++) {
                x[r] = *reinterpret_cast<const Few<f32, 4> *>(q + r * 8 * KEY_ROW + at);
                y[r] = *reinterpret_cast<const Few<f32, 4> *>(k + r * KEY_ROW + at);
            }
            for (u32 j = 0; j < 16; j++) s[i][j % 4] = fmaf(x[j / 2 % 2].x[j / 4], y[j % 2].x[j / 4], s[i][j % 4]);
        }
    }
}

template <typename S>
DEVICE void add_values(SumsOf<S> &sums, const f32 (&s)[EIGHTS][4], const f32 *values, u32 first) {
    u32 lane = threadIdx.x % 32;
    const f32 *v = values + lane % 4 * 2 + first * 16;
#pragma unroll
    for (u32 c = 0; c < CELLS; c++) {
        u32 from = lane / 4 * 4 + c % 8 / 2;
        f32 weight[2] = {warp_take(s[c / 8][c % 2], from), warp_take(s[c / 8][2 + c % 2], from)};
#pragma unroll
        for (u32 i = 0; i < 2 * S::own_sixteens; i++) {
            if (lacks<S>(first + i / 2)) break;
            Few<f32, 2> x = *reinterpret_cast<const Few<f32, 2> *>(v + c * VALUE_ROW + i * 8);
            for (u32 j = 0; j < 4; j++) {
                f32 &sum = sums.values[i / 2][i % 2][j];
                sum = fmaf(weight[j / 2], x.x[j % 2], sum);
            }
        }
    }
}

#endif

// The cells that two rows of lanes attend to.
struct Reach {
    u32 from[2];
    u32 to[2];
    // Whether any lane's does.
    bool any[2];
};

// A row's scores of a tile, of which the first cell is at `place`: relative to nothing yet, least where out of reach.
// Gives their maximum.
DEVICE f32 reached(f32 (&s)[EIGHTS][4], const Reach &reach, u32 r, u32 place, f32 factor) {
    u32 column = place + threadIdx.x % 4 * 2;
    bool all = reach.from[r] <= place && place + CELLS <= reach.to[r];
    f32 most = LEAST;
#pragma unroll
    for (u32 i = 0; i < 2 * EIGHTS; i++) s[i / 2][2 * r + i % 2] *= factor;
    if (!all) {
#pragma unroll
        for (u32 i = 0; i < 2 * EIGHTS; i++) {
            u32 at = column + i / 2 * 8 + i % 2;
            if (at < reach.from[r] || at >= reach.to[r]) s[i / 2][2 * r + i % 2] = from_bits(0xff800000u);
        }
    }
#pragma unroll
    for (u32 i = 0; i < 2 * EIGHTS; i++) most = fmaxf(most, s[i / 2][2 * r + i % 2]);
    return most;
}

// Scores of a tile to weights. What was summed of the cells before becomes relative to the new maximum. Where the
// warps of a group all do this, they leave out half of it that has no vectors.
template <typename S>
DEVICE void weigh(SumsOf<S> &sums, f32 (&s)[EIGHTS][4], const Reach &reach, u32 place, f32 factor) {
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        if (S::warps > 1 && !reach.any[r]) {
#pragma unroll
            for (u32 i = 0; i < 2 * EIGHTS; i++) s[i / 2][2 * r + i % 2] = 0.0f;
            continue;
        }
        f32 most = reached(s, reach, r, place, factor);
        most = fmaxf(most, warp_xor(most, 1));
        most = fmaxf(fmaxf(most, warp_xor(most, 2)), sums.most[r]);
        f32 keep = power_of_two(sums.most[r] - most), lift = most - LIFT;
        f32 total = sums.total[r] * keep;
#pragma unroll
        for (u32 i = 0; i < 2 * EIGHTS; i++) {
            f32 &x = s[i / 2][2 * r + i % 2];
            x = power_of_two(x - lift);
            total += x;
        }
        sums.most[r] = most;
        sums.total[r] = total;
#pragma unroll
        for (u32 i = 0; i < 4 * S::own_sixteens; i++) sums.values[i / 4][i / 2 % 2][2 * r + i % 2] *= keep;
    }
}
