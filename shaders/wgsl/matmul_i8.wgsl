// Values that are multiplied as signed bytes, four products at a time: see `acts.wgsl` for how they lie.

@group(0) @binding(3) var<storage, read_write> x: array<vec4<u32>>;

// Products of bytes, eight words of each, sixteen a half.
fn half_dots(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

// The scale of the run that begins at number `at`, and the sums of its halves.
fn x_scale(at: u32) -> vec3<f32> {
    let run = (at - p.codes_at) / 32u;
    let two = x[(p.scales_at >> 2u) + run / 2u];
    let one = select(two.xy, two.zw, run % 2u == 1u);
    let sums = bitcast<vec2<i32>>(vec2<u32>(one.y << 16u, one.y)) >> vec2<u32>(16u);
    return vec3<f32>(bitcast<f32>(one.x), vec2<f32>(sums));
}

// The sum of a run behind `before`: its two halves of codes, with scales.
fn scaled(dots: vec2<i32>, scales: vec2<f32>, least: vec2<f32>, x_of: vec3<f32>, before: f32) -> f32 {
    let products = vec2<f32>(dots);
    var sum = 0.0;
    if (HALVES) {
        sum = fma(scales.y, products.y, scales.x * products.x);
    } else {
        sum = scales.x * (products.x + products.y);
    }
    if (MINIMA) {
        sum = fma(-least.x, x_of.y + x_of.z, sum);
    }
    return fma(x_of.x, sum, before);
}

fn w_take(row: u32, run: u32) {
    w_codes(row, run);
}

fn w_words(half: u32) -> vec4<u32> {
    return vec4<u32>(w_q[4u * half], w_q[4u * half + 1u], w_q[4u * half + 2u], w_q[4u * half + 3u]);
}

// The sum of a run behind `before`: numbers of x from `at` on, and what was taken.
fn run_sum(at: u32, count: u32, before: f32) -> f32 {
    let first = at / 16u;
    let dots = vec2<i32>(half_dots(w_words(0u), x[first]), half_dots(w_words(1u), x[first + 1u]));
    return scaled(dots, w_scales, w_least, x_scale(at), before);
}
