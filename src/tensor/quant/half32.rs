//! Blocks of 32 with half-precision scales: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//! The four-bit formats keep elements 0..16 in the low nibbles and 16..32 in the high ones; the fifth bits are one
//! little-endian word. Layouts and rounding: ggml-common.h and `quantize_row_*_ref` in ggml-quants.c.

use bytemuck::{Pod, Zeroable};

use super::{EncodeBlock, Half, QuantBlock, block_layout};
use crate::tensor::DType;

/// 32 codes in `0..16`; a value is `d * (code - 8)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: Half,
    /// Codes, two a byte.
    pub qs: [u8; 16],
}

/// 32 codes in `0..16`; a value is `d * code + m`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Codes, two a byte.
    pub qs: [u8; 16],
}

/// 32 codes in `0..32`; a value is `d * (code - 16)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: Half,
    /// Fifth bits, bit `i` for element `i`.
    pub qh: [u8; 4],
    /// Low four bits, two a byte.
    pub qs: [u8; 16],
}

/// 32 codes in `0..32`; a value is `d * code + m`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Fifth bits, bit `i` for element `i`.
    pub qh: [u8; 4],
    /// Low four bits, two a byte.
    pub qs: [u8; 16],
}

/// 32 signed codes; a value is `d * code`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: Half,
    /// Codes.
    pub qs: [i8; 32],
}

block_layout!(BlockQ4_0 = Q4_0, BlockQ4_1 = Q4_1, BlockQ5_0 = Q5_0, BlockQ5_1 = Q5_1, BlockQ8_0 = Q8_0);

impl QuantBlock for BlockQ4_0 {
    const DTYPE: DType = DType::Q4_0;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        write_values(unpack_nibbles(&self.qs), out, |code| d * f32::from(code as i8 - 8));
    }
}

impl QuantBlock for BlockQ4_1 {
    const DTYPE: DType = DType::Q4_1;

    fn decode(&self, out: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        write_values(unpack_nibbles(&self.qs), out, |code| d * f32::from(code) + m);
    }
}

impl QuantBlock for BlockQ5_0 {
    const DTYPE: DType = DType::Q5_0;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        write_values(unpack_five_bits(self.qh, &self.qs), out, |code| d * f32::from(code as i8 - 16));
    }
}

impl QuantBlock for BlockQ5_1 {
    const DTYPE: DType = DType::Q5_1;

    fn decode(&self, out: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        write_values(unpack_five_bits(self.qh, &self.qs), out, |code| d * f32::from(code) + m);
    }
}

impl QuantBlock for BlockQ8_0 {
    const DTYPE: DType = DType::Q8_0;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (q, out) in self.qs.iter().zip(out) {
            *out = f32::from(*q) * d;
        }
    }
}

impl EncodeBlock for BlockQ4_0 {
    fn encode(values: &[f32]) -> Option<Self> {
        let (d, codes) = encode_symmetric(values, 16)?;
        Some(Self { d, qs: pack_nibbles(&codes) })
    }
}

impl EncodeBlock for BlockQ4_1 {
    fn encode(values: &[f32]) -> Option<Self> {
        let (d, m, codes) = encode_affine(values, 16)?;
        Some(Self { d, m, qs: pack_nibbles(&codes) })
    }
}

impl EncodeBlock for BlockQ5_0 {
    fn encode(values: &[f32]) -> Option<Self> {
        let (d, codes) = encode_symmetric(values, 32)?;
        Some(Self { d, qh: pack_fifth_bits(&codes), qs: pack_nibbles(&codes) })
    }
}

impl EncodeBlock for BlockQ5_1 {
    fn encode(values: &[f32]) -> Option<Self> {
        let (d, m, codes) = encode_affine(values, 32)?;
        Some(Self { d, m, qh: pack_fifth_bits(&codes), qs: pack_nibbles(&codes) })
    }
}

impl EncodeBlock for BlockQ8_0 {
    fn encode(values: &[f32]) -> Option<Self> {
        let largest = values.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let d = largest / 127.0;
        let inverse = reciprocal(d);
        let mut qs = [0; 32];
        for (q, x) in qs.iter_mut().zip(values) {
            *q = (x * inverse).round() as i8;
        }
        Some(Self { d: finite_scale(d, values)?, qs })
    }
}

fn write_values(codes: [u8; 32], out: &mut [f32], value: impl Fn(u8) -> f32) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = value(code);
    }
}

/// Low nibbles hold elements 0..16, high ones 16..32.
fn unpack_nibbles(qs: &[u8; 16]) -> [u8; 32] {
    let mut codes = [0; 32];
    for (i, q) in qs.iter().enumerate() {
        (codes[i], codes[i + 16]) = (q & 15, q >> 4);
    }
    codes
}

fn unpack_five_bits(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let fifth = u32::from_le_bytes(qh);
    let mut codes = unpack_nibbles(qs);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((fifth >> i & 1) as u8) << 4;
    }
    codes
}

fn pack_nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| codes[i] & 15 | codes[i + 16] << 4)
}

fn pack_fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    codes.iter().enumerate().fold(0u32, |bits, (i, c)| bits | u32::from(c >> 4) << i).to_le_bytes()
}

/// `levels` codes around `levels / 2`; the value of largest magnitude gets code 0, so its sign is the opposite of the scale's.
fn encode_symmetric(values: &[f32], levels: u8) -> Option<(Half, [u8; 32])> {
    let mut extreme = 0.0f32;
    for &x in values {
        if x.abs() > extreme.abs() {
            extreme = x;
        }
    }
    let zero = levels / 2;
    let d = extreme / -f32::from(zero);
    let inverse = reciprocal(d);
    let mut codes = [0; 32];
    for (code, x) in codes.iter_mut().zip(values) {
        *code = ((x * inverse + (f32::from(zero) + 0.5)) as u8).min(levels - 1);
    }
    Some((finite_scale(d, values)?, codes))
}

/// `levels` codes from the minimum up to the maximum.
fn encode_affine(values: &[f32], levels: u8) -> Option<(Half, Half, [u8; 32])> {
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (max - min) / f32::from(levels - 1);
    let inverse = reciprocal(d);
    let mut codes = [0; 32];
    for (code, x) in codes.iter_mut().zip(values) {
        *code = (((x - min) * inverse + 0.5) as u8).min(levels - 1);
    }
    Some((finite_scale(d, values)?, finite_scale(min, values)?, codes))
}

fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn finite_scale(scale: f32, values: &[f32]) -> Option<Half> {
    let half = Half::from_f32(scale);
    (half.to_f32().is_finite() && values.iter().all(|x| x.is_finite())).then_some(half)
}
