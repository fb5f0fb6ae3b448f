//! Float formats: little-endian bytes to single precision and back. Decoding is exact; encoding rounds to nearest even.

use bytemuck::{Pod, Zeroable};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements converted at a time: the machine's instructions work on many.
const RUN: usize = 64;

/// A half-precision number at any byte position, as block scales lie in files.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Half([u8; 2]);

impl Half {
    /// The nearest half-precision number.
    pub fn from_f32(x: f32) -> Half {
        Half(f16::from_f32(x).to_le_bytes())
    }

    /// The number, exactly.
    #[inline]
    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }
}

pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f32::from_le_bytes(*bytes);
    }
}

pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let mut run = [f16::ZERO; RUN];
    for (bytes, out) in bytes.chunks(2 * RUN).zip(out.chunks_mut(RUN)) {
        let run = &mut run[..out.len()];
        for (bytes, half) in bytes.as_chunks().0.iter().zip(run.iter_mut()) {
            *half = f16::from_le_bytes(*bytes);
        }
        run.convert_to_f32_slice(out);
    }
}

pub(super) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

pub(super) fn encode_f32(values: &[f32], out: &mut [u8]) {
    for (value, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = value.to_le_bytes();
    }
}

pub(super) fn encode_f16(values: &[f32], out: &mut [u8]) {
    let mut run = [f16::ZERO; RUN];
    for (values, out) in values.chunks(RUN).zip(out.chunks_mut(2 * RUN)) {
        let run = &mut run[..values.len()];
        run.convert_from_f32_slice(values);
        for (half, out) in run.iter().zip(out.as_chunks_mut().0) {
            *out = half.to_le_bytes();
        }
    }
}

pub(super) fn encode_bf16(values: &[f32], out: &mut [u8]) {
    for (value, out) in values.iter().zip(out.as_chunks_mut().0) {
        let bits = value.to_bits();
        // To nearest even; a NaN stays one, made quiet.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        *out = (if value.is_nan() { quiet } else { rounded } as u16).to_le_bytes();
    }
}
