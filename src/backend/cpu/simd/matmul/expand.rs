//! Formats that are written out before they are multiplied: byte codes and f32 scales of a part of a panel, made from
//! the file's rows into scratch, and the kernels that read them. Types with panels are packed there instead.
#![allow(unsafe_code)]

use std::ops::Range;

use super::acts::{ActFormat, BLOCK32_BYTES, BLOCK256_BYTES, SCALE32, SUM32_BY_8, SUM32_BY_128, SUMS16_BY_32};
use super::pack::{Codes as Transpose, pack};
use super::tile::{Format, Prepare};
use super::{WeightView, half32, kquant};
use crate::backend::cpu::simd::{Isa, Simd};
use crate::tensor::DType;
use crate::tensor::panel::PANEL_ROWS;
use crate::tensor::quant::{
    BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2K, BlockQ3K, BlockQ4_1, BlockQ5_0, BlockQ5_1, KVALUES_IQ4NL,
    KVALUES_MXFP4, QuantBlock, scales_q3k,
};

/// How a type's block is written out.
trait Codes: QuantBlock {
    /// Elements under one scale.
    const RUN: usize;
    /// Whether a value is `scale * code + min` of a code below 128, instead of `scale * code` of a signed one.
    const MINS: bool;

    /// Writes the codes; signed ones as their bits.
    fn codes(&self, codes: &mut [u8]);
    /// The scale and the minimum of a run.
    fn scale(&self, run: usize) -> (f32, f32);
}

/// Writes the blocks `first..` of a panel's rows in the file's layout, as many as `dst` holds; absent rows are zero.
type Expand = fn(isa: Isa, dtype: DType, row_bytes: usize, rows: &[u8], first: usize, dst: &mut [u8]);

/// A weight in the file's layout, to be written out.
pub(super) struct Rows<'a> {
    weight: WeightView<'a>,
    row_bytes: usize,
    expand: Expand,
}

impl<'a> Rows<'a> {
    /// Of a weight that has been checked.
    pub(super) fn of(weight: WeightView<'a>) -> Self {
        let row_bytes = weight.dtype.row_bytes(weight.cols as u64).expect("checked: whole blocks").index();
        Self { weight, row_bytes, expand: expand_of(weight.dtype).expect("checked: a type with an activation format") }
    }
}

impl Prepare for Rows<'_> {
    fn write(&self, isa: Isa, panel: usize, blocks: Range<usize>, dst: &mut [u8]) {
        let rows = panel * PANEL_ROWS..((panel + 1) * PANEL_ROWS).min(self.weight.rows);
        let rows = &self.weight.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes];
        (self.expand)(isa, self.weight.dtype, self.row_bytes, rows, blocks.start, dst);
    }
}

/// The function that writes out a type, or `None` where it has none.
fn expand_of(dtype: DType) -> Option<Expand> {
    use DType::*;
    Some(match dtype {
        Q4_1 => expand::<BlockQ4_1>,
        Q5_0 => expand::<BlockQ5_0>,
        Q5_1 => expand::<BlockQ5_1>,
        Iq4Nl => expand::<BlockIq4Nl>,
        Mxfp4 => expand::<BlockMxfp4>,
        Q2K => expand::<BlockQ2K>,
        Q3K => expand::<BlockQ3K>,
        Iq4Xs => expand::<BlockIq4Xs>,
        F32 | F16 | Bf16 | Q4_0 | Q8_0 | Q4K | Q5K | Q6K => pack,
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => return None,
    })
}

/// Bytes of a written-out block of sixteen rows: byte codes, and a scale (and a minimum) a run.
const fn block_bytes(elements: usize, run: usize, mins: bool) -> usize {
    elements * PANEL_ROWS + elements / run * (if mins { 2 } else { 1 }) * 4 * PANEL_ROWS
}

/// Blocks of sixteen rows: the scales run by run, the minima run by run, then the codes, four of each row a vector.
fn expand<B: Codes>(isa: Isa, _: DType, row_bytes: usize, rows: &[u8], first: usize, dst: &mut [u8]) {
    let (elements, runs) = (B::ELEMENTS, B::ELEMENTS / B::RUN);
    let flip = if B::MINS { 0 } else { 0x80 };
    let mut buffer = [0; 256 * PANEL_ROWS];
    for (i, dst) in dst.chunks_exact_mut(block_bytes(elements, B::RUN, B::MINS)).enumerate() {
        let (scales, codes) = dst.split_at_mut(dst.len() - elements * PANEL_ROWS);
        let scales = scales.as_chunks_mut::<4>().0;
        for (r, buffer) in buffer.chunks_exact_mut(elements).take(PANEL_ROWS).enumerate() {
            let block: B = match rows.get(r * row_bytes..(r + 1) * row_bytes) {
                Some(row) => bytemuck::pod_read_unaligned(&row[(first + i) * size_of::<B>()..][..size_of::<B>()]),
                None => B::zeroed(),
            };
            for run in 0..runs {
                let (scale, min) = block.scale(run);
                scales[run * PANEL_ROWS + r] = scale.to_le_bytes();
                if B::MINS {
                    scales[(runs + run) * PANEL_ROWS + r] = min.to_le_bytes();
                }
            }
            block.codes(buffer);
        }
        isa.run(Transpose { rows: &buffer, elements, flip, dst: codes });
    }
}

