fn w_codes(row: u32, run: u32) {
    let at = row + run * 24u;
    let fifth = w_word(at + 4u);
    for (var i = 0u; i < 4u; i++) {
        let four = w_word(at + 8u + 4u * i);
        w_q[i] = (four & 0x0f0f0f0fu) | fifths(fifth >> (4u * i));
        w_q[i + 4u] = ((four >> 4u) & 0x0f0f0f0fu) | fifths(fifth >> (4u * i + 16u));
    }
    w_scales = vec2<f32>(w_half(at));
    w_least = vec2<f32>(-w_half(at + 2u));
}
