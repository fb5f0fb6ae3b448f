//! Kernels of the K-quants: integer sums of runs of 16 or 32, scaled within a block of 256, then by its activations.
#![allow(unsafe_code)]

use super::acts::{ActFormat, BLOCK256_BYTES, SCALE256, SUMS16, SUMS32};
use super::tile::{Format, load_ahead, prefetch_ahead};
use crate::backend::cpu::simd::Simd;

/// See [`Format::AHEAD`]: blocks are longer here.
const AHEAD: usize = 8192;

/// Sums of the lanes of `R` panels times `C` columns.
type Tile<T, const R: usize, const C: usize> = [[T; C]; R];

/// Q4_K: f16 d and dmin, three words of scales and minima, 32 vectors of codes: eight hold two runs, low and high.
pub(super) struct Q4K;

impl Format for Q4K {
    const ACT: ActFormat = ActFormat::Q8x256;
    const ELEMENTS: usize = 256;
    const BYTES: usize = 2304;
    const ACT_BYTES: usize = BLOCK256_BYTES;
    const AHEAD: usize = AHEAD;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut Tile<S::F, R, C>,
    ) {
        let low = s.splat_i(0x0f0f_0f0f);
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            let (scales, mut sums) = scales_and_mins(s, w, x);
            for pair in 0..4 {
                for half in 0..2 {
                    let mut dots = [[s.splat_i(0); C]; R];
                    for j in 0..8 {
                        let mut codes = [s.splat_i(0); R];
                        for r in 0..R {
                            let at = w[r].add(256 + 64 * (8 * pair + j));
                            codes[r] = match half {
                                0 => s.and(load_ahead::<S, Self, R, C>(s, at), low),
                                _ => s.and(s.shr::<4>(s.load_bytes(at)), low),
                            };
                        }
                        dot(s, codes, x, 64 * pair + 32 * half + 4 * j, &mut dots);
                    }
                    add_run(s, dots, &scales, 2 * pair + half, &mut sums);
                }
            }
            add_block(s, sums, x, acc);
        }
    }
}

/// Q5_K: as Q4_K, with eight vectors of high bits before the codes, a bit a run.
pub(super) struct Q5K;

impl Format for Q5K {
    const ACT: ActFormat = ActFormat::Q8x256;
    const ELEMENTS: usize = 256;
    const BYTES: usize = 2816;
    const ACT_BYTES: usize = BLOCK256_BYTES;
    const AHEAD: usize = AHEAD;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut Tile<S::F, R, C>,
    ) {
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            let (scales, mut sums) = scales_and_mins(s, w, x);
            five_bits::<S, R, C, 4, 0>(s, w, x, 0, &scales, &mut sums);
            five_bits::<S, R, C, 3, 0>(s, w, x, 1, &scales, &mut sums);
            five_bits::<S, R, C, 2, 0>(s, w, x, 2, &scales, &mut sums);
            five_bits::<S, R, C, 1, 0>(s, w, x, 3, &scales, &mut sums);
            five_bits::<S, R, C, 0, 0>(s, w, x, 4, &scales, &mut sums);
            five_bits::<S, R, C, 0, 1>(s, w, x, 5, &scales, &mut sums);
            five_bits::<S, R, C, 0, 2>(s, w, x, 6, &scales, &mut sums);
            five_bits::<S, R, C, 0, 3>(s, w, x, 7, &scales, &mut sums);
            add_block(s, sums, x, acc);
        }
    }
}

/// A run of Q5_K, whose high bit reaches bit 4 by a shift left or right.
///
/// # Safety
/// As [`Format::block`].
#[inline(always)]
unsafe fn five_bits<S: Simd, const R: usize, const C: usize, const LEFT: u32, const RIGHT: u32>(
    s: S,
    w: [*const u8; R],
    x: [*const u8; C],
    run: usize,
    scales: &[[S::F; R]; 8],
    sums: &mut Tile<S::F, R, C>,
) {
    let (low, high) = (s.splat_i(0x0f0f_0f0f), s.splat_i(0x1010_1010));
    let mut dots = [[s.splat_i(0); C]; R];
    for j in 0..8 {
        let mut codes = [s.splat_i(0); R];
        for r in 0..R {
            // SAFETY: the caller's promise.
            let (both, bits) =
                unsafe { (s.load_bytes(w[r].add(768 + 64 * (run / 2 * 8 + j))), s.load_bytes(w[r].add(256 + 64 * j))) };
            let low = s.and(if run.is_multiple_of(2) { both } else { s.shr::<4>(both) }, low);
            codes[r] = s.or(low, s.and(s.shr::<RIGHT>(s.shl::<LEFT>(bits)), high));
        }
        // SAFETY: the caller's promise.
        unsafe { dot(s, codes, x, 32 * run + 4 * j, &mut dots) };
    }
    add_run(s, dots, scales, run, sums);
}

