// Writing rows of a cache, whose words neighbouring rows may share: what is less than a word changes no other bit.
// `state` is a binding of atomic words, `run_x` what is written, STORE stands for a type.

var<private> run_x: array<f32, 32>;

// A number of the parameters that is always 0, which no compiler knows: between two operations it keeps them apart, each
// rounded on its own.
fn apart(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ p.zero);
}

fn store_two(at: u32, bits: u32) {
    let shift = (at & 2u) * 8u;
    atomicAnd(&state[at >> 2u], ~(0xffffu << shift));
    atomicOr(&state[at >> 2u], bits << shift);
}

// Two pairs of bytes, at an even byte.
fn store_four(at: u32, word: u32) {
    if ((at & 3u) == 0u) {
        atomicStore(&state[at >> 2u], word);
    } else {
        store_two(at, word & 0xffffu);
        store_two(at + 2u, word >> 16u);
    }
}

fn store_f32(at: u32, n: u32) {
    for (var i = 0u; i < n; i++) {
        atomicStore(&state[(at >> 2u) + i], bitcast<u32>(run_x[i]));
    }
}

fn store_f16(at: u32, n: u32) {
    for (var i = 0u; i < n; i++) {
        store_two(at + 2u * i, f32_to_half_bits(run_x[i]));
    }
}

fn store_bf16(at: u32, n: u32) {
    for (var i = 0u; i < n; i++) {
        store_two(at + 2u * i, f32_to_bf16_bits(run_x[i]));
    }
}

// `x / y` times, so that `x` becomes a code: zero where `x` is none.
fn inverse_of(scale: f32) -> f32 {
    if (scale == 0.0) {
        return 0.0;
    }
    return exact_quotient(1.0, scale);
}

// The largest magnitude over 127 is the scale; codes round half away from zero.
fn store_q8_0(at: u32, n: u32) {
    var most = 0.0;
    for (var i = 0u; i < 32u; i++) {
        most = max(most, abs(run_x[i]));
    }
    let scale = exact_quotient(most, 127.0);
    let inverse = inverse_of(scale);
    store_two(at, f32_to_half_bits(scale));
    for (var i = 0u; i < 8u; i++) {
        var four = 0u;
        for (var k = 0u; k < 4u; k++) {
            let x = apart(run_x[4u * i + k] * inverse);
            let whole = trunc(abs(x));
            let code = i32(whole + select(0.0, 1.0, apart(abs(x) - whole) >= 0.5));
            four |= (bitcast<u32>(select(code, -code, x < 0.0)) & 255u) << (8u * k);
        }
        store_four(at + 2u + 4u * i, four);
    }
}

// The element of the largest magnitude, the first of several, over -8 is the scale; codes round half up.
fn store_q4_0(at: u32, n: u32) {
    var most = 0.0;
    for (var i = 0u; i < 32u; i++) {
        most = select(most, run_x[i], abs(run_x[i]) > abs(most));
    }
    let scale = most * -0.125;
    let inverse = select(1.0, -1.0, scale < 0.0) * inverse_of(abs(scale));
    store_two(at, f32_to_half_bits(scale));
    for (var i = 0u; i < 4u; i++) {
        var four = 0u;
        for (var k = 0u; k < 8u; k++) {
            let x = apart(run_x[4u * i + k % 4u + k / 4u * 16u] * inverse);
            let code = min(u32(max(apart(x) + 8.5, 0.0)), 15u);
            four |= code << (8u * (k % 4u) + k / 4u * 4u);
        }
        store_four(at + 2u + 4u * i, four);
    }
}
