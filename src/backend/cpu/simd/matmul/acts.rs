//! Activations as the kernels read them: f32 rows to rows of signed bytes with scales and sums, or as they are.
//! A row's bytes depend on that row alone. Never fails: a row with a NaN or an infinity gives NaN products.
#![allow(unsafe_code)]

use crate::backend::cpu::simd::{Isa, Job, LANES, Simd};
pub use crate::tensor::act::{ActFormat, act_format, act_row_bytes};
pub(super) use crate::tensor::act::{
    BLOCK32_BYTES, BLOCK256_BYTES, SCALE32, SCALE256, SUM32_BY_8, SUM32_BY_128, SUMS16_BY_32, SUMS32,
};

/// Writes the rows of `x`, `cols` elements each, to `dst`.
///
/// # Panics
/// Where `cols` is no whole number of blocks or `x` of rows, or `dst` has another number of rows.
pub fn quantize(isa: Isa, format: ActFormat, cols: usize, x: &[f32], dst: &mut [u8]) {
    let row_bytes = act_row_bytes(format, cols);
    let block = match format {
        ActFormat::F32 | ActFormat::F16 => 1,
        ActFormat::Q8x32 => 32,
        ActFormat::Q8x256 => 256,
    };
    assert!(cols > 0 && cols.is_multiple_of(block), "rows of {cols} activations in blocks of {block}");
    assert!(x.len().is_multiple_of(cols), "{} activations in rows of {cols}", x.len());
    assert_eq!(dst.len(), x.len() / cols * row_bytes, "bytes of {} rows", x.len() / cols);
    match format {
        ActFormat::F32 => dst.copy_from_slice(bytemuck::cast_slice(x)),
        ActFormat::F16 => isa.run(Rounded { x, dst }),
        ActFormat::Q8x32 => isa.run(Blocks::<32> { x, dst }),
        ActFormat::Q8x256 => isa.run(Blocks::<256> { x, dst }),
    }
}

/// Each element to the nearest f16; a finite number that f16 cannot hold becomes its largest.
struct Rounded<'a> {
    x: &'a [f32],
    dst: &'a mut [u8],
}

impl Job for Rounded<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (least, most) = (s.splat(-65504.0), s.splat(65504.0));
        for (x, dst) in self.x.chunks(LANES).zip(self.dst.chunks_mut(4 * LANES)) {
            let mut rounded = [0.0; LANES];
            let x = s.load_part(x, 0.0);
            let in_range = s.round_f16(s.min(most, s.max(least, x)));
            s.store(s.select(s.lt(s.abs(x), s.splat(f32::INFINITY)), in_range, x), &mut rounded);
            dst.copy_from_slice(&bytemuck::cast_slice(&rounded)[..dst.len()]);
        }
    }
}

/// Blocks of `N` codes; rows are whole blocks, so they need no regard here.
struct Blocks<'a, const N: usize> {
    x: &'a [f32],
    dst: &'a mut [u8],
}

impl<const N: usize> Job for Blocks<'_, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let bytes = if N == 32 { BLOCK32_BYTES } else { BLOCK256_BYTES };
        let x = self.x.as_chunks::<N>().0;
        // 0 while all numbers are finite; looked at once, since they nearly always are.
        let mut broken = s.splat(0.0);
        for i in 0..x.len() {
            broken = s.add(block::<S, N>(s, &x[i], &mut self.dst[i * bytes..][..bytes]), broken);
        }
        if s.reduce_add(broken) != 0.0 {
            for i in 0..x.len() {
                if x[i].iter().any(|x| !x.is_finite()) {
                    break_block(N, &mut self.dst[i * bytes..][..bytes]);
                }
            }
        }
    }
}

