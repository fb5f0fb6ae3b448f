//! Sixteen lanes in two AVX2 registers; byte dot products by AVX-VNNI where `VNNI`, else through i16 without saturation.
#![allow(unsafe_code)]
// Each intrinsic below needs a feature that the token stands for: `Avx2` exists only where all of them were found.

use std::arch::x86_64::*;

use crate::backend::cpu::simd::{Isa, LANES, Simd};

/// Stands for AVX2, FMA and F16C, and for AVX-VNNI where `VNNI`.
#[derive(Clone, Copy, Debug)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// # Safety
    /// The machine has the features that the type stands for.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// Defines operations half by half: `a` and `b` name the halves.
macro_rules! halves {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: the token stands for the features; no memory is touched.
            unsafe { [{ $(let $arg = $arg[0];)* $body }, { $(let $arg = $arg[1];)* $body }] }
        }
    )+};
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = F;
    type I = I;
    type M = F;
    const ISA: Isa = if VNNI { Isa::AvxVnni } else { Isa::Avx2 };

    halves! {
        add(a: F, b: F) -> F = _mm256_add_ps(a, b);
        sub(a: F, b: F) -> F = _mm256_sub_ps(a, b);
        mul(a: F, b: F) -> F = _mm256_mul_ps(a, b);
        div(a: F, b: F) -> F = _mm256_div_ps(a, b);
        fma(a: F, b: F, c: F) -> F = _mm256_fmadd_ps(a, b, c);
        sqrt(a: F) -> F = _mm256_sqrt_ps(a);
        abs(a: F) -> F = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        neg(a: F) -> F = _mm256_xor_ps(a, _mm256_set1_ps(-0.0));
        max(a: F, b: F) -> F = _mm256_max_ps(a, b);
        min(a: F, b: F) -> F = _mm256_min_ps(a, b);
        lt(a: F, b: F) -> F = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        select(m: F, a: F, b: F) -> F = _mm256_blendv_ps(b, a, m);
        round_i32(a: F) -> I = _mm256_cvtps_epi32(a);
        to_f32(a: I) -> F = _mm256_cvtepi32_ps(a);
        exp2i(n: I) -> F = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
        add_i(a: I, b: I) -> I = _mm256_add_epi32(a, b);
        sub_i(a: I, b: I) -> I = _mm256_sub_epi32(a, b);
        and(a: I, b: I) -> I = _mm256_and_si256(a, b);
        or(a: I, b: I) -> I = _mm256_or_si256(a, b);
        xor(a: I, b: I) -> I = _mm256_xor_si256(a, b);
        dot_u8(acc: I, u: I, x: I) -> I = dot_u8::<VNNI>(acc, u, x);
        dot_u7(acc: I, u: I, x: I) -> I = dot_u7::<VNNI>(acc, u, x);
        dot_i16(acc: I, a: I, b: I) -> I = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> I {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    fn first(self, n: usize) -> F {
        let n = n.min(LANES) as i32;
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            [
                _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)),
                _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane)),
            ]
        }
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: I) -> I {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [_mm256_sll_epi32(a[0], count), _mm256_sll_epi32(a[1], count)]
        }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: I) -> I {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [_mm256_srl_epi32(a[0], count), _mm256_srl_epi32(a[1], count)]
        }
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: I) -> I {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            [_mm256_sra_epi32(a[0], count), _mm256_sra_epi32(a[1], count)]
        }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> F {
        let x = &x[..LANES];
        // SAFETY: sixteen f32 lie at `x`.
        unsafe { self.load_ptr(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, a: F, x: &mut [f32]) {
        let x = &mut x[..LANES];
        // SAFETY: sixteen f32 lie at `x`.
        unsafe { self.store_ptr(a, x.as_mut_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        // SAFETY: 32 bytes lie at `x`.
        unsafe { self.load_f16_ptr(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_f16(self, a: F, x: &mut [u16; LANES]) {
        // SAFETY: 32 bytes lie at `x`.
        unsafe {
            let p = x.as_mut_ptr().cast::<__m128i>();
            _mm_storeu_si128(p, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[0]));
            _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[1]));
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> F {
        // SAFETY: 32 bytes lie at `x`.
        unsafe { self.load_bf16_ptr(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        // SAFETY: 16 bytes lie at `x`.
        self.to_f32(unsafe { self.load_i8_ptr(x.as_ptr().cast()) })
    }
    #[inline(always)]
    fn store_i8(self, a: I, x: &mut [i8; LANES]) {
        // SAFETY: 16 bytes lie at `x`.
        unsafe {
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a[0], a[1]));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(x.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn reduce_add(self, a: F) -> f32 {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let b = _mm256_add_ps(a[0], a[1]);
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: F) -> f32 {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let b = _mm256_max_ps(a[0], a[1]);
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn load_i(self, x: &[i32; LANES]) -> I {
        // SAFETY: 64 bytes lie at `x`.
        unsafe { self.load_bytes(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_i(self, a: I, x: &mut [i32; LANES]) {
        // SAFETY: 64 bytes lie at `x`.
        unsafe { self.store_bytes(a, x.as_mut_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn gather(self, p: *const u8, offsets: I) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            [_mm256_i32gather_epi32::<1>(p.cast(), offsets[0]), _mm256_i32gather_epi32::<1>(p.cast(), offsets[1])]
        }
    }
    #[inline(always)]
    unsafe fn store_u16_ptr(self, a: I, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm256_set1_epi32(0xffff);
            let words = _mm256_packus_epi32(_mm256_and_si256(a[0], low), _mm256_and_si256(a[1], low));
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(words));
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, a: F, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(p, a[0]);
            _mm256_storeu_ps(p.add(8), a[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, a: I, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_si256(p.cast(), a[0]);
            _mm256_storeu_si256(p.add(32).cast(), a[1]);
        }
    }
    #[inline(always)]
    unsafe fn splat_dword(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
    }
    #[inline(always)]
    unsafe fn splat_ptr(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_set1_ps(p.cast::<f32>().read_unaligned()); 2] }
    }
    #[inline(always)]
    unsafe fn load_f16_ptr(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))] }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
    }
    #[inline(always)]
    unsafe fn load_u8_ptr(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }
}

/// # Safety
/// AVX2 is there, and AVX-VNNI where `VNNI`.
#[inline(always)]
unsafe fn dot_u7<const VNNI: bool>(acc: __m256i, u: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise. Two products of at most 127 * 127 do not saturate an i16.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(acc, u, x);
        }
        let pairs = _mm256_maddubs_epi16(u, x);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// # Safety
/// AVX2 is there, and AVX-VNNI where `VNNI`.
#[inline(always)]
unsafe fn dot_u8<const VNNI: bool>(acc: __m256i, u: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise. With s = u - 128 as i8, u * x = |s| * (sign(s) x) + 128 x, and neither
    // two products of at most 128 * 127 nor two of 128 * 127 (the second `maddubs`) saturate an i16.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(acc, u, x);
        }
        let top = _mm256_set1_epi8(-128);
        let s = _mm256_xor_si256(u, top);
        let ones = _mm256_set1_epi16(1);
        let products = _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(x, s));
        let offsets = _mm256_maddubs_epi16(top, x);
        let sum = _mm256_add_epi32(_mm256_madd_epi16(products, ones), _mm256_madd_epi16(offsets, ones));
        _mm256_add_epi32(acc, sum)
    }
}
