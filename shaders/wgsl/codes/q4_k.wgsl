fn w_codes(row: u32, run: u32) {
    let at = row + run / 8u * 144u;
    let r = run % 8u;
    for (var i = 0u; i < 8u; i++) {
        w_q[i] = (w_word(at + 16u + r / 2u * 32u + 4u * i) >> (r % 2u * 4u)) & 0x0f0f0f0fu;
    }
    k_scales(at, r);
}
