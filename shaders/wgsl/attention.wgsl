// Scaled dot-product attention of a row over the cells of its sequence, in the order of their places: members of a team
// take a cell each for the scores, then elements of the values. Softmax is relative to a running maximum (Milakov &
// Gimelshein 2018, arXiv:1805.02867). Cells fall into tiles of SPAN places from the start of the sequence on, each summed
// by itself and then added to those before it: by the team that sums them all, or, where rows are few, by a team for each
// tile and one that merges them. Both do the same in the same order.

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
    // Where parts begin, and how many a row and head has room for.
    parts_at: u32,
    parts: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> keys: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> parts: array<f32>;

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

// The largest score of the cells so far, the sum of their weights relative to that, and of their values so weighted:
// of a tile, and of all.
var<private> tile_most: f32;
var<private> tile_total: f32;
var<private> tile_sums: array<f32, VALUES>;
var<private> most: f32;
var<private> total: f32;
var<private> sums: array<f32, VALUES>;

// Where the cells of a row begin and end.
fn reach(row: u32) -> vec2<u32> {
    let end = cells_up_to(p.of_class, row);
    return vec2<u32>(select(0u, end - min(end, p.window), p.window != 0u), end);
}

// The cells of a tile for query head `t`, counted over all rows.
fn sum_tile(t: u32, tile: u32, cells: vec2<u32>, lane: u32) {
    let row = t / p.heads;
    let head = t % p.heads / p.heads_a_group;
    let q_at = p.q_at + t * p.key_dim;
    let end = min(cells.y, (tile + 1u) * SPAN);
    tile_most = LEAST;
    tile_total = 0.0;
    tile_sums = array<f32, VALUES>();
    for (var base = max(cells.x, tile * SPAN); base < end; base += LANES) {
        let there = base + lane < end;
        var s = LEAST;
        var cell = 0u;
        if (there) {
            cell = cell_at(p.of_class, row, base + lane);
            s = score(q_at, p.key_at + cell * p.key_row + head * p.key_head);
        }
        let risen = max(tile_most, team_max(s, lane));
        let weight = select(0.0, exp(s - risen), there);
        let keep = exp(tile_most - risen);
        tile_most = risen;
        tile_total = fma(tile_total, keep, team_sum(weight, lane));
        for (var k = 0u; k < VALUES; k++) {
            tile_sums[k] *= keep;
        }
        team_give_both(weight, cell, lane);
        for (var j = 0u; j < min(LANES, end - base); j++) {
            let its = team_take(lane, j);
            let value = p.value_at + team_take_word(lane, j) * p.value_row + head * p.value_head;
            for (var k = 0u; k < VALUES; k++) {
                let e = k * LANES + lane;
                if (e < p.value_dim) {
                    tile_sums[k] = fma(its, values_element(value, e), tile_sums[k]);
                }
            }
        }
    }
}

fn begin() {
    most = LEAST;
    total = 0.0;
    sums = array<f32, VALUES>();
}

// Adds the tile at hand to those before it.
fn merge() {
    let risen = max(most, tile_most);
    let keep = exp(most - risen);
    let take = exp(tile_most - risen);
    most = risen;
    total = fma(total, keep, tile_total * take);
    for (var k = 0u; k < VALUES; k++) {
        sums[k] = fma(sums[k], keep, tile_sums[k] * take);
    }
}

fn finish(t: u32, lane: u32) {
    for (var k = 0u; k < VALUES; k++) {
        let e = k * LANES + lane;
        if (e < p.value_dim) {
            out[p.out_at + t * p.value_dim + e] = sums[k] / total;
        }
    }
}

// One team: one query head of a row.
@compute @workgroup_size(LANES)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups);
    if (t / p.heads >= rows_of(0u)) {
        return;
    }
    let cells = reach(t / p.heads);
    begin();
    for (var tile = cells.x / SPAN; tile * SPAN < cells.y; tile++) {
        sum_tile(t, tile, cells, lane);
        merge();
    }
    finish(t, lane);
}

// Where a part lies: its maximum, its sum of weights, then its values.
fn part_at(t: u32, part: u32) -> u32 {
    return p.parts_at + (t * p.parts + part) * (p.value_dim + 2u);
}

// One team: one tile of one query head of a row.
@compute @workgroup_size(LANES)
fn attention_parts(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups) / p.parts;
    let part = number(group, groups) % p.parts;
    if (t / p.heads >= rows_of(0u)) {
        return;
    }
    let cells = reach(t / p.heads);
    let tile = cells.x / SPAN + part;
    if (tile * SPAN >= cells.y) {
        return;
    }
    sum_tile(t, tile, cells, lane);
    let at = part_at(t, part);
    if (lane == 0u) {
        parts[at] = tile_most;
        parts[at + 1u] = tile_total;
    }
    for (var k = 0u; k < VALUES; k++) {
        let e = k * LANES + lane;
        if (e < p.value_dim) {
            parts[at + 2u + e] = tile_sums[k];
        }
    }
}

// One team: the parts of one query head of a row.
@compute @workgroup_size(LANES)
fn attention_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups);
    if (t / p.heads >= rows_of(0u)) {
        return;
    }
    let cells = reach(t / p.heads);
    begin();
    for (var part = 0u; (cells.x / SPAN + part) * SPAN < cells.y; part++) {
        let at = part_at(t, part);
        tile_most = parts[at];
        tile_total = parts[at + 1u];
        for (var k = 0u; k < VALUES; k++) {
            tile_sums[k] = parts[at + 2u + min(k * LANES + lane, p.value_dim - 1u)];
        }
        merge();
    }
    finish(t, lane);
}
