fn w_codes(row: u32, run: u32) {
    let at = row + run / 8u * 210u;
    let r = run % 8u;
    for (var i = 0u; i < 8u; i++) {
        let low = (w_word(at + r / 4u * 64u + r % 2u * 32u + 4u * i) >> (r / 2u % 2u * 4u)) & 0x0f0f0f0fu;
        let high = (w_word(at + 128u + r / 4u * 32u + 4u * i) >> (r % 4u * 2u)) & 0x03030303u;
        w_q[i] = less(low | (high << 4u), 32u);
    }
    let both = w_two(at + 192u + 2u * r);
    let scales = vec2<i32>(extractBits(bitcast<i32>(both), 0u, 8u), extractBits(bitcast<i32>(both), 8u, 8u));
    w_scales = w_half(at + 208u) * vec2<f32>(scales);
}
