// The choice of experts, a row at a time, and the weighted sum of what they gave.
//
// route (compiled with LANE_EXPERTS, experts over 32): a warp a row; grid rows of the step over 4; block 128.
// combine: grid rows of the step, then columns over 256; block 256. Neither needs shared memory.

#include "step.cuh"

#ifdef LANE_EXPERTS
#include "route.cuh"
#endif

struct Params {
    const u32 *args;
    // What is added to probabilities for the choice, or null.
    const f32 *bias;
    const f32 *logits;
    // Of each slot the expert and its weight.
    u32 *routing;
    const f32 *x;
    // What is added to the sum, first and second, or null.
    const f32 *shared_x;
    const f32 *residual;
    f32 *out;
    u32 dim;
    u32 experts;
    u32 used;
    // 0 softmax, 1 sigmoid.
    u32 gating;
    // Groups, and those that are kept; 0 groups: no choice among them.
    u32 groups;
    u32 groups_used;
    u32 normalize;
    f32 scale;
    u32 cols;
    // The experts that are summed.
    u32 first;
    u32 end;
};

#ifdef LANE_EXPERTS

// The least sum that chosen weights are divided by: the smallest normal number of half precision.
constexpr f32 LEAST_SUM = 6.103515625e-5f;

// Writes a row's choices, the best first. A lane keeps what it writes of every 32nd slot.
DEVICE void choose(const Params &p, const f32 (&probabilities)[LANE_EXPERTS], Scores &scores, u32 *routing) {
    const u32 lane = threadIdx.x % 32;
    f32 sum = 0.0f;
    for (u32 slot = 0; slot < p.used; slot++) {
        // Where all are taken already, the first.
        const u32 expert = best(scores, 0, p.experts).expert;
        const f32 weight = warp_take(of_expert(probabilities, expert), expert % 32);
        sum += weight;
        take(scores, expert);
        if (lane != slot % 32) continue;
        routing[2 * slot] = expert;
        routing[2 * slot + 1] = bits_of(weight);
    }
    const f32 whole = p.normalize != 0 ? fmaxf(sum, LEAST_SUM) : 1.0f;
    for (u32 slot = lane; slot < p.used; slot += 32) {
        routing[2 * slot + 1] = bits_of(divided(from_bits(routing[2 * slot + 1]), whole) * p.scale);
    }
}

KERNEL(route, 128, 4) {
    const u32 row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows_of(p.args, p.dim)) return;
    f32 probabilities[LANE_EXPERTS];
    for (u32 k = 0; k < LANE_EXPERTS; k++) {
        const u32 e = k * 32 + lane;
        probabilities[k] = e < p.experts ? p.logits[u64(row) * p.experts + e] : from_bits(0xff800000);
    }
    if (p.gating == 0) softmax(probabilities);
    if (p.gating != 0) {
        for (u32 k = 0; k < LANE_EXPERTS; k++) probabilities[k] = sigmoid(probabilities[k]);
    }
    Scores scores;
    for (u32 k = 0; k < LANE_EXPERTS; k++) {
        const u32 e = k * 32 + lane;
        const f32 bias = p.bias != nullptr && e < p.experts ? p.bias[e] : 0.0f;
        scores.keys[k] = e < p.experts ? key_of(p.bias != nullptr ? probabilities[k] + bias : probabilities[k]) : 0;
    }
    if (p.groups != 0) keep_groups(scores, p.experts, p.groups, p.groups_used);
    choose(p, probabilities, scores, p.routing + u64(row) * p.used * 2);
}

#endif

// One thread: an element of a row. Slots are summed in their order, each product and sum rounded; what slots of other
// experts hold counts for nothing.
KERNEL(combine, 256, 4) {
    const u32 row = blockIdx.x, col = blockIdx.y * 256 + threadIdx.x;
    if (row >= rows_of(p.args, p.dim) || col >= p.cols) return;
    const u64 slots = u64(row) * p.used, i = u64(row) * p.cols + col;
    f32 sum = 0.0f;
#pragma unroll 8
    for (u32 slot = 0; slot < p.used; slot++) {
        const u32 expert = p.routing[2 * (slots + slot)];
        const f32 weight = from_bits(p.routing[2 * (slots + slot) + 1]), x = p.x[(slots + slot) * p.cols + col];
        sum = expert >= p.first && expert < p.end ? sum + x * weight : sum;
    }
    if (p.shared_x != nullptr) sum += p.shared_x[i];
    if (p.residual != nullptr) sum += p.residual[i];
    p.out[i] = sum;
}
