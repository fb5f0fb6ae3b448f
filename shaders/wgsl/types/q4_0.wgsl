// Blocks of 32 codes of four bits, less 8, under a scale: 18 bytes; the first sixteen lie in the low nibbles.
fn DATA_run(row: u32, run: u32) {
    let at = row + run * 18u;
    let d = DATA_half(at);
    for (var i = 0u; i < 4u; i++) {
        let four = DATA_word(at + 2u + 4u * i);
        for (var k = 0u; k < 4u; k++) {
            DATA_x[4u * i + k] = (f32((four >> (8u * k)) & 15u) - 8.0) * d;
            DATA_x[4u * i + k + 16u] = (f32((four >> (8u * k + 4u)) & 15u) - 8.0) * d;
        }
    }
}

fn DATA_element(row: u32, i: u32) -> f32 {
    let at = row + i / 32u * 18u;
    let code = (DATA_byte(at + 2u + i % 16u) >> (i / 16u % 2u * 4u)) & 15u;
    return (f32(code) - 8.0) * DATA_half(at);
}
