fn w_codes(row: u32, run: u32) {
    let at = row + run / 8u * 176u;
    let r = run % 8u;
    for (var i = 0u; i < 8u; i++) {
        let four = (w_word(at + 48u + r / 2u * 32u + 4u * i) >> (r % 2u * 4u)) & 0x0f0f0f0fu;
        w_q[i] = four | (((w_word(at + 16u + 4u * i) >> r) & 0x01010101u) << 4u);
    }
    k_scales(at, r);
}
