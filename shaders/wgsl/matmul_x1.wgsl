// Values that are multiplied, number by number, and as many as there are of what was decoded.

@group(0) @binding(3) var<storage, read_write> x: array<f32>;

// Numbers `4 i` to `4 i + 3` of a run that begins at `at` and has `count`, zero behind them.
fn x_four(at: u32, i: u32, count: u32) -> vec4<f32> {
    let first = at + 4u * i;
    return there(vec4<f32>(x[first], x[first + 1u], x[first + 2u], x[first + 3u]), i, count);
}

fn w_four(i: u32, count: u32) -> vec4<f32> {
    return there(vec4<f32>(w_x[4u * i], w_x[4u * i + 1u], w_x[4u * i + 2u], w_x[4u * i + 3u]), i, count);
}

fn there(four: vec4<f32>, i: u32, count: u32) -> vec4<f32> {
    return select(vec4<f32>(), four, vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count));
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
