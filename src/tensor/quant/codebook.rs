//! Formats whose four-bit codes index a table of values: IQ4_NL, IQ4_XS, MXFP4.
//! Layouts and tables: ggml-common.h; MXFP4: the OCP Microscaling Formats specification, version 1.0.

use bytemuck::{Pod, Zeroable};

use super::{Half, QuantBlock, block_layout};
use crate::tensor::DType;

/// The values of IQ4 codes (`kvalues_iq4nl`).
pub const KVALUES_IQ4NL: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The values of E2M1 codes, doubled so that they are whole (`kvalues_mxfp4`).
pub const KVALUES_MXFP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 codes; a value is `d * KVALUES_IQ4NL[code]`. Elements 0..16 lie in the low nibbles.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq4Nl {
    /// Scale.
    pub d: Half,
    /// Codes, two a byte.
    pub qs: [u8; 16],
}

/// 256 codes in eight runs of 32, each with a six-bit scale `s`; a value is `d * (s - 32) * KVALUES_IQ4NL[code]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq4Xs {
    /// Scale of the scales.
    pub d: Half,
    /// High two bits of the scales, a little-endian word, run 0 in the lowest bits.
    pub scales_h: [u8; 2],
    /// Low four bits of the scales, two a byte.
    pub scales_l: [u8; 4],
    /// Codes, 16 bytes a run, laid out as in IQ4_NL.
    pub qs: [u8; 128],
}

/// 32 codes under a power-of-two scale; a value is `2^(e - 128) * KVALUES_MXFP4[code]`. Elements 0..16 lie in the low nibbles.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockMxfp4 {
    /// Exponent of the scale, biased (E8M0).
    pub e: u8,
    /// Codes, two a byte.
    pub qs: [u8; 16],
}

block_layout!(BlockIq4Nl = Iq4Nl, BlockIq4Xs = Iq4Xs, BlockMxfp4 = Mxfp4);

impl BlockIq4Xs {
    /// The eight scales, `-32..32`.
    pub fn scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|i| {
            let low = self.scales_l[i / 2] >> (4 * (i % 2)) & 15;
            (low | ((high >> (2 * i) & 3) as u8) << 4) as i8 - 32
        })
    }
}

impl BlockMxfp4 {
    /// Half of the scale `2^(e - 127)`, which goes with the doubled values.
    pub fn half_scale(&self) -> f32 {
        f32::from_bits(match self.e {
            // 2^-128 and 2^-127 are subnormal.
            0 => 0x0020_0000,
            1 => 0x0040_0000,
            e => u32::from(e - 1) << 23,
        })
    }
}

impl QuantBlock for BlockIq4Nl {
    const DTYPE: DType = DType::Iq4Nl;

    fn decode(&self, out: &mut [f32]) {
        decode_run(self.d.to_f32(), &KVALUES_IQ4NL, &self.qs, out);
    }
}

impl QuantBlock for BlockIq4Xs {
    const DTYPE: DType = DType::Iq4Xs;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        let runs = self.qs.as_chunks().0.iter().zip(out.chunks_exact_mut(32));
        for (scale, (qs, out)) in self.scales().into_iter().zip(runs) {
            decode_run(d * f32::from(scale), &KVALUES_IQ4NL, qs, out);
        }
    }
}

impl QuantBlock for BlockMxfp4 {
    const DTYPE: DType = DType::Mxfp4;

    fn decode(&self, out: &mut [f32]) {
        decode_run(self.half_scale(), &KVALUES_MXFP4, &self.qs, out);
    }
}

/// 32 values of a table under one scale.
fn decode_run(scale: f32, values: &[i8; 16], qs: &[u8; 16], out: &mut [f32]) {
    let (low, high) = out.split_at_mut(16);
    for ((q, low), high) in qs.iter().zip(low).zip(high) {
        *low = scale * f32::from(values[usize::from(q & 15)]);
        *high = scale * f32::from(values[usize::from(q >> 4)]);
    }
}
