// Values that are multiplied, number by number.

@group(0) @binding(3) var<storage, read_write> x: array<f32>;

// Numbers from `at` on times those that were decoded.
fn x_dot(at: u32, count: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < count; i++) {
        sum += x[at + i] * w_x[i];
    }
    return sum;
}

// One invocation: one element behind a head's product.
@compute @workgroup_size(64)
fn carry(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    let row = i / (p.heads * p.carried);
    if (row >= rows_of(p.dim)) {
        return;
    }
    let head = i / p.carried % p.heads;
    let e = i % p.carried;
    out[p.out_at + row * p.out_row + head * p.out_head + p.rows + e] = x[p.x_at + row * p.x_row + head * p.x_head + p.cols + e];
}
