// Numbers of other widths to and from single precision, to the bit: nothing here depends on how a device treats
// subnormal numbers or rounds conversions.

fn half_bits_to_f32(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let exponent = (h >> 10u) & 31u;
    let fraction = h & 1023u;
    let whole = select((exponent + 112u) << 23u, 0x7f800000u, exponent == 31u);
    let normal = bitcast<f32>(sign | whole | (fraction << 13u));
    let small = f32(fraction) * 5.9604644775390625e-8;
    return select(normal, select(small, -small, sign != 0u), exponent == 0u);
}

// Rounded to the nearest, ties to even; past the range infinite.
fn f32_to_half_bits(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    let sign = (b >> 16u) & 0x8000u;
    let a = b & 0x7fffffffu;
    if (a >= 0x47800000u) {
        if (a > 0x7f800000u) {
            return sign | 0x7e00u | ((a >> 13u) & 1023u);
        }
        return sign | 0x7c00u;
    }
    if (a >= 0x38800000u) {
        let h = a - 0x38000000u;
        return sign | ((h + 0xfffu + ((h >> 13u) & 1u)) >> 13u);
    }
    let shift = 126u - (a >> 23u);
    if (shift > 25u) {
        return sign;
    }
    let m = (a & 0x7fffffu) | 0x800000u;
    let low = m & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    let q = m >> shift;
    return sign | (q + select(0u, 1u, low > tie || (low == tie && (q & 1u) == 1u)));
}

fn f32_to_bf16_bits(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    if ((b & 0x7fffffffu) > 0x7f800000u) {
        return (b >> 16u) | 0x40u;
    }
    return (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
}

// `a / b` for positive numbers, rounded to the nearest, ties to even; what is no normal number counts as 0.
fn exact_quotient(a: f32, b: f32) -> f32 {
    let x = bitcast<u32>(a);
    let y = bitcast<u32>(b);
    let divisor = (y & 0x7fffffu) | 0x800000u;
    var rest = (x & 0x7fffffu) | 0x800000u;
    var exponent = i32(x >> 23u) - i32(y >> 23u) + 127;
    if ((x >> 23u) == 0u || (y >> 23u) == 0u) {
        return 0.0;
    }
    if (rest < divisor) {
        rest = rest << 1u;
        exponent -= 1;
    }
    // The leading bit, then 23 more and one to round by.
    var quotient = 0u;
    for (var i = 0u; i < 25u; i++) {
        quotient = quotient << 1u;
        if (rest >= divisor) {
            rest -= divisor;
            quotient |= 1u;
        }
        rest = rest << 1u;
    }
    let up = (quotient & 1u) == 1u && (rest != 0u || (quotient & 2u) != 0u);
    quotient = (quotient >> 1u) + select(0u, 1u, up);
    if (quotient == 0x1000000u) {
        quotient = 0x800000u;
        exponent += 1;
    }
    if (exponent <= 0) {
        return 0.0;
    }
    return bitcast<f32>((u32(exponent) << 23u) | (quotient & 0x7fffffu));
}
