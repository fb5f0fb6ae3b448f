// Blocks of 32 codes of four bits over a minimum: 20 bytes.
fn DATA_run(row: u32, run: u32) {
    let at = row + run * 20u;
    let d = DATA_half(at);
    let m = DATA_half(at + 2u);
    for (var i = 0u; i < 4u; i++) {
        let four = DATA_word(at + 4u + 4u * i);
        for (var k = 0u; k < 4u; k++) {
            DATA_x[4u * i + k] = f32((four >> (8u * k)) & 15u) * d + m;
            DATA_x[4u * i + k + 16u] = f32((four >> (8u * k + 4u)) & 15u) * d + m;
        }
    }
}
