fn w_codes(row: u32, run: u32) {
    let at = row + run * 18u;
    for (var i = 0u; i < 4u; i++) {
        let four = w_word(at + 2u + 4u * i);
        w_q[i] = less(four & 0x0f0f0f0fu, 8u);
        w_q[i + 4u] = less((four >> 4u) & 0x0f0f0f0fu, 8u);
    }
    w_scales = vec2<f32>(w_half(at));
}
