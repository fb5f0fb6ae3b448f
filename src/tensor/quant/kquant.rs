//! K-quants: super-blocks of 256 whose runs of 16 or 32 have small integer scales under half-precision ones.
//! Layouts: ggml-common.h; order of operations: `dequantize_row_q*_K` in ggml-quants.c.

use bytemuck::{Pod, Zeroable};

use super::{Half, QuantBlock, block_layout};
use crate::tensor::DType;

/// 16 runs of 16 two-bit codes; a value is `d * scale * code - dmin * min`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ2K {
    /// A run's scale in the low nibble, its minimum in the high one.
    pub scales: [u8; 16],
    /// Codes: each 32 bytes hold 128 elements, 32 of them a bit pair.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
}

/// 16 runs of 16 three-bit codes; a value is `d * scale * (low + 4 * high - 4)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ3K {
    /// High bits: bit `j` of byte `i` is of element `32 * j + i`.
    pub hmask: [u8; 32],
    /// Low two bits, laid out as in Q2_K.
    pub qs: [u8; 64],
    /// 16 six-bit scales, see [`scales_q3k`].
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: Half,
}

/// 8 runs of 32 four-bit codes; a value is `d * scale * code - dmin * min`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// Eight six-bit scales and minima, see [`scale_min_k4`].
    pub scales: [u8; 12],
    /// Codes: each 32 bytes hold two runs, the first in the low nibbles.
    pub qs: [u8; 128],
}

/// 8 runs of 32 five-bit codes; a value is `d * scale * code - dmin * min`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// Eight six-bit scales and minima, see [`scale_min_k4`].
    pub scales: [u8; 12],
    /// Fifth bits: bit `j` of byte `i` is of element `32 * j + i`.
    pub qh: [u8; 32],
    /// Low four bits, laid out as in Q4_K.
    pub qs: [u8; 128],
}

/// 16 runs of 16 six-bit codes; a value is `d * scale * (code - 32)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ6K {
    /// Low four bits: each 64 bytes hold 128 elements, the first 64 in the low nibbles.
    pub ql: [u8; 128],
    /// High two bits: each 32 bytes hold 128 elements, 32 of them a bit pair.
    pub qh: [u8; 64],
    /// The runs' scales.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: Half,
}

block_layout!(BlockQ2K = Q2K, BlockQ3K = Q3K, BlockQ4K = Q4K, BlockQ5K = Q5K, BlockQ6K = Q6K);

/// The eight scales and the eight minima of a Q4_K or Q5_K block, each `0..64`.
/// Bytes 0..4 and 4..8 hold six bits of runs 0..4 and the top two of runs 4..8; bytes 8..12 hold the latter's nibbles.
pub fn scale_min_k4(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        mins[i] = packed[i + 4] & 63;
        scales[i + 4] = packed[i + 8] & 15 | (packed[i] >> 6) << 4;
        mins[i + 4] = packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4;
    }
    (scales, mins)
}

/// The 16 scales of a Q3_K block, each `-32..32`.
/// Bytes 0..8 hold the low nibbles (runs 8..16 in the high half), bytes 8..12 the top two bits of runs `i`, `i+4`, `i+8`, `i+12`.
pub fn scales_q3k(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = packed[i % 8] >> (4 * (i / 8)) & 15;
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        (low | high << 4) as i8 - 32
    })
}

impl QuantBlock for BlockQ2K {
    const DTYPE: DType = DType::Q2K;

    fn decode(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (run, (scale, out)) in self.scales.iter().zip(out.chunks_exact_mut(16)).enumerate() {
            let (scale, min) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
            for (out, q) in out.iter_mut().zip(two_bits(&self.qs, run)) {
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

impl QuantBlock for BlockQ3K {
    const DTYPE: DType = DType::Q3K;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        let scales = scales_q3k(&self.scales);
        for (run, (scale, out)) in scales.iter().zip(out.chunks_exact_mut(16)).enumerate() {
            let scale = d * f32::from(*scale);
            let high = self.hmask[run % 2 * 16..][..16].iter().map(|h| h >> (run / 2) & 1);
            for ((out, low), high) in out.iter_mut().zip(two_bits(&self.qs, run)).zip(high) {
                *out = scale * (f32::from(low) - if high == 1 { 0.0 } else { 4.0 });
            }
        }
    }
}

impl QuantBlock for BlockQ4K {
    const DTYPE: DType = DType::Q4K;

    fn decode(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let (scales, mins) = scale_min_k4(&self.scales);
        for (run, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = (d * f32::from(scales[run]), dmin * f32::from(mins[run]));
            for (out, q) in out.iter_mut().zip(nibbles(&self.qs, run)) {
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

impl QuantBlock for BlockQ5K {
    const DTYPE: DType = DType::Q5K;

    fn decode(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let (scales, mins) = scale_min_k4(&self.scales);
        for (run, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = (d * f32::from(scales[run]), dmin * f32::from(mins[run]));
            for ((out, low), high) in out.iter_mut().zip(nibbles(&self.qs, run)).zip(&self.qh) {
                *out = scale * f32::from(low | (high >> run & 1) << 4) - min;
            }
        }
    }
}

impl QuantBlock for BlockQ6K {
    const DTYPE: DType = DType::Q6K;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (run, (scale, out)) in self.scales.iter().zip(out.chunks_exact_mut(16)).enumerate() {
            let scale = d * f32::from(*scale);
            // A half of 128 elements: four groups of 32, of which two share each nibble row of `ql`.
            let (half, group, at) = (run / 8, run / 2 % 4, run % 2 * 16);
            let low = self.ql[half * 64 + group % 2 * 32 + at..][..16].iter().map(|q| q >> (group / 2 * 4) & 15);
            let high = self.qh[half * 32 + at..][..16].iter().map(|q| q >> (group * 2) & 3);
            for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                *out = scale * ((low | high << 4) as i8 - 32) as f32;
            }
        }
    }
}

/// The 16 two-bit codes of a run in the layout of Q2_K: 128 elements in 32 bytes, elements 32 apart share a byte.
fn two_bits(qs: &[u8; 64], run: usize) -> impl Iterator<Item = u8> {
    let shift = run / 2 % 4 * 2;
    qs[run / 8 * 32 + run % 2 * 16..][..16].iter().map(move |q| q >> shift & 3)
}

/// The 32 four-bit codes of a run in the layout of Q4_K.
fn nibbles(qs: &[u8; 128], run: usize) -> impl Iterator<Item = u8> {
    qs[run / 2 * 32..][..32].iter().map(move |q| q >> (run % 2 * 4) & 15)
}
