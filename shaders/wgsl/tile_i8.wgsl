// A run of a tile, in signed bytes.

// The halves of a run, all rows of one after those of the other.
var<workgroup> w_tile: array<vec4<u32>, 2u * WEIGHTS>;
var<workgroup> x_tile: array<vec4<u32>, 2u * TILE>;
// Scales and minima of the weight; the scale of x and its sums.
var<workgroup> w_scale_tile: array<vec4<f32>, WEIGHTS>;
var<workgroup> x_scale_tile: array<vec3<f32>, TILE>;

fn bring_weight(own: u32, row: u32, run: u32) {
    w_take(row, run);
    w_tile[own] = w_words(0u);
    w_tile[WEIGHTS + own] = w_words(1u);
    w_scale_tile[own] = vec4<f32>(w_scales, w_least);
}

fn bring_values(own: u32, run: u32) {
    for (var k = own; k < 2u * TILE; k += 64u) {
        x_tile[k % 2u * TILE + k / 2u] = x[(x_rows[k / 2u] + run * 32u) / 16u + k % 2u];
    }
    if (own < TILE) {
        x_scale_tile[own] = x_scale(x_rows[own] + run * 32u);
    }
}

fn add_run(across: u32, down: u32) {
    for (var a = 0u; a < ACROSS; a++) {
        let n = a * WIDE + across;
        let first = w_tile[n];
        let second = w_tile[WEIGHTS + n];
        let scales = w_scale_tile[n];
        for (var d = 0u; d < DOWN; d++) {
            let m = d * HIGH + down;
            let dots = vec2<i32>(half_dots(first, x_tile[m]), half_dots(second, x_tile[TILE + m]));
            sums[d][a] = scaled(dots, scales.xy, scales.zw, x_scale_tile[m], sums[d][a]);
        }
    }
}
