//! Activations as the kernels read them: f32 rows to rows of signed bytes with scales and sums, or as they are.
//! A row's bytes depend on that row alone. Never fails: a row with a NaN or an infinity gives NaN products.
#![allow(unsafe_code)]

use crate::backend::cpu::simd::{Isa, Job, LANES, Simd};
use crate::tensor::DType;

/// How a row of activations is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// As it is.
    F32,
    /// Blocks of 32: 32 i8 codes, the f32 scale, the i32 sum of the codes times -8 and times -128.
    Q8x32,
    /// Blocks of 256: 256 i8 codes, the f32 scale, eight i16 sums of 32 codes in the order 0 2 1 3 4 6 5 7,
    /// sixteen i32 sums of 16 codes times -32.
    Q8x256,
}

/// Bytes of a [`ActFormat::Q8x32`] block.
pub(super) const BLOCK32_BYTES: usize = 44;
/// Offset of the scale in a [`ActFormat::Q8x32`] block.
pub(super) const SCALE32: usize = 32;
/// Offset of -8 times the sum.
pub(super) const SUM32_BY_8: usize = 36;
/// Offset of -128 times the sum.
pub(super) const SUM32_BY_128: usize = 40;
/// Bytes of a [`ActFormat::Q8x256`] block.
pub(super) const BLOCK256_BYTES: usize = 340;
/// Offset of the scale in a [`ActFormat::Q8x256`] block.
pub(super) const SCALE256: usize = 256;
/// Offset of the sums of 32.
pub(super) const SUMS32: usize = 260;
/// Offset of -32 times the sums of 16.
pub(super) const SUMS16_BY_32: usize = 276;
/// The place of each run of 32 among the sums: pairs of runs two apart, as the minima of Q4_K unpack.
const SUM_PLACE: [usize; 8] = [0, 2, 1, 3, 4, 6, 5, 7];

/// The format in which the kernels of a weight type read activations, or `None` where there are no kernels.
pub const fn act_format(dtype: DType) -> Option<ActFormat> {
    use DType::*;
    match dtype {
        F32 | F16 | Bf16 => Some(ActFormat::F32),
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Iq4Nl | Mxfp4 => Some(ActFormat::Q8x32),
        Q2K | Q3K | Q4K | Q5K | Q6K | Iq4Xs => Some(ActFormat::Q8x256),
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => None,
    }
}

/// Bytes of a row of `cols` activations.
pub const fn act_row_bytes(format: ActFormat, cols: usize) -> usize {
    match format {
        ActFormat::F32 => cols * 4,
        ActFormat::Q8x32 => cols / 32 * BLOCK32_BYTES,
        ActFormat::Q8x256 => cols / 256 * BLOCK256_BYTES,
    }
}

/// Writes the rows of `x`, `cols` elements each, to `dst`.
///
/// # Panics
/// Where `cols` is no whole number of blocks or `x` of rows, or `dst` has another number of rows.
pub fn quantize(isa: Isa, format: ActFormat, cols: usize, x: &[f32], dst: &mut [u8]) {
    let row_bytes = act_row_bytes(format, cols);
    let block = match format {
        ActFormat::F32 => 1,
        ActFormat::Q8x32 => 32,
        ActFormat::Q8x256 => 256,
    };
    assert!(cols > 0 && cols.is_multiple_of(block), "rows of {cols} activations in blocks of {block}");
    assert!(x.len().is_multiple_of(cols), "{} activations in rows of {cols}", x.len());
    assert_eq!(dst.len(), x.len() / cols * row_bytes, "bytes of {} rows", x.len() / cols);
    match format {
        ActFormat::F32 => dst.copy_from_slice(bytemuck::cast_slice(x)),
        ActFormat::Q8x32 => isa.run(Blocks::<32> { x, dst }),
        ActFormat::Q8x256 => isa.run(Blocks::<256> { x, dst }),
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
    for (((x, codes), sums16), place) in runs.zip(SUM_PLACE) {
        let a = codes16(s, &x[..16], inverse, &mut codes[..16]);
        let b = codes16(s, &x[16..], inverse, &mut codes[16..]);
        sums16[..4].copy_from_slice(&(-32 * a).to_le_bytes());
        sums16[4..].copy_from_slice(&(-32 * b).to_le_bytes());
        // At most 32 * 127.
        sums32[2 * place..2 * place + 2].copy_from_slice(&((a + b) as i16).to_le_bytes());
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
