// Ops on corresponding elements: `out = activation(a) * b`, `out = a + b`.

struct Params {
    dim: u32,
    cols: u32,
    // 0 silu, 1 gelu.
    activation: u32,
    a_at: u32,
    b_at: u32,
    out_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// `1 / (1 + e^-x)`; e^88 is the largest power that is finite.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 88.0)));
}

fn activated(x: f32) -> f32 {
    if (p.activation == 0u) {
        return x * sigmoid(x);
    }
    // (1 + tanh(y)) / 2 is sigmoid(2y).
    return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
}

@compute @workgroup_size(64)
fn gated(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    if (i < rows_of(p.dim) * p.cols) {
        out[p.out_at + i] = activated(a[p.a_at + i]) * b[p.b_at + i];
    }
}

@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    if (i < rows_of(p.dim) * p.cols) {
        out[p.out_at + i] = a[p.a_at + i] + b[p.b_at + i];
    }
}
