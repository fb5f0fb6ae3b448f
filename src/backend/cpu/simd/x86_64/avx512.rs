//! Sixteen lanes in one AVX-512 register, byte dot products by VNNI.
#![allow(unsafe_code)]
// Each intrinsic below needs a feature that the token stands for: `Avx512` exists only where all of them were found.

use std::arch::x86_64::*;

use crate::backend::cpu::simd::{Isa, LANES, Simd};

/// Stands for AVX-512 F, BW, DQ, VL and VNNI, with all of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The machine has the features that the type stands for.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

macro_rules! lanewise {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: the token stands for the features; no memory is touched.
            unsafe { $body }
        }
    )+};
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    const ISA: Isa = Isa::Avx512;

    lanewise! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        neg(a: __m512) -> __m512 = _mm512_xor_ps(a, _mm512_set1_ps(-0.0));
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
        round_i32(a: __m512) -> __m512i = _mm512_cvtps_epi32(a);
        to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        exp2i(n: __m512i) -> __m512
            = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, _mm512_set1_epi32(127))));
        splat_i(x: i32) -> __m512i = _mm512_set1_epi32(x);
        add_i(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub_i(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        dot_u8(acc: __m512i, u: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(acc, u, x);
        dot_u7(acc: __m512i, u: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(acc, u, x);
        dot_i16(acc: __m512i, a: __m512i, b: __m512i) -> __m512i = _mm512_dpwssd_epi32(acc, a, b);
    }

    #[inline(always)]
    fn first(self, n: usize) -> __mmask16 {
        if n >= LANES { 0xffff } else { (1u16 << n) - 1 }
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        let x = &x[..LANES];
        // SAFETY: sixteen f32 lie at `x`.
        unsafe { self.load_ptr(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, a: __m512, x: &mut [f32]) {
        let x = &mut x[..LANES];
        // SAFETY: sixteen f32 lie at `x`.
        unsafe { self.store_ptr(a, x.as_mut_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> __m512 {
        // SAFETY: 32 bytes lie at `x`.
        unsafe { self.load_f16_ptr(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_f16(self, a: __m512, x: &mut [u16; LANES]) {
        // SAFETY: 32 bytes lie at `x`.
        unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }
    #[inline(always)]
    fn round_f16(self, a: __m512) -> __m512 {
        // SAFETY: the token stands for AVX-512 F.
        unsafe { _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> __m512 {
        // SAFETY: 32 bytes lie at `x`.
        unsafe { self.load_bf16_ptr(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> __m512 {
        // SAFETY: 16 bytes lie at `x`.
        self.to_f32(unsafe { self.load_i8_ptr(x.as_ptr().cast()) })
    }
    #[inline(always)]
    fn store_i8(self, a: __m512i, x: &mut [i8; LANES]) {
        // SAFETY: 16 bytes lie at `x`.
        unsafe { _mm_storeu_si128(x.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(a)) }
    }
    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        // SAFETY: the token stands for the features; no memory is touched.
        unsafe {
            let b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn load_i(self, x: &[i32; LANES]) -> __m512i {
        // SAFETY: 64 bytes lie at `x`.
        unsafe { self.load_bytes(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_i(self, a: __m512i, x: &mut [i32; LANES]) {
        // SAFETY: 64 bytes lie at `x`.
        unsafe { self.store_bytes(a, x.as_mut_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn gather(self, p: *const u8, offsets: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_i32gather_epi32::<1>(offsets, p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_u16_ptr(self, a: __m512i, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(a)) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, a: __m512, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(p, a) }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, a: __m512i, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(p.cast(), a) }
    }
    #[inline(always)]
    unsafe fn splat_dword(self, p: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn splat_ptr(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_ps(p.cast::<f32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_f16_ptr(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_u8_ptr(self, p: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, p: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
}