/// Q6_K: f16 d, four vectors of i8 scales, 16 of high bit pairs, 32 of low nibbles; a run is 16 elements.
pub(super) struct Q6K;

impl Format for Q6K {
    const ACT: ActFormat = ActFormat::Q8x256;
    const ELEMENTS: usize = 256;
    const BYTES: usize = 3360;
    const ACT_BYTES: usize = BLOCK256_BYTES;
    const AHEAD: usize = AHEAD;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut Tile<S::F, R, C>,
    ) {
        let mut scales = [[s.splat(0.0); R]; 16];
        let mut sums = [[s.splat(0.0); C]; R];
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            for r in 0..R {
                prefetch_ahead::<S, Self, R, C>(s, w[r]);
                let d = s.load_f16_ptr(w[r]);
                for q in 0..4 {
                    let four = load_ahead::<S, Self, R, C>(s, w[r].add(32 + 64 * q));
                    scales[4 * q][r] = s.mul(d, s.to_f32(s.sar::<24>(s.shl::<24>(four))));
                    scales[4 * q + 1][r] = s.mul(d, s.to_f32(s.sar::<24>(s.shl::<16>(four))));
                    scales[4 * q + 2][r] = s.mul(d, s.to_f32(s.sar::<24>(s.shl::<8>(four))));
                    scales[4 * q + 3][r] = s.mul(d, s.to_f32(s.sar::<24>(four)));
                }
            }
            for half in 0..2 {
                six_bits::<S, R, C, 0, 4, 0>(s, w, x, half, 0, &scales, &mut sums);
                six_bits::<S, R, C, 0, 2, 0>(s, w, x, half, 1, &scales, &mut sums);
                six_bits::<S, R, C, 4, 0, 0>(s, w, x, half, 2, &scales, &mut sums);
                six_bits::<S, R, C, 4, 0, 2>(s, w, x, half, 3, &scales, &mut sums);
            }
            add_block(s, sums, x, acc);
        }
    }
}

/// Two runs of Q6_K, elements `128 * half + 32 * group..` on: the shift of the nibble, the left and right shift that
/// bring the high bits to bit 4.
///
/// # Safety
/// As [`Format::block`].
#[inline(always)]
unsafe fn six_bits<S: Simd, const R: usize, const C: usize, const NIBBLE: u32, const LEFT: u32, const RIGHT: u32>(
    s: S,
    w: [*const u8; R],
    x: [*const u8; C],
    half: usize,
    group: usize,
    scales: &[[S::F; R]; 16],
    sums: &mut Tile<S::F, R, C>,
) {
    let (low, high) = (s.splat_i(0x0f0f_0f0f), s.splat_i(0x3030_3030));
    for run in 8 * half + 2 * group..8 * half + 2 * group + 2 {
        // SAFETY: the caller's promise.
        let mut dots = unsafe { offsets::<S, R, C, 5>(s, x, run) };
        for j in 0..4 {
            let i = run % 2 * 4 + j;
            let mut codes = [s.splat_i(0); R];
            for r in 0..R {
                // SAFETY: the caller's promise.
                codes[r] = unsafe {
                    let at = w[r].add(1312 + 64 * (16 * half + group % 2 * 8 + i));
                    let bits = w[r].add(288 + 64 * (8 * half + i));
                    let both = if group < 2 { load_ahead::<S, Q6K, R, C>(s, at) } else { s.load_bytes(at) };
                    let bits = if group == 0 { load_ahead::<S, Q6K, R, C>(s, bits) } else { s.load_bytes(bits) };
                    let nibble = s.and(s.shr::<NIBBLE>(both), low);
                    s.or(nibble, s.and(s.shr::<RIGHT>(s.shl::<LEFT>(bits)), high))
                };
            }
            // SAFETY: the caller's promise.
            unsafe { dot(s, codes, x, 16 * run + 4 * j, &mut dots) };
        }
        add_run(s, dots, scales, run, sums);
    }
}