/// Blocks of 32 under one scale, codes signed or with a minimum.
pub(super) struct Run32<const MINS: bool>;

impl<const MINS: bool> Format for Run32<MINS> {
    const ACT: ActFormat = ActFormat::Q8x32;
    const ELEMENTS: usize = 32;
    const BYTES: usize = block_bytes(32, 32, MINS);
    const ACT_BYTES: usize = BLOCK32_BYTES;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
        _second: &mut [[S::F; C]; R],
    ) {
        let codes = Self::BYTES - 512;
        // SAFETY: the caller's promise: a block at each `w`, of activations at each `x`.
        unsafe {
            let mut dots = if MINS { [[s.splat_i(0); C]; R] } else { half32::offsets(s, x, SUM32_BY_128) };
            for j in 0..8 {
                bytes4::<S, R, C, MINS>(s, w, codes + 64 * j, x, 4 * j, &mut dots);
            }
            for r in 0..R {
                let scale = s.load_ptr(w[r].cast());
                for c in 0..C {
                    let dx = s.splat_ptr(x[c].add(SCALE32));
                    acc[r][c] = s.fma(s.mul(s.to_f32(dots[r][c]), dx), scale, acc[r][c]);
                    if MINS {
                        let min = s.load_ptr(w[r].add(64).cast());
                        let sum = s.mul(s.to_f32(s.splat_dword(x[c].add(SUM32_BY_8))), s.splat(-0.125));
                        acc[r][c] = s.fma(s.mul(sum, dx), min, acc[r][c]);
                    }
                }
            }
        }
    }
}

/// Blocks of 256 with scales of runs of 16, codes with an offset of `2^OFFSET` or with minima.
pub(super) struct Run16<const MINS: bool, const OFFSET: u32>;

impl<const MINS: bool, const OFFSET: u32> Format for Run16<MINS, OFFSET> {
    const ACT: ActFormat = ActFormat::Q8x256;
    const ELEMENTS: usize = 256;
    const BYTES: usize = block_bytes(256, 16, MINS);
    const ACT_BYTES: usize = BLOCK256_BYTES;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
        _second: &mut [[S::F; C]; R],
    ) {
        let codes = Self::BYTES - 4096;
        let mut sums = [[s.splat(0.0); C]; R];
        // SAFETY: the caller's promise: a block at each `w`, of activations at each `x`.
        unsafe {
            for run in 0..16 {
                let mut dots = match OFFSET {
                    _ if MINS => [[s.splat_i(0); C]; R],
                    5 => kquant::offsets::<S, R, C, 0>(s, x, run),
                    _ => kquant::offsets::<S, R, C, 2>(s, x, run),
                };
                for j in 0..4 {
                    let (code, at) = (codes + 64 * (4 * run + j), 16 * run + 4 * j);
                    match MINS || OFFSET < 7 {
                        true => bytes4::<S, R, C, true>(s, w, code, x, at, &mut dots),
                        false => bytes4::<S, R, C, false>(s, w, code, x, at, &mut dots),
                    }
                }
                for r in 0..R {
                    let scale = s.load_ptr(w[r].add(64 * run).cast());
                    for c in 0..C {
                        sums[r][c] = s.fma(s.to_f32(dots[r][c]), scale, sums[r][c]);
                        if MINS {
                            let min = s.load_ptr(w[r].add(64 * (16 + run)).cast());
                            let sum = s.to_f32(s.splat_dword(x[c].add(SUMS16_BY_32 + 4 * run)));
                            sums[r][c] = s.fma(s.mul(sum, s.splat(-1.0 / 32.0)), min, sums[r][c]);
                        }
                    }
                }
            }
            kquant::add_block(s, sums, x, acc);
        }
    }
}

/// Adds four elements of each row: codes at byte `code` of the weights, activations at byte `at`.
///
/// # Safety
/// 64 bytes lie at each `w` + `code`, four at each `x` + `at`.
#[inline(always)]
unsafe fn bytes4<S: Simd, const R: usize, const C: usize, const SEVEN_BITS: bool>(
    s: S,
    w: [*const u8; R],
    code: usize,
    x: [*const u8; C],
    at: usize,
    dots: &mut [[S::I; C]; R],
) {
    let mut codes = [s.splat_i(0); R];
    for r in 0..R {
        // SAFETY: the caller's promise.
        codes[r] = unsafe { s.load_bytes(w[r].add(code)) };
    }
    for c in 0..C {
        // SAFETY: the caller's promise.
        let four = unsafe { s.splat_dword(x[c].add(at)) };
        for r in 0..R {
            dots[r][c] =
                if SEVEN_BITS { s.dot_u7(dots[r][c], codes[r], four) } else { s.dot_u8(dots[r][c], codes[r], four) };
        }
    }
}

