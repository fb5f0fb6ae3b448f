// The upper half of single precision.
fn DATA_run(row: u32, run: u32) {
    let at = row + run * 64u;
    for (var i = 0u; i < 16u; i++) {
        let two = DATA_word(at + 4u * i);
        DATA_x[2u * i] = bitcast<f32>(two << 16u);
        DATA_x[2u * i + 1u] = bitcast<f32>(two & 0xffff0000u);
    }
}

fn DATA_element(row: u32, i: u32) -> f32 {
    return bitcast<f32>(DATA_two(row + 2u * i) << 16u);
}