/// The scales of the eight runs of Q4_K or Q5_K, and the sums begun with what the minima take away.
///
/// # Safety
/// As [`Format::block`].
#[inline(always)]
unsafe fn scales_and_mins<S: Simd, const R: usize, const C: usize>(
    s: S,
    w: [*const u8; R],
    x: [*const u8; C],
) -> ([[S::F; R]; 8], Tile<S::F, R, C>) {
    let (six, four, two) = (s.splat_i(0x3f3f_3f3f), s.splat_i(0x0f0f_0f0f), s.splat_i(0x3030_3030));
    let (byte, bytes) = (s.splat_i(0xff), s.splat_i(0x00ff_00ff));
    let mut scales = [[s.splat(0.0); R]; 8];
    let mut sums = [[s.splat(0.0); C]; R];
    for r in 0..R {
        prefetch_ahead::<S, Q4K, R, C>(s, w[r]);
        // SAFETY: the caller's promise.
        let (d, dmin) = unsafe { (s.load_f16_ptr(w[r]), s.load_f16_ptr(w[r].add(32))) };
        // SAFETY: the caller's promise.
        let (a, b, c) = unsafe {
            (
                load_ahead::<S, Q4K, R, C>(s, w[r].add(64)),
                load_ahead::<S, Q4K, R, C>(s, w[r].add(128)),
                load_ahead::<S, Q4K, R, C>(s, w[r].add(192)),
            )
        };
        let scale = [s.and(a, six), s.or(s.and(c, four), s.and(s.shr::<2>(a), two))];
        let min = [s.and(b, six), s.or(s.and(s.shr::<4>(c), four), s.and(s.shr::<2>(b), two))];
        for i in 0..2 {
            scales[4 * i][r] = s.mul(d, s.to_f32(s.and(scale[i], byte)));
            scales[4 * i + 1][r] = s.mul(d, s.to_f32(s.and(s.shr::<8>(scale[i]), byte)));
            scales[4 * i + 2][r] = s.mul(d, s.to_f32(s.and(s.shr::<16>(scale[i]), byte)));
            scales[4 * i + 3][r] = s.mul(d, s.to_f32(s.shr::<24>(scale[i])));
        }
        // Pairs of minima in the order of the sums: 0 2, 1 3, 4 6, 5 7.
        let mut pairs = [s.splat_i(0); 4];
        for i in 0..2 {
            pairs[2 * i] = s.and(min[i], bytes);
            pairs[2 * i + 1] = s.and(s.shr::<8>(min[i]), bytes);
        }
        let dmin = s.neg(dmin);
        for c in 0..C {
            let mut dots = s.splat_i(0);
            for (i, &pair) in pairs.iter().enumerate() {
                // SAFETY: the caller's promise.
                dots = s.dot_i16(dots, pair, unsafe { s.splat_dword(x[c].add(SUMS32 + 4 * i)) });
            }
            sums[r][c] = s.mul(s.to_f32(dots), dmin);
        }
    }
    (scales, sums)
}

/// What the dots of a run of 16 start from so that codes may carry an offset of `2^SHIFT`.
///
/// # Safety
/// A block of activations at each `x`.
#[inline(always)]
pub(super) unsafe fn offsets<S: Simd, const R: usize, const C: usize, const SHIFT: u32>(
    s: S,
    x: [*const u8; C],
    run: usize,
) -> Tile<S::I, R, C> {
    let mut dots = [[s.splat_i(0); C]; R];
    for c in 0..C {
        // SAFETY: the caller's promise.
        let offset = s.shl::<SHIFT>(unsafe { s.splat_dword(x[c].add(SUMS16 + 4 * run)) });
        for dots in &mut dots {
            dots[c] = offset;
        }
    }
    dots
}

/// Adds four elements, which lie at byte `at` of the activations; codes are below 128.
///
/// # Safety
/// A block of activations at each `x`.
#[inline(always)]
unsafe fn dot<S: Simd, const R: usize, const C: usize>(
    s: S,
    codes: [S::I; R],
    x: [*const u8; C],
    at: usize,
    dots: &mut Tile<S::I, R, C>,
) {
    for c in 0..C {
        // SAFETY: the caller's promise.
        let four = unsafe { s.splat_dword(x[c].add(at)) };
        for r in 0..R {
            dots[r][c] = s.dot_u7(dots[r][c], codes[r], four);
        }
    }
}

/// Adds a run's dots under its scale.
#[inline(always)]
pub(super) fn add_run<S: Simd, const R: usize, const C: usize, const N: usize>(
    s: S,
    dots: Tile<S::I, R, C>,
    scales: &[[S::F; R]; N],
    run: usize,
    sums: &mut Tile<S::F, R, C>,
) {
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = s.fma(s.to_f32(dots[r][c]), scales[run][r], sums[r][c]);
        }
    }
}

/// Adds a block's sums under the scale of its activations.
///
/// # Safety
/// A block of activations at each `x`.
#[inline(always)]
pub(super) unsafe fn add_block<S: Simd, const R: usize, const C: usize>(
    s: S,
    sums: Tile<S::F, R, C>,
    x: [*const u8; C],
    acc: &mut Tile<S::F, R, C>,
) {
    for c in 0..C {
        // SAFETY: the caller's promise.
        let dx = unsafe { s.splat_ptr(x[c].add(SCALE256)) };
        for r in 0..R {
            acc[r][c] = s.fma(sums[r][c], dx, acc[r][c]);
        }
    }
}
