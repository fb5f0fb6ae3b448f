//! Kernels of the formats without codes: every product is one fused multiply-add, in the order of k, even and odd
//! elements apart.
#![allow(unsafe_code)]

use super::acts::ActFormat;
use super::tile::{Format, Sums, prefetch_ahead};
use crate::backend::cpu::simd::Simd;

/// Defines a format whose block is one element of sixteen rows.
macro_rules! floats {
    ($($(#[$doc:meta])* $name:ident: $bytes:literal by $load:ident as $ptr:ty, times $act:ident;)+) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Format for $name {
            const ACT: ActFormat = ActFormat::$act;
            const ELEMENTS: usize = 1;
            const BYTES: usize = $bytes;
            const ACT_BYTES: usize = 4;
            const SUMS: Sums = Sums::EvenOdd;

            #[inline(always)]
            unsafe fn block<S: Simd, const R: usize, const C: usize>(
                s: S,
                w: [*const u8; R],
                x: [*const u8; C],
                acc: &mut [[S::F; C]; R],
                _second: &mut [[S::F; C]; R],
            ) {
                let mut rows = [s.splat(0.0); R];
                for r in 0..R {
                    prefetch_ahead::<S, Self, R, C>(s, w[r]);
                    // SAFETY: the caller's promise: one element of sixteen rows at each `w`.
                    rows[r] = unsafe { s.$load(w[r].cast::<$ptr>()) };
                }
                for c in 0..C {
                    // SAFETY: the caller's promise: one activation at each `x`.
                    let x = unsafe { s.splat_ptr(x[c]) };
                    for r in 0..R {
                        acc[r][c] = s.fma(rows[r], x, acc[r][c]);
                    }
                }
            }
        }
    )+};
}

floats! {
    /// F32.
    F32: 64 by load_ptr as f32, times F32;
    /// F16, widened exactly.
    F16: 32 by load_f16_ptr as u8, times F16;
    /// BF16, widened exactly.
    Bf16: 32 by load_bf16_ptr as u8, times F32;
}
