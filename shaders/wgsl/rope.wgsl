// Rotation of a part of each head by the row's position; the rest is copied. Angles are products in single precision,
// pair after pair; their sines are exact to a few units in the last place for any position.

struct Params {
    dim: u32,
    heads: u32,
    head_dim: u32,
    offset: u32,
    pairs: u32,
    // 1: elements 2i and 2i + 1 are a pair; 0: i and i + pairs.
    interleaved: u32,
    step: f32,
    scale: f32,
    magnitude: f32,
    has_factors: u32,
    keeps_at: u32,
    factors_at: u32,
    positions_at: u32,
    x_at: u32,
    out_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
// The share of each pair's angle that is not scaled.
@group(0) @binding(1) var<storage, read> keeps: array<f32>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read_write> positions: array<u32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

// The low and high words of a product.
fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let cross = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return vec2<u32>((cross << 16u) | (low & 0xffffu), (a >> 16u) * (b >> 16u) + (middle >> 16u) + (cross >> 16u));
}

// The part of a whole turn that an angle from 2^-8 on leaves, in 2^-32 turns: its mantissa times 64 bits of 1 / (2 pi),
// from which whole turns fall off.
fn turns(angle: f32) -> u32 {
    let b = bitcast<u32>(angle);
    let mantissa = (b & 0x7fffffu) | 0x800000u;
    let low = product(mantissa, 0x9391054au);
    let high = product(mantissa, 0x28be60dbu);
    let middle = low.y + high.x;
    let top = high.y + select(0u, 1u, middle < low.y);
    // The product is the angle in turns times 2^64, over 2^(exponent).
    let exponent = i32(b >> 23u) - 150;
    if (exponent >= 32) {
        return 0u;
    }
    if (exponent >= 0) {
        let e = u32(exponent);
        return select((middle << e) | (low.x >> (32u - e)), middle, e == 0u);
    }
    let e = u32(-exponent);
    return (middle >> e) | (top << (32u - e));
}

// Cosine and sine, by polynomials on an eighth of a turn to both sides (Cephes, sinf and cosf).
fn cos_sin(angle: f32) -> vec2<f32> {
    let size = abs(angle);
    var quarter = 0u;
    var x = size;
    if (size > 0.00390625) {
        let part = turns(size);
        quarter = (part + 0x20000000u) >> 30u;
        x = f32(bitcast<i32>(part - (quarter << 30u))) * 1.4629180792671596e-9;
    }
    let xx = x * x;
    let s = x + x * xx * (-1.6666654611e-1 + xx * (8.3321608736e-3 - 1.9515295891e-4 * xx));
    let c = 1.0 - 0.5 * xx + xx * xx * (4.166664568298827e-2 + xx * (-1.388731625493765e-3 + 2.443315711809948e-5 * xx));
    let swap = (quarter & 1u) == 1u;
    let cosine = select(c, s, swap) * select(1.0, -1.0, quarter == 1u || quarter == 2u);
    let sine = select(s, c, swap) * select(1.0, -1.0, quarter == 2u || quarter == 3u);
    return vec2<f32>(cosine, select(sine, -sine, angle < 0.0));
}

// One invocation: one pair of every head of a row, or one of the other elements.
@compute @workgroup_size(64)
fn rope(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let units = p.head_dim - p.pairs;
    let i = number(group, groups) * 64u + own;
    let row = i / units;
    let unit = i % units;
    if (row >= rows_of(p.dim)) {
        return;
    }
    let at = row * p.heads * p.head_dim;
    if (unit >= p.pairs) {
        // Elements before the rotated ones, then those behind.
        let rest = unit - p.pairs;
        let e = select(rest + 2u * p.pairs, rest, rest < p.offset);
        for (var h = 0u; h < p.heads; h++) {
            out[p.out_at + at + h * p.head_dim + e] = x[p.x_at + at + h * p.head_dim + e];
        }
        return;
    }
    var angle = f32(positions[p.positions_at + row]);
    for (var k = 0u; k < unit; k++) {
        angle *= p.step;
    }
    if (p.has_factors != 0u) {
        angle = angle / factors[p.factors_at + unit];
    }
    let keep = keeps[p.keeps_at + unit];
    let turn = cos_sin(angle * p.scale * (1.0 - keep) + angle * keep) * p.magnitude;
    let first = p.offset + select(unit, 2u * unit, p.interleaved != 0u);
    let second = select(first + p.pairs, first + 1u, p.interleaved != 0u);
    for (var h = 0u; h < p.heads; h++) {
        let head = at + h * p.head_dim;
        let a = x[p.x_at + head + first];
        let b = x[p.x_at + head + second];
        out[p.out_at + head + first] = a * turn.x - b * turn.y;
        out[p.out_at + head + second] = a * turn.y + b * turn.x;
    }
}
