// Scaled dot-product attention of a row over the cells of its sequence, in the order of their places: members of a team
// take a cell each for the scores, then elements of the values. Softmax is relative to a running maximum (Milakov &
// Gimelshein 2018, arXiv:1805.02867).

struct Params {
    heads: u32,
    // Query heads a KV head.
    heads_a_group: u32,
    key_dim: u32,
    value_dim: u32,
    // Cells in reach, or 0 for all.
    window: u32,
    scale: f32,
    key_row: u32,
    key_head: u32,
    key_at: u32,
    value_row: u32,
    value_head: u32,
    value_at: u32,
    q_at: u32,
    out_at: u32,
    // That of the cache.
    of_class: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> keys: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const LEAST: f32 = -3.0e38;

fn score(q_at: u32, key: u32) -> f32 {
    var sum = 0.0;
    for (var run = 0u; run * 32u < p.key_dim; run++) {
        keys_run(key, run);
        let count = min(32u, p.key_dim - run * 32u);
        for (var i = 0u; i < count; i++) {
            sum += q[q_at + run * 32u + i] * keys_x[i];
        }
    }
    return sum * p.scale;
}

// One team: one query head of a row.
@compute @workgroup_size(LANES)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups);
    let row = t / p.heads;
    if (row >= rows_of(0u)) {
        return;
    }
    let head = t % p.heads / p.heads_a_group;
    let q_at = p.q_at + t * p.key_dim;
    let end = cells_up_to(p.of_class, row);
    let first = select(0u, end - min(end, p.window), p.window != 0u);
    var most = LEAST;
    var total = 0.0;
    var sums: array<f32, VALUES>;
    for (var base = first; base < end; base += LANES) {
        let there = base + lane < end;
        var s = LEAST;
        var cell = 0u;
        if (there) {
            cell = cell_at(p.of_class, row, base + lane);
            s = score(q_at, p.key_at + cell * p.key_row + head * p.key_head);
        }
        let risen = max(most, team_max(s, lane));
        let weight = select(0.0, exp(s - risen), there);
        let keep = exp(most - risen);
        most = risen;
        total = total * keep + team_sum(weight, lane);
        for (var k = 0u; k < VALUES; k++) {
            sums[k] *= keep;
        }
        team_give_both(weight, cell, lane);
        for (var j = 0u; j < min(LANES, end - base); j++) {
            let its = team_take(lane, j);
            let value = p.value_at + team_take_word(lane, j) * p.value_row + head * p.value_head;
            for (var k = 0u; k < VALUES; k++) {
                let e = k * LANES + lane;
                if (e < p.value_dim) {
                    sums[k] += its * values_element(value, e);
                }
            }
        }
    }
    for (var k = 0u; k < VALUES; k++) {
        let e = k * LANES + lane;
        if (e < p.value_dim) {
            out[p.out_at + t * p.value_dim + e] = sums[k] / total;
        }
    }
}