/// Writes a block of finite numbers. Returns zeros for them, NaN in some lane for others, whose block is worthless.
/// (Whole arrays and indices here: slice copies and zipped iterators are calls that the compiler may leave in place.)
#[inline(always)]
fn block<S: Simd, const N: usize>(s: S, x: &[f32; N], dst: &mut [u8]) -> S::F {
    let (mut most, mut broken) = (s.splat(0.0), s.splat(0.0));
    for i in 0..N / LANES {
        let x = s.load(&x[LANES * i..]);
        most = s.max(s.abs(x), most);
        broken = s.fma(x, s.splat(0.0), broken);
    }
    let (scale, inverse) = scale(s.reduce_max(most));
    let scale = if N == 32 { half_scale(s, scale) } else { inverse_scale(inverse) };
    let (codes, rest) = dst.split_at_mut(N);
    let (codes, rest) = (codes.as_chunks_mut::<LANES>().0, rest.as_chunks_mut::<4>().0);
    rest[0] = scale.to_le_bytes();
    let inverse = s.splat(inverse);
    if N == 32 {
        let q = s.add_i(codes16(s, &x[..16], inverse, &mut codes[0]), codes16(s, &x[16..], inverse, &mut codes[1]));
        let sum = reduce(s, q);
        rest[1] = (-8 * sum).to_le_bytes();
        rest[2] = (-128 * sum).to_le_bytes();
    } else {
        sums256(s, x, inverse, codes, &mut rest[1..]);
    }
    broken
}

/// Makes all products of a block NaN: codes and sums are 0 under the scale NaN.
fn break_block(n: usize, dst: &mut [u8]) {
    dst.fill(0);
    dst[n..n + 4].copy_from_slice(&f32::NAN.to_le_bytes());
}

/// The codes and sums of a block of 256.
#[inline(always)]
fn sums256<S: Simd>(s: S, x: &[f32], inverse: S::F, codes: &mut [[u8; LANES]], sums: &mut [[u8; 4]]) {
    let mut sums32 = [0i32; 8];
    for run in 0..8 {
        let a = reduce(s, codes16(s, &x[32 * run..], inverse, &mut codes[2 * run]));
        let b = reduce(s, codes16(s, &x[32 * run + 16..], inverse, &mut codes[2 * run + 1]));
        sums[4 + 2 * run] = (-32 * a).to_le_bytes();
        sums[4 + 2 * run + 1] = (-32 * b).to_le_bytes();
        sums32[run] = a + b;
    }
    for i in 0..4 {
        // Two i16 of at most 32 * 127.
        sums[i] = (sums32[2 * i] & 0xffff | sums32[2 * i + 1] << 16).to_le_bytes();
    }
}

/// The scale of a block and its inverse: the largest magnitude is code 127. A block too small to have an inverse
/// counts as zero.
#[inline(always)]
fn scale(most: f32) -> (f32, f32) {
    let inverse = 127.0 / most;
    if inverse.is_finite() { (most / 127.0, inverse) } else { (0.0, 0.0) }
}

/// Rounded to f16, as in a Q8_0 block, where f16 holds it in full precision: the scale that llama.cpp multiplies with.
#[inline(always)]
fn half_scale<S: Simd>(s: S, scale: f32) -> f32 {
    const NORMAL: std::ops::RangeInclusive<f32> = 6.104e-5..=65504.0;
    if NORMAL.contains(&scale) { s.reduce_max(s.round_f16(s.splat(scale))) } else { scale }
}

/// The inverse of the inverse, one bit off the scale at times: what a Q8_K block of llama.cpp multiplies with.
fn inverse_scale(inverse: f32) -> f32 {
    if inverse == 0.0 { 0.0 } else { 1.0 / inverse }
}

/// Sixteen codes, also as lanes.
#[inline(always)]
fn codes16<S: Simd>(s: S, x: &[f32], inverse: S::F, codes: &mut [u8; LANES]) -> S::I {
    let q = s.round_i32(s.mul(s.load(x), inverse));
    let mut bytes = [0i8; LANES];
    s.store_i8(q, &mut bytes);
    *codes = bytemuck::cast(bytes);
    q
}

/// The sum of codes, exact in f32; of what a broken block holds instead, anything from -2^20 to 2^20.
#[inline(always)]
fn reduce<S: Simd>(s: S, q: S::I) -> i32 {
    s.reduce_add(s.to_f32(q)).clamp(-1_048_576.0, 1_048_576.0) as i32
}
