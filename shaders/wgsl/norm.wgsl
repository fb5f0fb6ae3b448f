// `out = x / sqrt(mean(x^2) + eps) * weight` over the first elements of each slice of a row; the others are copied.

struct Params {
    dim: u32,
    // Elements of a slice that are normalised, and those behind them.
    cols: u32,
    carried: u32,
    slices: u32,
    eps: f32,
    x_at: u32,
    w_at: u32,
    out_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// What members found, then what sixteen of them did.
var<workgroup> found: array<f32, 256>;

// One workgroup: one slice that is wide.
@compute @workgroup_size(256)
fn norm_wide(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let slice = number(group, groups);
    if (slice >= rows_of(p.dim) * p.slices) {
        return;
    }
    let at = slice * (p.cols + p.carried);
    var mine = 0.0;
    for (var i = own; i < p.cols; i += 256u) {
        let v = x[p.x_at + at + i];
        mine = fma(v, v, mine);
    }
    found[own] = mine;
    workgroupBarrier();
    var some = 0.0;
    for (var k = 0u; k < 16u; k++) {
        some += found[own % 16u * 16u + k];
    }
    workgroupBarrier();
    if (own < 16u) {
        found[own] = some;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var k = 0u; k < 16u; k++) {
        sum += found[k];
    }
    let factor = 1.0 / sqrt(sum / f32(p.cols) + p.eps);
    for (var i = own; i < p.cols; i += 256u) {
        out[p.out_at + at + i] = x[p.x_at + at + i] * factor * w[p.w_at + i];
    }
    for (var i = p.cols + own; i < p.cols + p.carried; i += 256u) {
        out[p.out_at + at + i] = x[p.x_at + at + i];
    }
}

// One team: one slice.
@compute @workgroup_size(LANES)
fn norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slice = number(group, groups);
    if (slice >= rows_of(p.dim) * p.slices) {
        return;
    }
    let at = slice * (p.cols + p.carried);
    var sum = 0.0;
    for (var i = lane; i < p.cols; i += LANES) {
        let v = x[p.x_at + at + i];
        sum += v * v;
    }
    let factor = 1.0 / sqrt(team_sum(sum, lane) / f32(p.cols) + p.eps);
    for (var i = lane; i < p.cols; i += LANES) {
        out[p.out_at + at + i] = x[p.x_at + at + i] * factor * w[p.w_at + i];
    }
    for (var i = p.cols + lane; i < p.cols + p.carried; i += LANES) {
        out[p.out_at + at + i] = x[p.x_at + at + i];
    }
}
