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
        for (x, dst) in self.x.chunks_exact(N).zip(self.dst.chunks_exact_mut(bytes)) {
            let (scale, inverse) = scale(s, x);
            let scale = if N == 32 { half_scale(scale) } else { inverse_scale(scale, inverse) };
            let (codes, rest) = dst.split_at_mut(N);
            rest[..4].copy_from_slice(&scale.to_le_bytes());
            if N == 32 {
                let sum =
                    codes16(s, &x[..16], inverse, &mut codes[..16]) + codes16(s, &x[16..], inverse, &mut codes[16..]);
                rest[4..8].copy_from_slice(&(-8 * sum).to_le_bytes());
                rest[8..].copy_from_slice(&(-128 * sum).to_le_bytes());
            } else {
                sums256(s, x, inverse, codes, &mut rest[4..]);
            }
        }
    }
}

/// The codes and sums of a block of 256.
#[inline(always)]
fn sums256<S: Simd>(s: S, x: &[f32], inverse: f32, codes: &mut [u8], sums: &mut [u8]) {
    let (sums32, sums16) = sums.split_at_mut(SUMS16_BY_32 - SUMS32);
    let runs = x.chunks_exact(32).zip(codes.chunks_exact_mut(32)).zip(sums16.chunks_exact_mut(8));
    for (run, ((x, codes), sums16)) in runs.enumerate() {
        let a = codes16(s, &x[..16], inverse, &mut codes[..16]);
        let b = codes16(s, &x[16..], inverse, &mut codes[16..]);
        sums16[..4].copy_from_slice(&(-32 * a).to_le_bytes());
        sums16[4..].copy_from_slice(&(-32 * b).to_le_bytes());
        // At most 32 * 127.
        sums32[2 * run..2 * run + 2].copy_from_slice(&((a + b) as i16).to_le_bytes());
    }
}

/// The scale of a block and its inverse: the largest magnitude is code 127. Numbers that are not finite give the scale
/// NaN and codes 0; a block too small to have an inverse counts as zero.
#[inline(always)]
fn scale<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let (mut most, mut broken) = (s.splat(0.0), s.splat(0.0));
    for x in x.chunks_exact(LANES) {
        let x = s.load(x);
        most = s.max(s.abs(x), most);
        // 0 for finite numbers, NaN for others.
        broken = s.fma(x, s.splat(0.0), broken);
    }
    let most = s.reduce_max(most);
    let inverse = 127.0 / most;
    if s.reduce_add(broken) != 0.0 {
        (f32::NAN, 0.0)
    } else if !inverse.is_finite() {
        (0.0, 0.0)
    } else {
        (most / 127.0, inverse)
    }
}

/// Rounded to f16, as in a Q8_0 block, where f16 holds it in full precision: the scale that llama.cpp multiplies with.
fn half_scale(scale: f32) -> f32 {
    const NORMAL: std::ops::RangeInclusive<f32> = 6.104e-5..=65504.0;
    if NORMAL.contains(&scale) { half::f16::from_f32(scale).to_f32() } else { scale }
}

/// The inverse of the inverse, one bit off at times: what a Q8_K block of llama.cpp multiplies with.
fn inverse_scale(scale: f32, inverse: f32) -> f32 {
    if scale.is_nan() || inverse == 0.0 { scale } else { 1.0 / inverse }
}

/// Sixteen codes; returns their sum.
#[inline(always)]
fn codes16<S: Simd>(s: S, x: &[f32], inverse: f32, codes: &mut [u8]) -> i32 {
    // A NaN or an infinity times 0 is NaN, which `max` turns into its second operand.
    let scaled = s.max(s.mul(s.load(x), s.splat(inverse)), s.splat(-127.0));
    let q = s.round_i32(scaled);
    let mut bytes = [0i8; LANES];
    s.store_i8(q, &mut bytes);
    codes.copy_from_slice(bytemuck::cast_slice(&bytes));
    // A sum of small whole numbers is exact in f32.
    s.reduce_add(s.to_f32(q)) as i32
}
