fn w_codes(row: u32, run: u32) {
    let at = row + run * 34u;
    for (var i = 0u; i < 8u; i++) {
        w_q[i] = w_word(at + 2u + 4u * i);
    }
    w_scales = vec2<f32>(w_half(at));
}
