// The scale and the minimum of a run, as super-blocks of four and five bits hold them behind their two halves.
fn k_scales(at: u32, r: u32) {
    var s = w_byte(at + 4u + r) & 63u;
    var m = w_byte(at + 8u + r) & 63u;
    if (r >= 4u) {
        let nibbles = w_byte(at + 8u + r);
        s = (nibbles & 15u) | ((w_byte(at + r) >> 6u) << 4u);
        m = (nibbles >> 4u) | ((w_byte(at + 4u + r) >> 6u) << 4u);
    }
    w_scales = vec2<f32>(w_half(at) * f32(s));
    w_least = vec2<f32>(w_half(at + 2u) * f32(m));
}
