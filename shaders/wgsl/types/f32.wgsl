// Single precision.
fn DATA_run(row: u32, run: u32) {
    let at = (row >> 2u) + run * 32u;
    for (var i = 0u; i < 32u; i++) {
        DATA_x[i] = bitcast<f32>(DATA[at + i]);
    }
}

fn DATA_element(row: u32, i: u32) -> f32 {
    return bitcast<f32>(DATA[(row >> 2u) + i]);
}
