// Values that are multiplied as they are.

fn four_sum(a: vec4<f32>, b: vec4<f32>, before: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, before))));
}

fn w_take(row: u32, run: u32) {
    w_run(row, run);
}

// The sum of a run behind `before`: numbers of x from `at` on, and what was taken.
fn run_sum(at: u32, count: u32, before: f32) -> f32 {
    var sum = before;
    for (var i = 0u; i < 8u; i++) {
        sum = four_sum(w_four(i, count), x_four(at, i, count), sum);
    }
    return sum;
}
