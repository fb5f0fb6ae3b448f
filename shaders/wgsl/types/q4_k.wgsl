// Super-blocks of 256 codes of four bits: two scales, eight scales and minima of six bits, codes: 144 bytes.
fn DATA_run(row: u32, run: u32) {
    let at = row + run / 8u * 144u;
    let r = run % 8u;
    let d = DATA_half(at);
    let dmin = DATA_half(at + 2u);
    var s = DATA_byte(at + 4u + r) & 63u;
    var m = DATA_byte(at + 8u + r) & 63u;
    if (r >= 4u) {
        let nibbles = DATA_byte(at + 8u + r);
        s = (nibbles & 15u) | ((DATA_byte(at + r) >> 6u) << 4u);
        m = (nibbles >> 4u) | ((DATA_byte(at + 4u + r) >> 6u) << 4u);
    }
    let scale = d * f32(s);
    let least = dmin * f32(m);
    for (var i = 0u; i < 8u; i++) {
        let four = DATA_word(at + 16u + r / 2u * 32u + 4u * i) >> (r % 2u * 4u);
        for (var k = 0u; k < 4u; k++) {
            DATA_x[4u * i + k] = scale * f32((four >> (8u * k)) & 15u) - least;
        }
    }
}
