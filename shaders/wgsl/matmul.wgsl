// Products of rows with a weight, plus bias, plus residual: with one matrix, with a matrix a head, or with the matrices of
// the experts that a row chose. The weight's window holds the rows `first` to `end` of all its matrices, one after the
// other. TILE rows are multiplied with a row of the weight that is decoded once; a sum's order depends on neither.

struct Params {
    dim: u32,
    // Columns, and rows of one matrix.
    cols: u32,
    rows: u32,
    first: u32,
    end: u32,
    row_bytes: u32,
    w_at: u32,
    // Rows of x that this takes.
    from_row: u32,
    to_row: u32,
    x_at: u32,
    // From a row of x to the next, and from a head to the next.
    x_row: u32,
    x_head: u32,
    out_at: u32,
    out_row: u32,
    out_head: u32,
    // Elements at the end of each head that are copied.
    carried: u32,
    heads: u32,
    has_bias: u32,
    bias_at: u32,
    has_residual: u32,
    residual_at: u32,
    // Experts a row, the first of the weight's and their end, whether x has slots.
    used: u32,
    first_expert: u32,
    end_expert: u32,
    slotted: u32,
    routing_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> routing: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// One team: one row of the weight for TILE rows of x.
@compute @workgroup_size(LANES)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups);
    let row0 = p.from_row + t / (p.end - p.first) * TILE;
    let end_row = min(p.to_row, rows_of(p.dim));
    if (row0 >= end_row) {
        return;
    }
    // The last tile may have fewer rows.
    let count_rows = min(TILE, end_row - row0);
    let flat = p.first + t % (p.end - p.first);
    let head = flat / p.rows;
    let n = flat % p.rows;
    var sums: array<f32, TILE>;
    for (var run = lane; run * 32u < p.cols; run += LANES) {
        w_run(p.w_at + (flat - p.first) * p.row_bytes, run);
        let count = min(32u, p.cols - run * 32u);
        for (var j = 0u; j < TILE; j++) {
            if (j < count_rows) {
                let at = p.x_at + (row0 + j - p.from_row) * p.x_row + head * p.x_head + run * 32u;
                sums[j] += x_dot(at, count);
            }
        }
    }
    for (var j = 0u; j < TILE; j++) {
        if (j >= count_rows) {
            break;
        }
        var sum = team_sum(sums[j], lane);
        let row = row0 + j - p.from_row;
        if (lane == 0u) {
            let at = row * p.out_row + head * p.out_head + n;
            if (p.has_bias != 0u) {
                sum += bias[p.bias_at + n];
            }
            if (p.has_residual != 0u) {
                sum += residual[p.residual_at + at];
            }
            out[p.out_at + at] = sum;
        }
    }
}

// One team: one row of the chosen expert's matrix for one slot.
@compute @workgroup_size(LANES)
fn experts(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = number(group, groups);
    let slot = p.from_row * p.used + t / p.rows;
    if (slot >= min(p.to_row, rows_of(p.dim)) * p.used) {
        return;
    }
    let expert = routing[p.routing_at + 2u * slot];
    if (expert < p.first_expert || expert >= p.end_expert) {
        return;
    }
    let n = t % p.rows;
    let flat = expert * p.rows + n;
    if (flat < p.first || flat >= p.end) {
        return;
    }
    let own = slot - p.from_row * p.used;
    let x_at = p.x_at + select(own / p.used, own, p.slotted != 0u) * p.cols;
    var mine = 0.0;
    for (var run = lane; run * 32u < p.cols; run += LANES) {
        w_run(p.w_at + (flat - p.first) * p.row_bytes, run);
        let count = min(32u, p.cols - run * 32u);
        mine += x_dot(x_at + run * 32u, count);
    }
    var sum = team_sum(mine, lane);
    if (lane == 0u) {
        if (p.has_bias != 0u) {
            sum += bias[p.bias_at + flat];
        }
        out[p.out_at + own * p.rows + n] = sum;
    }
}
