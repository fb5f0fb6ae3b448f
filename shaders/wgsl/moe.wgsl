// The choice of experts, a row at a time, and the weighted sum of what they gave.

struct Params {
    dim: u32,
    experts: u32,
    used: u32,
    // 0 softmax, 1 sigmoid.
    gating: u32,
    // Groups, and those that are kept; 0 groups: no choice among them.
    groups: u32,
    groups_used: u32,
    normalize: u32,
    scale: f32,
    has_bias: u32,
    bias_at: u32,
    logits_at: u32,
    routing_at: u32,
    cols: u32,
    // The experts that are summed.
    first: u32,
    end: u32,
    x_at: u32,
    has_shared: u32,
    shared_at: u32,
    has_residual: u32,
    residual_at: u32,
    out_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> routing: array<u32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> shared_x: array<f32>;
@group(0) @binding(6) var<storage, read_write> residual: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

const NONE: f32 = -3.0e38;

// Each member has the experts `lane`, `lane + LANES` and so on.
var<private> probabilities: array<f32, EXPERTS>;
var<private> scores: array<f32, EXPERTS>;

// A score, and the expert that has it.
struct Best {
    score: f32,
    expert: u32,
}

// Of scores `from` to `end` the highest, which is that of the expert it returns: of several the lowest.
fn best(lane: u32, from_expert: u32, end_expert: u32) -> Best {
    var score = NONE;
    var expert = 0xffffffffu;
    for (var k = 0u; k < EXPERTS; k++) {
        let e = k * LANES + lane;
        if (e >= from_expert && e < end_expert && scores[k] > score) {
            score = scores[k];
            expert = e;
        }
    }
    let most = team_max(score, lane);
    let least = team_least(select(0xffffffffu, expert, score == most), lane);
    return Best(most, least);
}

fn take(lane: u32, expert: u32) {
    if (expert % LANES == lane && expert < p.experts) {
        scores[expert / LANES] = NONE;
    }
}

// One team: one row.
@compute @workgroup_size(LANES)
fn route(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = number(group, groups);
    if (row >= rows_of(p.dim)) {
        return;
    }
    var most = NONE;
    for (var k = 0u; k < EXPERTS; k++) {
        let e = k * LANES + lane;
        if (e < p.experts) {
            probabilities[k] = logits[p.logits_at + row * p.experts + e];
            most = max(most, probabilities[k]);
        }
    }
    most = team_max(most, lane);
    var sum = 0.0;
    for (var k = 0u; k < EXPERTS; k++) {
        if (k * LANES + lane < p.experts) {
            if (p.gating == 0u) {
                probabilities[k] = exp(probabilities[k] - most);
            } else {
                probabilities[k] = 1.0 / (1.0 + exp(min(-probabilities[k], 88.0)));
            }
            sum += probabilities[k];
        }
    }
    let inverse = select(1.0, 1.0 / team_sum(sum, lane), p.gating == 0u);
    for (var k = 0u; k < EXPERTS; k++) {
        let e = k * LANES + lane;
        if (e < p.experts) {
            probabilities[k] *= inverse;
            scores[k] = probabilities[k];
            if (p.has_bias != 0u) {
                scores[k] += bias[p.bias_at + e];
            }
        }
    }
    if (p.groups != 0u) {
        keep_groups(lane);
    }
    choose(lane, row);
}

// A group is worth the sum of its two best scores; all but the best are out. Ties go to the lowest.
fn keep_groups(lane: u32) {
    let size = p.experts / p.groups;
    // The worth of every group, as kept by the member of its number; of more groups than members, in turn.
    var worths: array<f32, EXPERTS>;
    for (var g = 0u; g < p.groups; g++) {
        let first = best(lane, g * size, (g + 1u) * size);
        take(lane, first.expert);
        let second = best(lane, g * size, (g + 1u) * size);
        if (first.expert % LANES == lane && first.expert < p.experts) {
            scores[first.expert / LANES] = first.score;
        }
        if (g % LANES == lane) {
            worths[g / LANES] = first.score + second.score;
        }
    }
    var kept: array<u32, EXPERTS>;
    for (var i = 0u; i < p.groups_used; i++) {
        var worth = NONE;
        var g = 0xffffffffu;
        for (var k = 0u; k < EXPERTS; k++) {
            let own = k * LANES + lane;
            if (own < p.groups && kept[k] == 0u && worths[k] > worth) {
                worth = worths[k];
                g = own;
            }
        }
        let most = team_max(worth, lane);
        let chosen = team_least(select(0xffffffffu, g, worth == most), lane);
        if (chosen % LANES == lane && chosen < p.groups) {
            kept[chosen / LANES] = 1u;
        }
    }
    for (var g = 0u; g < p.groups; g++) {
        let stays = team_least(select(1u, kept[g / LANES], g % LANES == lane), lane);
        for (var k = 0u; k < EXPERTS; k++) {
            let e = k * LANES + lane;
            if (stays == 0u && e >= g * size && e < (g + 1u) * size) {
                scores[k] = NONE;
            }
        }
    }
}

// The least sum that chosen weights are divided by: the smallest normal number of half precision.
const LEAST_SUM: f32 = 6.103515625e-5;

fn choose(lane: u32, row: u32) {
    let at = p.routing_at + row * p.used * 2u;
    var sum = 0.0;
    for (var slot = 0u; slot < p.used; slot++) {
        // Where nothing is left but what is no number, slots take experts in turn.
        let found = best(lane, 0u, p.experts).expert;
        let expert = select(found, slot, found >= p.experts);
        let mine = expert % LANES == lane;
        var weight = 0.0;
        if (mine) {
            weight = probabilities[expert / LANES];
        }
        weight = team_sum(weight, lane);
        sum += weight;
        take(lane, expert);
        if (lane == 0u) {
            routing[at + 2u * slot] = expert;
            routing[at + 2u * slot + 1u] = bitcast<u32>(weight);
        }
    }
    let whole = select(1.0, max(sum, LEAST_SUM), p.normalize != 0u);
    if (lane == 0u) {
        for (var slot = 0u; slot < p.used; slot++) {
            let weight = bitcast<f32>(routing[at + 2u * slot + 1u]);
            routing[at + 2u * slot + 1u] = bitcast<u32>(weight / whole * p.scale);
        }
    }
}

// One invocation: one element of a row.
@compute @workgroup_size(64)
fn combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    if (i >= rows_of(p.dim) * p.cols) {
        return;
    }
    let row = i / p.cols;
    var sum = 0.0;
    for (var slot = row * p.used; slot < (row + 1u) * p.used; slot++) {
        let expert = routing[p.routing_at + 2u * slot];
        if (expert >= p.first && expert < p.end) {
            sum += x[p.x_at + slot * p.cols + i % p.cols] * bitcast<f32>(routing[p.routing_at + 2u * slot + 1u]);
        }
    }
    if (p.has_shared != 0u) {
        sum += shared_x[p.shared_at + i];
    }
    if (p.has_residual != 0u) {
        sum += residual[p.residual_at + i];
    }
    out[p.out_at + i] = sum;
}
