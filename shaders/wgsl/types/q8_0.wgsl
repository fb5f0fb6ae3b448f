// Blocks of 32 signed bytes under a scale: 34 bytes.
fn DATA_run(row: u32, run: u32) {
    let at = row + run * 34u;
    let d = DATA_half(at);
    for (var i = 0u; i < 8u; i++) {
        let four = bitcast<i32>(DATA_word(at + 2u + 4u * i));
        for (var k = 0u; k < 4u; k++) {
            DATA_x[4u * i + k] = f32(extractBits(four, 8u * k, 8u)) * d;
        }
    }
}

fn DATA_element(row: u32, i: u32) -> f32 {
    let at = row + i / 32u * 34u;
    return f32(extractBits(bitcast<i32>(DATA_byte(at + 2u + i % 32u)), 0u, 8u)) * DATA_half(at);
}
