//! Kernels of the K-quants: integer sums of runs of 16 or 32, scaled within a block of 256, then by its activations.
#![allow(unsafe_code)]

use super::acts::{ActFormat, BLOCK256_BYTES, SCALE256, SUMS16_BY_32, SUMS32};
use super::tile::{Format, Sums, load_ahead, prefetch_ahead};
use crate::backend::cpu::simd::Simd;

/// See [`Format::AHEAD`]: blocks are longer here.
const AHEAD: usize = 8192;

/// Sums of the lanes of `R` panels times `C` columns.
type Tile<T, const R: usize, const C: usize> = [[T; C]; R];

/// Q4_K: f16 d and dmin, three words of scales and minima, 32 vectors of codes: eight hold two runs, low and high.
/// Whole numbers are summed over 64 elements, or if `WHOLE` over a block of 256, before they are scaled and rounded: as
/// llama.cpp's products of many rows do, and its products with experts. Other roundings become noise behind int8
/// activations, which can send tokens to other experts.
pub(super) struct Q4K<const WHOLE: bool>;

impl<const WHOLE: bool> Format for Q4K<WHOLE> {
    const ACT: ActFormat = ActFormat::Q8x256;
    const ELEMENTS: usize = 256;
    const BYTES: usize = 2304;
    const ACT_BYTES: usize = BLOCK256_BYTES;
    const AHEAD: usize = AHEAD;
    const MANY_COLUMNS: bool = false;
    const SUMS: Sums = Sums::Minima;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut Tile<S::F, R, C>,
        second: &mut Tile<S::F, R, C>,
    ) {
        let low = s.splat_i(0x0f0f_0f0f);
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            let (scales, factors) = scales_and_mins::<S, R, C, WHOLE>(s, w, x, second);
            let mut sums = [[s.splat(0.0); C]; R];
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
                if !WHOLE || pair == 3 {
                    add_scaled(s, &mut sums, &factors, acc);
                }
            }
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
    const MANY_COLUMNS: bool = false;
    const SUMS: Sums = Sums::Minima;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut Tile<S::F, R, C>,
        second: &mut Tile<S::F, R, C>,
    ) {
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            let (scales, factors) = scales_and_mins::<S, R, C, false>(s, w, x, second);
            let mut sums = [[s.splat(0.0); C]; R];
            five_bits::<S, R, C, 4, 0>(s, w, x, 0, &scales, &mut sums);
            five_bits::<S, R, C, 3, 0>(s, w, x, 1, &scales, &mut sums);
            add_scaled(s, &mut sums, &factors, acc);
            five_bits::<S, R, C, 2, 0>(s, w, x, 2, &scales, &mut sums);
            five_bits::<S, R, C, 1, 0>(s, w, x, 3, &scales, &mut sums);
            add_scaled(s, &mut sums, &factors, acc);
            five_bits::<S, R, C, 0, 0>(s, w, x, 4, &scales, &mut sums);
            five_bits::<S, R, C, 0, 1>(s, w, x, 5, &scales, &mut sums);
            add_scaled(s, &mut sums, &factors, acc);
            five_bits::<S, R, C, 0, 2>(s, w, x, 6, &scales, &mut sums);
            five_bits::<S, R, C, 0, 3>(s, w, x, 7, &scales, &mut sums);
            add_scaled(s, &mut sums, &factors, acc);
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
    let mut dots = [[s.splat_i(0); C]; R];
    for j in 0..8 {
        let mut codes = [s.splat_i(0); R];
        for r in 0..R {
            if run == 0 {
                prefetch_ahead::<S, Q5K, R, C>(s, w[r].wrapping_add(256 + 64 * j));
            }
            if run.is_multiple_of(2) {
                prefetch_ahead::<S, Q5K, R, C>(s, w[r].wrapping_add(768 + 64 * (run / 2 * 8 + j)));
            }
            // SAFETY: the caller's promise.
            codes[r] = unsafe { code5::<S, LEFT, RIGHT>(s, w[r], run, j) };
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
    const MANY_COLUMNS: bool = false;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut Tile<S::F, R, C>,
        _second: &mut Tile<S::F, R, C>,
    ) {
        let mut scales = [[s.splat(0.0); R]; 16];
        let mut sums = [[s.splat(0.0); C]; R];
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            for r in 0..R {
                for at in [0, 64, 128, 192, 256] {
                    prefetch_ahead::<S, Self, R, C>(s, w[r].wrapping_add(at));
                }
                let all = unpack_scales16(s, w[r]);
                for run in 0..16 {
                    scales[run][r] = all[run];
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
    for run in 8 * half + 2 * group..8 * half + 2 * group + 2 {
        // SAFETY: the caller's promise.
        let mut dots = unsafe { offsets::<S, R, C, 0>(s, x, run) };
        for j in 0..4 {
            let i = run % 2 * 4 + j;
            let mut codes = [s.splat_i(0); R];
            for r in 0..R {
                if group == 0 {
                    prefetch_ahead::<S, Q6K, R, C>(s, w[r].wrapping_add(288 + 64 * (8 * half + i)));
                }
                if group < 2 {
                    prefetch_ahead::<S, Q6K, R, C>(s, w[r].wrapping_add(1312 + 64 * (16 * half + group * 8 + i)));
                }
                // SAFETY: the caller's promise.
                codes[r] = unsafe { code6::<S, NIBBLE, LEFT, RIGHT>(s, w[r], half, group, i) };
            }
            // SAFETY: the caller's promise.
            unsafe { dot(s, codes, x, 16 * run + 4 * j, &mut dots) };
        }
        add_run(s, dots, scales, run, sums);
    }
}

/// Four codes a lane of a run of Q5_K.
///
/// # Safety
/// A block of the panel at `w`.
#[inline(always)]
pub(super) unsafe fn code5<S: Simd, const LEFT: u32, const RIGHT: u32>(
    s: S,
    w: *const u8,
    run: usize,
    j: usize,
) -> S::I {
    // SAFETY: the caller's promise.
    let (both, bits) =
        unsafe { (s.load_bytes(w.add(768 + 64 * (run / 2 * 8 + j))), s.load_bytes(w.add(256 + 64 * j))) };
    let low = s.and(if run.is_multiple_of(2) { both } else { s.shr::<4>(both) }, s.splat_i(0x0f0f_0f0f));
    s.or(low, s.and(s.shr::<RIGHT>(s.shl::<LEFT>(bits)), s.splat_i(0x1010_1010)))
}

/// Four codes a lane of Q6_K: vector `i` of a group of 32 elements.
///
/// # Safety
/// A block of the panel at `w`.
#[inline(always)]
pub(super) unsafe fn code6<S: Simd, const NIBBLE: u32, const LEFT: u32, const RIGHT: u32>(
    s: S,
    w: *const u8,
    half: usize,
    group: usize,
    i: usize,
) -> S::I {
    // SAFETY: the caller's promise.
    let (both, bits) = unsafe {
        let nibbles = w.add(1312 + 64 * (16 * half + group % 2 * 8 + i));
        (s.load_bytes(nibbles), s.load_bytes(w.add(288 + 64 * (8 * half + i))))
    };
    let nibble = s.and(s.shr::<NIBBLE>(both), s.splat_i(0x0f0f_0f0f));
    s.or(nibble, s.and(s.shr::<RIGHT>(s.shl::<LEFT>(bits)), s.splat_i(0x3030_3030)))
}

/// The scales of the eight runs of Q4_K or Q5_K, and the factors on sums of whole numbers; takes the minima away.
///
/// # Safety
/// As [`Format::block`].
#[inline(always)]
unsafe fn scales_and_mins<S: Simd, const R: usize, const C: usize, const WHOLE: bool>(
    s: S,
    w: [*const u8; R],
    x: [*const u8; C],
    second: &mut Tile<S::F, R, C>,
) -> ([[S::F; R]; 8], Tile<S::F, R, C>) {
    let mut scales = [[s.splat(0.0); R]; 8];
    let mut factors = [[s.splat(0.0); C]; R];
    for r in 0..R {
        for at in [0, 64, 128, 192] {
            prefetch_ahead::<S, Q4K<WHOLE>, R, C>(s, w[r].wrapping_add(at));
        }
        // SAFETY: the caller's promise.
        let block = unsafe { unpack_scales(s, w[r]) };
        for run in 0..8 {
            scales[run][r] = block.scales[run];
        }
        for c in 0..C {
            // SAFETY: the caller's promise.
            let dx = unsafe { s.splat_ptr(x[c].add(SCALE256)) };
            factors[r][c] = s.mul(block.d, dx);
            // SAFETY: the caller's promise.
            second[r][c] = unsafe { minima::<S, WHOLE>(s, block.pairs, s.mul(block.dmin, dx), x[c], second[r][c]) };
        }
    }
    (scales, factors)
}

/// What a block of Q4_K or Q5_K says beside its codes.
pub(super) struct Scales<S: Simd> {
    /// Whole numbers, one a run.
    pub(super) scales: [S::F; 8],
    /// Pairs of minima as i16, in order.
    pub(super) pairs: [S::I; 4],
    /// What multiplies the scales.
    pub(super) d: S::F,
    /// What multiplies the minima, negated.
    pub(super) dmin: S::F,
}

/// The scales and minima of a block of Q4_K or Q5_K.
///
/// # Safety
/// A block of the panel at `w`.
#[inline(always)]
pub(super) unsafe fn unpack_scales<S: Simd>(s: S, w: *const u8) -> Scales<S> {
    let (six, four, two) = (s.splat_i(0x3f3f_3f3f), s.splat_i(0x0f0f_0f0f), s.splat_i(0x3030_3030));
    let (byte, high) = (s.splat_i(0xff), s.splat_i(0x00ff_0000));
    // SAFETY: the caller's promise.
    let (d, dmin, a, b, c) = unsafe {
        let word = |i: usize| w.add(64 + 64 * i);
        let (a, b, c) = (s.load_bytes(word(0)), s.load_bytes(word(1)), s.load_bytes(word(2)));
        (s.load_f16_ptr(w), s.load_f16_ptr(w.add(32)), a, b, c)
    };
    let scale = [s.and(a, six), s.or(s.and(c, four), s.and(s.shr::<2>(a), two))];
    let min = [s.and(b, six), s.or(s.and(s.shr::<4>(c), four), s.and(s.shr::<2>(b), two))];
    let (mut scales, mut pairs) = ([s.splat(0.0); 8], [s.splat_i(0); 4]);
    for i in 0..2 {
        scales[4 * i] = s.to_f32(s.and(scale[i], byte));
        scales[4 * i + 1] = s.to_f32(s.and(s.shr::<8>(scale[i]), byte));
        scales[4 * i + 2] = s.to_f32(s.and(s.shr::<16>(scale[i]), byte));
        scales[4 * i + 3] = s.to_f32(s.shr::<24>(scale[i]));
        pairs[2 * i] = s.or(s.and(min[i], byte), s.and(s.shl::<8>(min[i]), high));
        pairs[2 * i + 1] = s.or(s.and(s.shr::<16>(min[i]), byte), s.and(s.shr::<8>(min[i]), high));
    }
    Scales { scales, pairs, d, dmin: s.neg(dmin) }
}

/// `sum` plus what the minima of a block add to a column: `factor` times minima and sums of 32, over 64 elements or
/// over all at a time.
///
/// # Safety
/// A block of activations at `x`.
#[inline(always)]
pub(super) unsafe fn minima<S: Simd, const WHOLE: bool>(
    s: S,
    pairs: [S::I; 4],
    factor: S::F,
    x: *const u8,
    sum: S::F,
) -> S::F {
    let (mut sum, mut dots) = (sum, s.splat_i(0));
    for i in 0..4 {
        // SAFETY: the caller's promise.
        dots = s.dot_i16(dots, pairs[i], unsafe { s.splat_dword(x.add(SUMS32 + 4 * i)) });
        if !WHOLE || i == 3 {
            sum = s.fma(s.to_f32(dots), factor, sum);
            dots = s.splat_i(0);
        }
    }
    sum
}

/// Moves sums of whole numbers into `acc`, scaled.
#[inline(always)]
pub(super) fn add_scaled<S: Simd, const R: usize, const C: usize>(
    s: S,
    sums: &mut Tile<S::F, R, C>,
    factors: &Tile<S::F, R, C>,
    acc: &mut Tile<S::F, R, C>,
) {
    for r in 0..R {
        for c in 0..C {
            acc[r][c] = s.fma(sums[r][c], factors[r][c], acc[r][c]);
            sums[r][c] = s.splat(0.0);
        }
    }
}

/// The scales of the sixteen runs of a block of Q6_K.
///
/// # Safety
/// A block of the panel at `w`.
#[inline(always)]
pub(super) unsafe fn unpack_scales16<S: Simd>(s: S, w: *const u8) -> [S::F; 16] {
    let mut scales = [s.splat(0.0); 16];
    // SAFETY: the caller's promise.
    let d = unsafe { s.load_f16_ptr(w) };
    for q in 0..4 {
        // SAFETY: the caller's promise.
        let four = unsafe { s.load_bytes(w.add(32 + 64 * q)) };
        scales[4 * q] = s.mul(d, s.to_f32(s.sar::<24>(s.shl::<24>(four))));
        scales[4 * q + 1] = s.mul(d, s.to_f32(s.sar::<24>(s.shl::<16>(four))));
        scales[4 * q + 2] = s.mul(d, s.to_f32(s.sar::<24>(s.shl::<8>(four))));
        scales[4 * q + 3] = s.mul(d, s.to_f32(s.sar::<24>(four)));
    }
    scales
}

/// What the dots of a run of 16 start from so that codes may carry an offset of `32 << MORE`.
///
/// # Safety
/// A block of activations at each `x`.
#[inline(always)]
pub(super) unsafe fn offsets<S: Simd, const R: usize, const C: usize, const MORE: u32>(
    s: S,
    x: [*const u8; C],
    run: usize,
) -> Tile<S::I, R, C> {
    let mut dots = [[s.splat_i(0); C]; R];
    for c in 0..C {
        for r in 0..R {
            // SAFETY: the caller's promise.
            let offset = unsafe { s.splat_dword(x[c].add(SUMS16_BY_32 + 4 * run)) };
            dots[r][c] = if MORE == 0 { offset } else { s.shl::<MORE>(offset) };
        }
    }
    dots
}

/// Adds four elements, which lie at byte `at` of the activations; codes are below 128.
///
/// # Safety
/// A block of activations at each `x`.
#[inline(always)]
pub(super) unsafe fn dot<S: Simd, const R: usize, const C: usize>(
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
fn add_run<S: Simd, const R: usize, const C: usize, const N: usize>(
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
