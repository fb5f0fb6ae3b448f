// Products for few rows: eight members of a team take a row of the weight, each a class of its runs.

// Rows of the weight that a team takes.
const PLACES: u32 = LANES / CLASSES;

// One team: PLACES rows of the weight for TILE rows of x.
@compute @workgroup_size(LANES)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups);
    let teams = (p.end - p.first + PLACES - 1u) / PLACES;
    let row0 = p.from_row + t / teams * TILE;
    let end_row = min(p.to_row, rows_of(p.dim));
    if (row0 >= end_row) {
        return;
    }
    // The last tile may have fewer rows, and the last team.
    let count_rows = min(TILE, end_row - row0);
    let place = p.first + t % teams * PLACES + lane / CLASSES;
    let flat = min(place, p.end - 1u);
    let head = flat / p.rows;
    let n = flat % p.rows;
    let x_at = p.x_at + (row0 - p.from_row) * p.x_row + head * p.x_head;
    var sums: array<f32, TILE>;
    for (var run = lane % CLASSES; run * 32u < p.cols; run += CLASSES) {
        w_take(p.w_at + (flat - p.first) * p.row_bytes, run);
        let count = min(32u, p.cols - run * 32u);
        for (var j = 0u; j < TILE; j++) {
            if (j < count_rows) {
                sums[j] = run_sum(x_at + j * p.x_row + run * 32u, count, sums[j]);
            }
        }
    }
    for (var j = 0u; j < TILE; j++) {
        let sum = eight_sum(sums[j], lane);
        if (j < count_rows && place < p.end && lane % CLASSES == j) {
            put(sum, n, (row0 - p.from_row + j) * p.out_row + head * p.out_head + n);
        }
    }
}

// One team: PLACES rows of the chosen expert's matrix for one slot.
@compute @workgroup_size(LANES)
fn experts(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups);
    let teams = (p.rows + PLACES - 1u) / PLACES;
    let slot = p.from_row * p.used + t / teams;
    if (slot >= min(p.to_row, rows_of(p.dim)) * p.used) {
        return;
    }
    let expert = routing[p.routing_at + 2u * slot];
    if (expert < p.first_expert || expert >= p.end_expert) {
        return;
    }
    let n = t % teams * PLACES + lane / CLASSES;
    let place = expert * p.rows + min(n, p.rows - 1u);
    let there = n < p.rows && place >= p.first && place < p.end;
    let flat = clamp(place, p.first, p.end - 1u);
    let own = slot - p.from_row * p.used;
    let x_at = p.x_at + select(own / p.used, own, p.slotted != 0u) * p.cols;
    var mine = 0.0;
    for (var run = lane % CLASSES; run * 32u < p.cols; run += CLASSES) {
        w_take(p.w_at + (flat - p.first) * p.row_bytes, run);
        mine = run_sum(x_at + run * 32u, min(32u, p.cols - run * 32u), mine);
    }
    let sum = eight_sum(mine, lane);
    if (there && lane % CLASSES == 0u) {
        put(sum, place, own * p.rows + n);
    }
}
