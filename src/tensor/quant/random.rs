//! Random weights of any decodable type at memory speed: random code bytes under deliberate scales.
//! Never calls an encoder and never makes a NaN or an infinity.

use super::codebook::{BlockIq4Nl, BlockIq4Xs, BlockMxfp4, KVALUES_IQ4NL, KVALUES_MXFP4};
use super::half32::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};
use super::kquant::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K};
use super::{Half, QuantBlock, QuantError, encode};
use crate::tensor::DType;

/// Fills `out` with whole blocks that decode to weights of mean about 0 and standard deviation about `std`, which
/// should lie in `1e-3..1e3` for half-precision scales to be precise. `rng` gives 64 uniform bits a call.
///
/// # Errors
/// A type without a decoder, a length that is no whole number of blocks, a `std` that is not finite.
pub fn random_blocks(dtype: DType, std: f32, rng: &mut impl FnMut() -> u64, out: &mut [u8]) -> Result<(), QuantError> {
    use DType::*;
    let block = dtype.block();
    let elements = out.len() / block.bytes as usize * block.elements as usize;
    super::check_lengths(dtype, elements, out.len())?;
    if !std.is_finite() {
        return Err(QuantError::Range { dtype, block: 0 });
    }
    let iq4 = KVALUES_IQ4NL.map(i64::from);
    match dtype {
        F32 | F16 | Bf16 => return random_floats(dtype, std, rng, out),
        Q4_0 => signed(std / rms(-8..8), rng, out, |b: &mut BlockQ4_0, d| b.d = d),
        Q4_1 => signed(std / spread(16.0), rng, out, |b: &mut BlockQ4_1, d| (b.d, b.m) = (d, times(-7.5, d))),
        Q5_0 => signed(std / rms(-16..16), rng, out, |b: &mut BlockQ5_0, d| b.d = d),
        Q5_1 => signed(std / spread(32.0), rng, out, |b: &mut BlockQ5_1, d| (b.d, b.m) = (d, times(-15.5, d))),
        Q8_0 => signed(std / rms(-127..128), rng, out, |b: &mut BlockQ8_0, d| {
            b.d = d;
            // Encoders never write -128.
            b.qs.iter_mut().for_each(|q| *q = (*q).max(-127));
        }),
        Q2K => affine(std, 4, 16, rng, out, |b: &mut BlockQ2K, d, dmin| (b.d, b.dmin) = (d, dmin)),
        Q3K => signed(std / (rms(-32..32) * rms(-4..4)), rng, out, |b: &mut BlockQ3K, d| b.d = d),
        Q4K => affine(std, 16, 64, rng, out, |b: &mut BlockQ4K, d, dmin| (b.d, b.dmin) = (d, dmin)),
        Q5K => affine(std, 32, 64, rng, out, |b: &mut BlockQ5K, d, dmin| (b.d, b.dmin) = (d, dmin)),
        Q6K => signed(std / (rms(-128..128) * rms(-32..32)), rng, out, |b: &mut BlockQ6K, d| b.d = d),
        Iq4Nl => signed(std / rms(iq4), rng, out, |b: &mut BlockIq4Nl, d| b.d = d),
        Iq4Xs => signed(std / (rms(-32..32) * rms(iq4)), rng, out, |b: &mut BlockIq4Xs, d| b.d = d),
        Mxfp4 => {
            let unit = std.abs() / rms(KVALUES_MXFP4.map(i64::from));
            fill(rng, out, |b: &mut BlockMxfp4, random| b.e = exponent(unit, random));
        }
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => return Err(QuantError::Unsupported { dtype, direction: "decoder" }),
    }
    Ok(())
}

/// Random codes under a scale of random sign and of a size that varies by half around `scale`, its mean square kept.
fn signed<B: QuantBlock>(scale: f32, rng: &mut impl FnMut() -> u64, out: &mut [u8], set: impl Fn(&mut B, Half)) {
    fill(rng, out, |block, random| {
        let sign = if random & 1 == 0 { 1.0 } else { -1.0 };
        set(block, finite(sign * jitter(scale, random)));
    });
}

