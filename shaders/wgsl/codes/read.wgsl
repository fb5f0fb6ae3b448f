// Signed bytes of a weight's runs: what `w_codes` leaves. Each half of a run has a scale; where a type has minima, what
// is taken off for each unit of x, too.
var<private> w_q: array<u32, 8>;
var<private> w_scales: vec2<f32>;
var<private> w_least: vec2<f32>;

// Bytes of less than 128, less a number of up to 127 each.
fn less(four: u32, number: u32) -> u32 {
    return ((four | 0x80808080u) - number * 0x01010101u) ^ 0x80808080u;
}

// Four bits, each the fifth of a byte.
fn fifths(bits: u32) -> u32 {
    return ((bits & 1u) << 4u) | ((bits & 2u) << 11u) | ((bits & 4u) << 18u) | ((bits & 8u) << 25u);
}
