//! Sixteen lanes of one instruction set, chosen at run time: kernels are written once over [`Simd`] and compiled
//! per set by [`Isa::run`]. Every operation gives the same bits in every set (NaN payloads aside), so a kernel
//! whose order of operations is fixed has one result on every machine. Knows lanes only, never tensors or graphs.
//!
//! A kernel is a [`Job`] whose `run` is `#[inline(always)]`, as is every function it calls with the set: only then
//! does its body land inside the function that enables the instructions. Closures do not; use loops.
#![allow(unsafe_code)]

mod dispatch;
pub mod math;
pub mod matmul;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use dispatch::{Isa, Job};

/// Lanes of a vector in every instruction set.
pub const LANES: usize = 16;

/// Sixteen f32 or i32 lanes of one instruction set. Values are tokens: they exist only where the set may be used.
///
/// `F` holds sixteen f32, `I` sixteen i32 (or sixty-four bytes in memory order), `M` one truth value a lane.
#[allow(missing_docs, reason = "the names say it; what they do not say is documented")]
pub trait Simd: Copy {
    type F: Copy;
    type I: Copy;
    type M: Copy;

    /// The set, for reports and tests.
    const ISA: Isa;

    fn splat(self, x: f32) -> Self::F;
    /// The first sixteen of `x`.
    ///
    /// # Panics
    /// Where `x` is shorter.
    fn load(self, x: &[f32]) -> Self::F;
    /// To the first sixteen of `x`.
    ///
    /// # Panics
    /// Where `x` is shorter.
    fn store(self, a: Self::F, x: &mut [f32]);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c` with one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    fn neg(self, a: Self::F) -> Self::F;
    /// `a > b ? a : b`: `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a < b`; false where either is NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// The first `n` lanes (all where `n` is 16 or more).
    fn first(self, n: usize) -> Self::M;
    /// `a` where `m`, else `b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// Exact; sixteen f16 bit patterns.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// To f16 bit patterns, nearest even.
    fn store_f16(self, a: Self::F, x: &mut [u16; LANES]);
    /// To the nearest f16, even among two, as f32.
    #[inline(always)]
    fn round_f16(self, a: Self::F) -> Self::F {
        let mut halves = [0; LANES];
        self.store_f16(a, &mut halves);
        self.load_f16(&halves)
    }
    /// Exact; sixteen bf16 bit patterns.
    fn load_bf16(self, x: &[u16; LANES]) -> Self::F;
    fn load_i8(self, x: &[i8; LANES]) -> Self::F;
    /// Widened.
    #[inline(always)]
    fn load_u8(self, x: &[u8; LANES]) -> Self::I {
        // SAFETY: 16 bytes lie at `x`.
        unsafe { self.load_u8_ptr(x.as_ptr()) }
    }

    /// Nearest even; `i32::MIN` where out of range or NaN.
    fn round_i32(self, a: Self::F) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::F;
    /// Each lane clamped to an i8.
    fn store_i8(self, a: Self::I, x: &mut [i8; LANES]);
    /// `2^n` a lane, for `-126 <= n <= 127`.
    fn exp2i(self, n: Self::I) -> Self::F;

    /// The sum, as a tree: lane `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn reduce_add(self, a: Self::F) -> f32;
    /// The largest lane, by the same tree of [`Simd::max`].
    fn reduce_max(self, a: Self::F) -> f32;

    fn splat_i(self, x: i32) -> Self::I;
    fn load_i(self, x: &[i32; LANES]) -> Self::I;
    fn store_i(self, a: Self::I, x: &mut [i32; LANES]);
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane shifted left.
    fn shl<const N: u32>(self, a: Self::I) -> Self::I;
    /// Each lane shifted right, zeros in.
    fn shr<const N: u32>(self, a: Self::I) -> Self::I;
    /// Each lane shifted right, its sign in.
    fn sar<const N: u32>(self, a: Self::I) -> Self::I;

    /// Adds to each lane of `acc` its four products of a u8 of `u` and an i8 of `x`, exactly.
    /// `x` is never -128.
    fn dot_u8(self, acc: Self::I, u: Self::I, x: Self::I) -> Self::I;
    /// [`Simd::dot_u8`] where every u8 is below 128.
    fn dot_u7(self, acc: Self::I, u: Self::I, x: Self::I) -> Self::I;
    /// Adds to each lane of `acc` its two products of an i16 of `a` and an i16 of `b`, exactly.
    fn dot_i16(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// Sixteen f32 from memory.
    ///
    /// # Safety
    /// 64 bytes at `p` are readable; no alignment is needed. So for all the following, in their sizes.
    unsafe fn load_ptr(self, p: *const f32) -> Self::F;
    /// # Safety
    /// 64 bytes at `p` are writable.
    unsafe fn store_ptr(self, a: Self::F, p: *mut f32);
    /// Sixty-four bytes.
    ///
    /// # Safety
    /// 64 bytes at `p` are readable.
    unsafe fn load_bytes(self, p: *const u8) -> Self::I;
    /// # Safety
    /// 64 bytes at `p` are writable.
    unsafe fn store_bytes(self, a: Self::I, p: *mut u8);
    /// Four bytes at `p`, in every lane.
    ///
    /// # Safety
    /// 4 bytes at `p` are readable.
    unsafe fn splat_dword(self, p: *const u8) -> Self::I;
    /// The f32 at `p`, in every lane.
    ///
    /// # Safety
    /// 4 bytes at `p` are readable.
    unsafe fn splat_ptr(self, p: *const u8) -> Self::F;
    /// Sixteen f16.
    ///
    /// # Safety
    /// 32 bytes at `p` are readable.
    unsafe fn load_f16_ptr(self, p: *const u8) -> Self::F;
    /// Sixteen bf16.
    ///
    /// # Safety
    /// 32 bytes at `p` are readable.
    unsafe fn load_bf16_ptr(self, p: *const u8) -> Self::F;
    /// Sixteen u8, widened.
    ///
    /// # Safety
    /// 16 bytes at `p` are readable.
    unsafe fn load_u8_ptr(self, p: *const u8) -> Self::I;
    /// Sixteen i8, widened.
    ///
    /// # Safety
    /// 16 bytes at `p` are readable.
    unsafe fn load_i8_ptr(self, p: *const u8) -> Self::I;

    /// Four bytes from each of the sixteen addresses `p` plus a lane of `offsets`.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn gather(self, p: *const u8, offsets: Self::I) -> Self::I;
    /// The low halves of the lanes.
    ///
    /// # Safety
    /// 32 bytes at `p` are writable.
    unsafe fn store_u16_ptr(self, a: Self::I, p: *mut u8);

    /// Asks for the cache line of an address, which need not exist.
    fn prefetch(self, p: *const u8);

    /// The first `x.len()` lanes (at most 16) from `x`, `fill` in the others.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        let mut whole = [fill; LANES];
        whole[..x.len()].copy_from_slice(x);
        self.load(&whole)
    }

    /// The first `x.len()` lanes (at most 16) to `x`.
    #[inline(always)]
    fn store_part(self, a: Self::F, x: &mut [f32]) {
        let mut whole = [0.0; LANES];
        self.store(a, &mut whole);
        x.copy_from_slice(&whole[..x.len()]);
    }
}