/// Random codes in `0..codes` and random scales `s` and minima `m` in `0..scales`, for `d * s * code - dmin * m`.
/// `dmin` is the mean code times `d`, so the mean vanishes.
fn affine<B: QuantBlock>(
    std: f32,
    codes: i64,
    scales: i64,
    rng: &mut impl FnMut() -> u64,
    out: &mut [u8],
    set: impl Fn(&mut B, Half, Half),
) {
    let mean_code = (codes - 1) as f32 / 2.0;
    let mean_scale = (scales - 1) as f32 / 2.0;
    let (code2, scale2) = (rms(0..codes).powi(2), rms(0..scales).powi(2));
    let variance = scale2 * (code2 + mean_code.powi(2)) - 2.0 * (mean_code * mean_scale).powi(2);
    let scale = std / variance.sqrt();
    fill(rng, out, |block, random| {
        let d = finite(jitter(scale, random));
        set(block, d, times(mean_code, d));
    });
}

/// Random bytes everywhere, then `scales` sets the scale fields of every block from 64 more bits.
fn fill<B: QuantBlock>(rng: &mut impl FnMut() -> u64, out: &mut [u8], scales: impl Fn(&mut B, u64)) {
    let (words, rest) = out.as_chunks_mut();
    words.iter_mut().for_each(|w| *w = rng().to_le_bytes());
    rest.copy_from_slice(&rng().to_le_bytes()[..rest.len()]);
    for block in bytemuck::cast_slice_mut::<u8, B>(out) {
        scales(block, rng());
    }
}

/// Sums of four uniform numbers, close enough to a normal distribution and of bounded size.
fn random_floats(dtype: DType, std: f32, rng: &mut impl FnMut() -> u64, out: &mut [u8]) -> Result<(), QuantError> {
    let size = dtype.block().bytes as usize;
    let mut values = [0.0; 1024];
    for out in out.chunks_mut(values.len() * size) {
        let values = &mut values[..out.len() / size];
        for value in values.iter_mut() {
            let bits = rng();
            let sum: u32 = (0..4).map(|i| (bits >> (16 * i)) as u32 & 0xffff).sum();
            // Four uniform numbers of width 1 have a variance of 4/12.
            *value = std * 3f32.sqrt() * (sum as f32 / 65536.0 - 2.0);
        }
        encode(dtype, values, out)?;
    }
    Ok(())
}

/// One of the two powers of two around `unit`, as a biased exponent, chosen so that the mean square is that of `unit`.
fn exponent(unit: f32, random: u64) -> u8 {
    if unit < 2f32.powi(-126) {
        return 0;
    }
    let low = unit.log2().floor();
    let ratio = (unit / low.exp2()).powi(2);
    let round_up = fraction(random) < (ratio - 1.0) / 3.0;
    (low as i32 + 128 + i32::from(round_up)).clamp(0, 254) as u8
}

fn jitter(scale: f32, random: u64) -> f32 {
    // A uniform factor in 0.5..1.5 has a mean square of 1 + 1/12.
    scale * (0.5 + fraction(random)) / (13f32 / 12.0).sqrt()
}

/// Uniform in `0..1`, from the upper bits.
fn fraction(random: u64) -> f32 {
    (random >> 40) as f32 / (1u64 << 24) as f32
}

/// A minimum that goes with a scale as it was rounded.
fn times(factor: f32, scale: Half) -> Half {
    finite(factor * scale.to_f32())
}

fn finite(scale: f32) -> Half {
    Half::from_f32(scale.clamp(-60_000.0, 60_000.0))
}

/// The root mean square of equally likely numbers.
fn rms(values: impl IntoIterator<Item = i64>) -> f32 {
    let (n, sum) = values.into_iter().fold((0, 0), |(n, sum), v| (n + 1, sum + v * v));
    (sum as f32 / n as f32).sqrt()
}

/// The standard deviation of `n` equally likely consecutive numbers.
fn spread(n: f32) -> f32 {
    ((n * n - 1.0) / 12.0).sqrt()
}
