// Super-blocks of 256 codes of two bits: sixteen scales and minima of four bits, codes, then their scales: 84 bytes.
fn DATA_run(row: u32, run: u32) {
    let at = row + run / 8u * 84u;
    let r = run % 8u;
    let d = DATA_half(at + 80u);
    let dmin = DATA_half(at + 82u);
    let shift = r % 4u * 2u;
    for (var h = 0u; h < 2u; h++) {
        let packed = DATA_byte(at + 2u * r + h);
        let scale = d * f32(packed & 15u);
        let least = dmin * f32(packed >> 4u);
        for (var i = 0u; i < 4u; i++) {
            let four = DATA_word(at + 16u + r / 4u * 32u + h * 16u + 4u * i) >> shift;
            for (var k = 0u; k < 4u; k++) {
                DATA_x[h * 16u + 4u * i + k] = scale * f32((four >> (8u * k)) & 3u) - least;
            }
        }
    }
}
