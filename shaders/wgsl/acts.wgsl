// Values → signed bytes under a scale, as the processor's kernels have them: the largest magnitude of a block is 127,
// codes round to the nearest, ties to even. A block with a number that is none is worthless: codes of 0 under NaN.
//
// First all codes, a row after the other; then for each run of 32 its scale and the sums of its two halves, of 16 bits
// each.

struct Params {
    dim: u32,
    // Columns of a part of a row that is multiplied, and those parts.
    cols: u32,
    heads: u32,
    x_at: u32,
    x_row: u32,
    x_head: u32,
    // Words where codes begin, and scales.
    codes_at: u32,
    scales_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> acts: array<u32>;

const NAN: u32 = 0x7fc00000u;

// Of each run the largest magnitude, as bits: those of what is no number are larger than all others.
var<workgroup> mosts: array<u32, 64>;

// 127 over the largest magnitude, if that is not too small to have it.
fn inverse_of(most: u32) -> f32 {
    if (most < 0x02fe0001u) {
        return 0.0;
    }
    return exact_quotient(127.0, bitcast<f32>(most));
}

// Rounded to half precision where that holds it in full: a block of 32 has such a scale.
fn scale_of(most: u32, inverse: f32) -> f32 {
    if (inverse == 0.0) {
        return 0.0;
    }
    if (RUNS == 8u) {
        return exact_quotient(1.0, inverse);
    }
    let scale = exact_quotient(bitcast<f32>(most), 127.0);
    return select(scale, half_bits_to_f32(f32_to_half_bits(scale)), scale >= 6.104e-5 && scale <= 65504.0);
}

// One invocation: a run. RUNS of them are a block.
@compute @workgroup_size(64)
fn quantize(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    let runs = p.cols / 32u;
    let row = i / (p.heads * runs);
    let there = row < rows_of(p.dim);
    let at = p.x_at + row * p.x_row + i / runs % p.heads * p.x_head + i % runs * 32u;
    var most = 0u;
    if (there) {
        for (var k = 0u; k < 32u; k++) {
            most = max(most, bitcast<u32>(x[at + k]) & 0x7fffffffu);
        }
    }
    mosts[own] = most;
    workgroupBarrier();
    for (var k = 0u; k < RUNS; k++) {
        most = max(most, mosts[own / RUNS * RUNS + k]);
    }
    if (!there) {
        return;
    }
    let broken = most >= 0x7f800000u;
    let inverse = inverse_of(select(most, 0u, broken));
    var sums = vec2<i32>();
    for (var four = 0u; four < 8u; four++) {
        var word = 0u;
        for (var k = 0u; k < 4u; k++) {
            let code = i32(round(select(x[at + 4u * four + k], 0.0, broken) * inverse));
            word |= (bitcast<u32>(code) & 255u) << (8u * k);
            sums[four / 4u] += code;
        }
        acts[p.codes_at + 8u * i + four] = word;
    }
    acts[p.scales_at + 2u * i] = select(bitcast<u32>(scale_of(most, inverse)), NAN, broken);
    acts[p.scales_at + 2u * i + 1u] = (bitcast<u32>(sums.x) & 0xffffu) | (bitcast<u32>(sums.y) << 16u);
}
