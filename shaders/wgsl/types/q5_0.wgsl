// Blocks of 32 codes of five bits, less 16, under a scale: 22 bytes; the fifth bits are one word.
fn DATA_run(row: u32, run: u32) {
    let at = row + run * 22u;
    let d = DATA_half(at);
    let fifth = DATA_word(at + 2u);
    for (var i = 0u; i < 4u; i++) {
        let four = DATA_word(at + 6u + 4u * i);
        for (var k = 0u; k < 4u; k++) {
            let e = 4u * i + k;
            let low = ((four >> (8u * k)) & 15u) | (((fifth >> e) & 1u) << 4u);
            let high = ((four >> (8u * k + 4u)) & 15u) | (((fifth >> (e + 16u)) & 1u) << 4u);
            DATA_x[e] = (f32(low) - 16.0) * d;
            DATA_x[e + 16u] = (f32(high) - 16.0) * d;
        }
    }
}
