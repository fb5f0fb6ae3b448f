// Super-blocks of 256 codes of six bits: low bits, high bits, sixteen scales of a byte, then their scale: 210 bytes.
fn DATA_run(row: u32, run: u32) {
    let at = row + run / 8u * 210u;
    let r = run % 8u;
    let d = DATA_half(at + 208u);
    for (var h = 0u; h < 2u; h++) {
        let scale = d * f32(extractBits(bitcast<i32>(DATA_byte(at + 192u + 2u * r + h)), 0u, 8u));
        for (var i = 0u; i < 4u; i++) {
            let b = h * 16u + 4u * i;
            let low = DATA_word(at + r / 4u * 64u + r % 2u * 32u + b) >> (r / 2u % 2u * 4u);
            let high = DATA_word(at + 128u + r / 4u * 32u + b) >> (r % 4u * 2u);
            for (var k = 0u; k < 4u; k++) {
                let code = ((low >> (8u * k)) & 15u) | (((high >> (8u * k)) & 3u) << 4u);
                DATA_x[b + k] = scale * (f32(code) - 32.0);
            }
        }
    }
}
