// Super-blocks of 256 codes of three bits: high bits, low bits, sixteen scales of six bits, then their scale: 110 bytes.
fn DATA_run(row: u32, run: u32) {
    let at = row + run / 8u * 110u;
    let r = run % 8u;
    let d = DATA_half(at + 108u);
    let shift = r % 4u * 2u;
    for (var h = 0u; h < 2u; h++) {
        let s = 2u * r + h;
        let low = (DATA_byte(at + 96u + s % 8u) >> (s / 8u * 4u)) & 15u;
        let high = (DATA_byte(at + 104u + s % 4u) >> (s / 4u * 2u)) & 3u;
        let scale = d * (f32(low | (high << 4u)) - 32.0);
        for (var i = 0u; i < 4u; i++) {
            let four = DATA_word(at + 32u + r / 4u * 32u + h * 16u + 4u * i) >> shift;
            let mask = DATA_word(at + h * 16u + 4u * i) >> r;
            for (var k = 0u; k < 4u; k++) {
                let code = ((four >> (8u * k)) & 3u) | (((mask >> (8u * k)) & 1u) << 2u);
                DATA_x[h * 16u + 4u * i + k] = scale * (f32(code) - 4.0);
            }
        }
    }
}
