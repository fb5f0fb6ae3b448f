// A row's experts as a warp has them, and the best of their scores. A lane has the experts `lane`, `lane + 32` and so on,
// LANE_EXPERTS of them. What is no number comes last of what there is; ties go to the lowest expert.

#pragma once

#include "activation.cuh"
#include "sums.cuh"

// Scores as words of their order, 0 for experts that are taken or that there are not.
struct Scores {
    u32 keys[LANE_EXPERTS];
};

// There is no -0 among sums of probabilities and biases.
DEVICE u32 key_of(f32 score) {
    if (score != score) return 1;
    const u32 bits = bits_of(score);
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000;
}

DEVICE f32 score_of(u32 key) {
    if (key == 1) return from_bits(0x7fc00000);
    return from_bits(key >> 31 != 0 ? key & 0x7fffffff : ~key);
}

// The best of some experts and its score as a word: 0 if there is none.
struct Best {
    u32 key, expert;
};

// Of the experts from `from` to `end`.
DEVICE Best best(const Scores &scores, u32 from, u32 end) {
    Best own = {0, 0};
    for (u32 k = 0; k < LANE_EXPERTS; k++) {
        const u32 e = k * 32 + threadIdx.x % 32;
        if (e >= from && e < end && scores.keys[k] > own.key) own = {scores.keys[k], e};
    }
    const u32 most = warp_max(own.key);
    return {most, ~warp_max(own.key == most ? ~own.expert : 0)};
}

DEVICE f32 worth_of(Best best) {
    return best.key == 0 ? 0.0f : score_of(best.key);
}

// What the lane that has an expert knows of it.
template <typename T>
DEVICE T of_expert(const T (&all)[LANE_EXPERTS], u32 expert) {
    T own = all[0];
    for (u32 k = 1; k < LANE_EXPERTS; k++) own = expert / 32 == k ? all[k] : own;
    return own;
}

DEVICE void take(Scores &scores, u32 expert) {
    for (u32 k = 0; k < LANE_EXPERTS; k++) {
        if (k * 32 + threadIdx.x % 32 == expert) scores.keys[k] = 0;
    }
}

// Whether group `j` of this worth comes before group `i`: what is no number comes last, ties go to the lowest.
DEVICE bool comes_before(f32 worth, u32 j, f32 than, u32 i) {
    const u32 key = key_of(worth), other = key_of(than);
    return key > other || (key == other && j < i);
}

// Makes the scores of all groups but the best minus infinity. A group is as good as the sum of its two best scores.
DEVICE void keep_groups(Scores &scores, u32 experts, u32 groups, u32 used) {
    const u32 size = experts / groups, lane = threadIdx.x % 32;
    f32 worths[LANE_EXPERTS] = {};
    for (u32 g = 0; g < groups; g++) {
        const Best first = best(scores, g * size, (g + 1) * size);
        Scores others = scores;
        take(others, first.expert);
        const f32 worth = worth_of(first) + worth_of(best(others, g * size, (g + 1) * size));
        for (u32 k = 0; k < LANE_EXPERTS; k++) worths[k] = k * 32 + lane == g ? worth : worths[k];
    }
    u32 better[LANE_EXPERTS] = {};
    for (u32 j = 0; j < groups; j++) {
        const f32 other = warp_take(of_expert(worths, j), j % 32);
        for (u32 k = 0; k < LANE_EXPERTS; k++) better[k] += comes_before(other, j, worths[k], k * 32 + lane);
    }
    for (u32 g = 0; g < groups; g++) {
        if (warp_take(of_expert(better, g), g % 32) < used) continue;
        for (u32 k = 0; k < LANE_EXPERTS; k++) {
            const u32 e = k * 32 + lane;
            if (e >= g * size && e < (g + 1) * size) scores.keys[k] = key_of(from_bits(0xff800000));
        }
    }
}

// The inverse of the sum is rounded once, as on the processor: a router's bits decide which expert is chosen.
DEVICE void softmax(f32 (&x)[LANE_EXPERTS]) {
    f32 most = from_bits(0xff800000);
    for (u32 k = 0; k < LANE_EXPERTS; k++) most = fmaxf(most, x[k]);
    for (u32 mask = 16; mask > 0; mask /= 2) most = fmaxf(most, warp_xor(most, mask));
    Sum sum = {0.0f, 0.0f};
    for (u32 k = 0; k < LANE_EXPERTS; k++) {
        x[k] = exponential(x[k] - most);
        sum = added(sum, {x[k], 0.0f});
    }
    const f32 factor = inverse(warp_sum(sum));
    for (u32 k = 0; k < LANE_EXPERTS; k++) x[k] *= factor;
}
