//! Kernels of the formats with blocks of 32 under one half-precision scale.
#![allow(unsafe_code)]

use super::acts::{ActFormat, BLOCK32_BYTES, SCALE32, SUM32_BY_8, SUM32_BY_128};
use super::tile::{Format, load_ahead};
use crate::backend::cpu::simd::Simd;

/// Q4_0: 16 f16 scales, then four vectors: nibbles of elements `4 j..4 j + 4` low, `16 + 4 j..` high.
pub(super) struct Q4_0;

impl Format for Q4_0 {
    const ACT: ActFormat = ActFormat::Q8x32;
    const ELEMENTS: usize = 32;
    const BYTES: usize = 288;
    const ACT_BYTES: usize = BLOCK32_BYTES;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
        _second: &mut [[S::F; C]; R],
    ) {
        let low = s.splat_i(0x0f0f_0f0f);
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            let mut sums = offsets(s, x, SUM32_BY_8);
            for j in 0..4 {
                let mut codes = [[s.splat_i(0); 2]; R];
                for r in 0..R {
                    let both = load_ahead::<S, Self, R, C>(s, w[r].add(32 + 64 * j));
                    codes[r] = [s.and(both, low), s.and(s.shr::<4>(both), low)];
                }
                for half in 0..2 {
                    for c in 0..C {
                        let four = s.splat_dword(x[c].add(16 * half + 4 * j));
                        for r in 0..R {
                            sums[r][c] = s.dot_u7(sums[r][c], codes[r][half], four);
                        }
                    }
                }
            }
            add_scaled(s, sums, w, x, acc);
        }
    }
}

/// Q8_0: 16 f16 scales, then eight vectors of four codes plus 128 a lane.
pub(super) struct Q8_0;

impl Format for Q8_0 {
    const ACT: ActFormat = ActFormat::Q8x32;
    const ELEMENTS: usize = 32;
    const BYTES: usize = 544;
    const ACT_BYTES: usize = BLOCK32_BYTES;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
        _second: &mut [[S::F; C]; R],
    ) {
        // SAFETY: the caller's promise: a block of the panel at each `w`, of activations at each `x`.
        unsafe {
            let mut sums = offsets(s, x, SUM32_BY_128);
            for j in 0..8 {
                let mut codes = [s.splat_i(0); R];
                for r in 0..R {
                    codes[r] = load_ahead::<S, Self, R, C>(s, w[r].add(32 + 64 * j));
                }
                for c in 0..C {
                    let four = s.splat_dword(x[c].add(4 * j));
                    for r in 0..R {
                        sums[r][c] = s.dot_u8(sums[r][c], codes[r], four);
                    }
                }
            }
            add_scaled(s, sums, w, x, acc);
        }
    }
}

/// The offset at byte `at` of the activations' blocks, from which the sums start so that codes may be unsigned.
///
/// # Safety
/// A block of activations at each `x`.
#[inline(always)]
pub(super) unsafe fn offsets<S: Simd, const R: usize, const C: usize>(
    s: S,
    x: [*const u8; C],
    at: usize,
) -> [[S::I; C]; R] {
    let mut sums = [[s.splat_i(0); C]; R];
    for c in 0..C {
        for r in 0..R {
            // SAFETY: the caller's promise.
            sums[r][c] = unsafe { s.splat_dword(x[c].add(at)) };
        }
    }
    sums
}

/// `acc += sum * scale of x * scale of w`.
///
/// # Safety
/// A block of the panel at each `w`, of activations at each `x`.
#[inline(always)]
unsafe fn add_scaled<S: Simd, const R: usize, const C: usize>(
    s: S,
    sums: [[S::I; C]; R],
    w: [*const u8; R],
    x: [*const u8; C],
    acc: &mut [[S::F; C]; R],
) {
    for r in 0..R {
        // SAFETY: the caller's promise; scales come first in the panel's block.
        let dw = unsafe { s.load_f16_ptr(w[r]) };
        for c in 0..C {
            // SAFETY: the caller's promise.
            let dx = unsafe { s.splat_ptr(x[c].add(SCALE32)) };
            acc[r][c] = s.fma(s.mul(s.to_f32(sums[r][c]), dx), dw, acc[r][c]);
        }
    }
}