impl Codes for BlockQ4_1 {
    const RUN: usize = 32;
    const MINS: bool = true;

    fn codes(&self, codes: &mut [u8]) {
        nibbles(&self.qs, codes);
    }
    fn scale(&self, _: usize) -> (f32, f32) {
        (self.d.to_f32(), self.m.to_f32())
    }
}

impl Codes for BlockQ5_0 {
    const RUN: usize = 32;
    const MINS: bool = false;

    fn codes(&self, codes: &mut [u8]) {
        nibbles(&self.qs, codes);
        fifth_bits(self.qh, codes);
        codes.iter_mut().for_each(|code| *code = code.wrapping_sub(16));
    }
    fn scale(&self, _: usize) -> (f32, f32) {
        (self.d.to_f32(), 0.0)
    }
}

impl Codes for BlockQ5_1 {
    const RUN: usize = 32;
    const MINS: bool = true;

    fn codes(&self, codes: &mut [u8]) {
        nibbles(&self.qs, codes);
        fifth_bits(self.qh, codes);
    }
    fn scale(&self, _: usize) -> (f32, f32) {
        (self.d.to_f32(), self.m.to_f32())
    }
}

impl Codes for BlockIq4Nl {
    const RUN: usize = 32;
    const MINS: bool = false;

    fn codes(&self, codes: &mut [u8]) {
        nibbles(&self.qs, codes);
        look_up(&KVALUES_IQ4NL, codes);
    }
    fn scale(&self, _: usize) -> (f32, f32) {
        (self.d.to_f32(), 0.0)
    }
}

impl Codes for BlockMxfp4 {
    const RUN: usize = 32;
    const MINS: bool = false;

    fn codes(&self, codes: &mut [u8]) {
        nibbles(&self.qs, codes);
        look_up(&KVALUES_MXFP4, codes);
    }
    fn scale(&self, _: usize) -> (f32, f32) {
        (self.half_scale(), 0.0)
    }
}

impl Codes for BlockIq4Xs {
    const RUN: usize = 16;
    const MINS: bool = false;

    fn codes(&self, codes: &mut [u8]) {
        for (qs, codes) in self.qs.as_chunks().0.iter().zip(codes.chunks_exact_mut(32)) {
            nibbles(qs, codes);
        }
        look_up(&KVALUES_IQ4NL, codes);
    }
    fn scale(&self, run: usize) -> (f32, f32) {
        (self.d.to_f32() * f32::from(self.scales()[run / 2]), 0.0)
    }
}

impl Codes for BlockQ2K {
    const RUN: usize = 16;
    const MINS: bool = true;

    fn codes(&self, codes: &mut [u8]) {
        two_bits(&self.qs, codes);
    }
    fn scale(&self, run: usize) -> (f32, f32) {
        let both = self.scales[run];
        (self.d.to_f32() * f32::from(both & 15), -self.dmin.to_f32() * f32::from(both >> 4))
    }
}

impl Codes for BlockQ3K {
    const RUN: usize = 16;
    const MINS: bool = false;

    fn codes(&self, codes: &mut [u8]) {
        two_bits(&self.qs, codes);
        for (i, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, high) in codes.iter_mut().zip(&self.hmask) {
                *code = (*code | (high >> i & 1) << 2).wrapping_sub(4);
            }
        }
    }
    fn scale(&self, run: usize) -> (f32, f32) {
        (self.d.to_f32() * f32::from(scales_q3k(&self.scales)[run]), 0.0)
    }
}

/// 32 nibbles, the low ones first.
fn nibbles(qs: &[u8; 16], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(16);
    for ((q, low), high) in qs.iter().zip(low).zip(high) {
        (*low, *high) = (q & 15, q >> 4);
    }
}

/// Adds bit `i` of a word to code `i` as bit 4.
fn fifth_bits(qh: [u8; 4], codes: &mut [u8]) {
    let bits = u32::from_le_bytes(qh);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) as u8) << 4;
    }
}

/// 256 codes of two bits: each 32 bytes hold 128 elements, elements 32 apart share a byte.
fn two_bits(qs: &[u8; 64], codes: &mut [u8]) {
    for (i, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (code, q) in codes.iter_mut().zip(&qs[i / 4 * 32..]) {
            *code = q >> (i % 4 * 2) & 3;
        }
    }
}

/// The table's value of each code.
fn look_up(values: &[i8; 16], codes: &mut [u8]) {
    for code in codes {
        *code = values[usize::from(*code & 15)] as u8;
    }
}
