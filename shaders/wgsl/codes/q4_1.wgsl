fn w_codes(row: u32, run: u32) {
    let at = row + run * 20u;
    for (var i = 0u; i < 4u; i++) {
        let four = w_word(at + 4u + 4u * i);
        w_q[i] = four & 0x0f0f0f0fu;
        w_q[i + 4u] = (four >> 4u) & 0x0f0f0f0fu;
    }
    w_scales = vec2<f32>(w_half(at));
    w_least = vec2<f32>(-w_half(at + 2u));
}
