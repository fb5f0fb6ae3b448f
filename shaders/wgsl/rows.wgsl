// Rows by index: of a weight's table, decoded, or of a value.

struct Params {
    dim: u32,
    cols: u32,
    // Rows of the table that the binding holds, and its first byte.
    first: u32,
    end: u32,
    row_bytes: u32,
    w_at: u32,
    index_at: u32,
    x_at: u32,
    out_at: u32,
    vocab: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// One invocation: thirty-two numbers of a row.
@compute @workgroup_size(64)
fn embed(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    let runs = (p.cols + 31u) / 32u;
    let row = i / runs;
    if (row >= rows_of(p.dim)) {
        return;
    }
    let id = min(index[p.index_at + row], p.vocab - 1u);
    if (id < p.first || id >= p.end) {
        return;
    }
    let run = i % runs;
    w_run(p.w_at + (id - p.first) * p.row_bytes, run);
    let count = min(32u, p.cols - run * 32u);
    for (var k = 0u; k < count; k++) {
        out[p.out_at + row * p.cols + run * 32u + k] = w_x[k] * p.scale;
    }
}

// One invocation: one number.
@compute @workgroup_size(64)
fn select_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    if (i >= rows_of(p.dim) * p.cols) {
        return;
    }
    out[p.out_at + i] = x[p.x_at + index[p.index_at + i / p.cols] * p.cols + i % p.cols];
}
