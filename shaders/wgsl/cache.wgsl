// Rows into the cells of a cache: cell after cell, each a row as files hold it.

struct Params {
    zero: u32,
    cols: u32,
    row_bytes: u32,
    run_bytes: u32,
    x_at: u32,
    state_at: u32,
    // That of the cache.
    of_class: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> state: array<atomic<u32>>;

// One invocation: thirty-two elements of a row.
@compute @workgroup_size(64)
fn cache(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    let runs = (p.cols + 31u) / 32u;
    let row = i / runs;
    if (row >= rows_of(0u)) {
        return;
    }
    let run = i % runs;
    let count = min(32u, p.cols - run * 32u);
    for (var k = 0u; k < count; k++) {
        run_x[k] = x[p.x_at + row * p.cols + run * 32u + k];
    }
    STORE(p.state_at + cell_written(p.of_class, row) * p.row_bytes + run * p.run_bytes, count);
}
