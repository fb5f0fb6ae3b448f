// Values that are multiplied, by fours: rows of whole runs that begin at a multiple of four numbers.

@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;

// Numbers `4 i` to `4 i + 3` of a run that begins at `at`.
fn x_four(at: u32, i: u32, count: u32) -> vec4<f32> {
    return x[(at >> 2u) + i];
}

fn w_four(i: u32, count: u32) -> vec4<f32> {
    return vec4<f32>(w_x[4u * i], w_x[4u * i + 1u], w_x[4u * i + 2u], w_x[4u * i + 3u]);
}
