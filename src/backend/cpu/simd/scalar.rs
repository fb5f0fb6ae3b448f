//! The sixteen lanes in plain Rust: the meaning of [`Simd`], and what runs where nothing wider does.
#![allow(unsafe_code)]

use half::{bf16, f16};

use super::{Isa, LANES, Simd};

/// Plain lanes.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

type F = [f32; LANES];
type I = [i32; LANES];

impl Simd for Scalar {
    type F = F;
    type I = I;
    type M = [bool; LANES];
    const ISA: Isa = Isa::Scalar;

    #[inline]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline]
    fn load(self, x: &[f32]) -> F {
        std::array::from_fn(|i| x[i])
    }
    #[inline]
    fn store(self, a: F, x: &mut [f32]) {
        x[..LANES].copy_from_slice(&a);
    }
    #[inline]
    fn add(self, a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline]
    fn sub(self, a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline]
    fn mul(self, a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline]
    fn div(self, a: F, b: F) -> F {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline]
    fn fma(self, a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline]
    fn sqrt(self, a: F) -> F {
        a.map(f32::sqrt)
    }
    #[inline]
    fn abs(self, a: F) -> F {
        a.map(f32::abs)
    }
    #[inline]
    fn neg(self, a: F) -> F {
        std::array::from_fn(|i| -a[i])
    }
    #[inline]
    fn max(self, a: F, b: F) -> F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline]
    fn min(self, a: F, b: F) -> F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline]
    fn lt(self, a: F, b: F) -> Self::M {
        std::array::from_fn(|i| a[i] < b[i])
    }
    #[inline]
    fn first(self, n: usize) -> Self::M {
        std::array::from_fn(|i| i < n)
    }
    #[inline]
    fn select(self, m: Self::M, a: F, b: F) -> F {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        x.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline]
    fn store_f16(self, a: F, x: &mut [u16; LANES]) {
        *x = a.map(|v| f16::from_f32(v).to_bits());
    }
    #[inline]
    fn load_bf16(self, x: &[u16; LANES]) -> F {
        x.map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        x.map(f32::from)
    }
    #[inline]
    fn round_i32(self, a: F) -> I {
        // 2^31 and -2^31 are f32; what lies outside, and NaN, becomes the least i32 as in hardware.
        a.map(|v| if (-2_147_483_648.0..2_147_483_648.0).contains(&v) { v.round_ties_even() as i32 } else { i32::MIN })
    }
    #[inline]
    fn to_f32(self, a: I) -> F {
        a.map(|v| v as f32)
    }
    #[inline]
    fn store_i8(self, a: I, x: &mut [i8; LANES]) {
        *x = a.map(|v| v.clamp(-128, 127) as i8);
    }
    #[inline]
    fn exp2i(self, n: I) -> F {
        n.map(|n| f32::from_bits((n.wrapping_add(127) as u32) << 23))
    }
    #[inline]
    fn reduce_add(self, a: F) -> f32 {
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }
    #[inline]
    fn reduce_max(self, a: F) -> f32 {
        let m = |a: f32, b: f32| if a > b { a } else { b };
        let b: [f32; 8] = std::array::from_fn(|i| m(a[i], a[i + 8]));
        let c: [f32; 4] = std::array::from_fn(|i| m(b[i], b[i + 4]));
        m(m(c[0], c[2]), m(c[1], c[3]))
    }
    #[inline]
    fn splat_i(self, x: i32) -> I {
        [x; LANES]
    }
    #[inline]
    fn load_i(self, x: &[i32; LANES]) -> I {
        *x
    }
    #[inline]
    fn store_i(self, a: I, x: &mut [i32; LANES]) {
        *x = a;
    }
    #[inline]
    fn add_i(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline]
    fn sub_i(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline]
    fn and(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline]
    fn or(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline]
    fn xor(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline]
    fn shl<const N: u32>(self, a: I) -> I {
        a.map(|v| v << N)
    }
    #[inline]
    fn shr<const N: u32>(self, a: I) -> I {
        a.map(|v| ((v as u32) >> N) as i32)
    }
    #[inline]
    fn sar<const N: u32>(self, a: I) -> I {
        a.map(|v| v >> N)
    }
    #[inline]
    fn dot_u8(self, acc: I, u: I, x: I) -> I {
        std::array::from_fn(|i| {
            let (u, x) = (u[i].to_le_bytes(), x[i].to_le_bytes());
            (0..4).fold(acc[i], |sum, j| sum.wrapping_add(i32::from(u[j]) * i32::from(x[j] as i8)))
        })
    }
    #[inline]
    fn dot_u7(self, acc: I, u: I, x: I) -> I {
        self.dot_u8(acc, u, x)
    }
    #[inline]
    fn dot_i16(self, acc: I, a: I, b: I) -> I {
        std::array::from_fn(|i| {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            let high = (a[i] >> 16) * (b[i] >> 16);
            acc[i].wrapping_add(low).wrapping_add(high)
        })
    }
    #[inline]
    unsafe fn load_ptr(self, p: *const f32) -> F {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline]
    unsafe fn store_ptr(self, a: F, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<F>().write_unaligned(a) }
    }
    #[inline]
    unsafe fn load_bytes(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<I>().read_unaligned() }.map(i32::from_le)
    }
    #[inline]
    unsafe fn store_bytes(self, a: I, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<I>().write_unaligned(a.map(i32::to_le)) }
    }
    #[inline]
    unsafe fn splat_dword(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        [i32::from_le(unsafe { p.cast::<i32>().read_unaligned() }); LANES]
    }
    #[inline]
    unsafe fn splat_ptr(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        [unsafe { p.cast::<f32>().read_unaligned() }; LANES]
    }
    #[inline]
    unsafe fn load_f16_ptr(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        self.load_f16(&unsafe { p.cast::<[u16; LANES]>().read_unaligned() })
    }
    #[inline]
    unsafe fn load_bf16_ptr(self, p: *const u8) -> F {
        // SAFETY: the caller's promise.
        self.load_bf16(&unsafe { p.cast::<[u16; LANES]>().read_unaligned() })
    }
    #[inline]
    unsafe fn load_u8_ptr(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline]
    unsafe fn load_i8_ptr(self, p: *const u8) -> I {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline]
    unsafe fn gather(self, p: *const u8, offsets: I) -> I {
        // SAFETY: the caller's promise.
        offsets.map(|offset| i32::from_le(unsafe { p.offset(offset as isize).cast::<i32>().read_unaligned() }))
    }
    #[inline]
    unsafe fn store_u16_ptr(self, a: I, p: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(a.map(|v| (v as u16).to_le())) }
    }
    #[inline]
    fn prefetch(self, _: *const u8) {}
}
