// Half precision.
fn DATA_run(row: u32, run: u32) {
    let at = row + run * 64u;
    for (var i = 0u; i < 16u; i++) {
        let two = DATA_word(at + 4u * i);
        DATA_x[2u * i] = half_bits_to_f32(two & 0xffffu);
        DATA_x[2u * i + 1u] = half_bits_to_f32(two >> 16u);
    }
}

fn DATA_element(row: u32, i: u32) -> f32 {
    return DATA_half(row + 2u * i);
}
