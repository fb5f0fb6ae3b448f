// Values that are multiplied, by fours: rows of whole runs that begin at a multiple of four numbers.

@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;

// Numbers from `at` on times those that were decoded, of which there are thirty-two.
fn x_dot(at: u32, count: u32) -> f32 {
    var sum = vec4<f32>();
    for (var i = 0u; i < 8u; i++) {
        sum += x[(at >> 2u) + i] * vec4<f32>(w_x[4u * i], w_x[4u * i + 1u], w_x[4u * i + 2u], w_x[4u * i + 3u]);
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}
