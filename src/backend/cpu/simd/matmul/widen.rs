//! K-quants with their codes as bytes and their scales as f32: made from panels into scratch where many columns share
//! the work. The kernels do the float operations of `kquant` in its order, so results are the same bits.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::WeightView;
use super::acts::{ActFormat, BLOCK256_BYTES, SCALE256};
use super::expand::{self, Run16};
use super::kquant::{self, Q4K, Q5K, Q6K};
use super::tile::{Format, Prepare, Sums};
use crate::backend::cpu::simd::{Isa, Job, Simd};

/// A format with a wider form.
pub(super) trait Widen: Format {
    /// The form: blocks of as many elements.
    type Wide: Format;
    /// Columns from which widening a panel costs less than it saves, as measured on Zen 5.
    const FROM_COLUMNS: usize;

    /// Writes a block.
    ///
    /// # Safety
    /// `Self::BYTES` are readable at `w`, `Self::Wide::BYTES` writable at `dst`.
    unsafe fn widen<S: Simd>(s: S, w: *const u8, dst: *mut u8);
}

/// A weight in panels, to be widened.
pub(super) struct Panels<'a, W> {
    weight: WeightView<'a>,
    format: PhantomData<W>,
}

impl<'a, W> Panels<'a, W> {
    /// Of a weight that has been checked.
    pub(super) fn of(weight: WeightView<'a>) -> Self {
        Self { weight, format: PhantomData }
    }
}

impl<W: Widen> Prepare for Panels<'_, W> {
    fn write(&self, isa: Isa, panel: usize, blocks: Range<usize>, dst: &mut [u8]) {
        let row = self.weight.cols / W::ELEMENTS;
        let panels = &self.weight.bytes[(panel * row + blocks.start) * W::BYTES..][..blocks.len() * W::BYTES];
        isa.run(Blocks::<W> { panels, dst, format: PhantomData });
    }
}

/// A weight in the file's layout, to be packed block by block and widened.
pub(super) struct Rows<'a, W> {
    rows: expand::Rows<'a>,
    format: PhantomData<W>,
}

impl<'a, W> Rows<'a, W> {
    /// Of a weight that has been checked.
    pub(super) fn of(weight: WeightView<'a>) -> Self {
        Self { rows: expand::Rows::of(weight), format: PhantomData }
    }
}

impl<W: Widen> Prepare for Rows<'_, W> {
    fn write(&self, isa: Isa, panel: usize, blocks: Range<usize>, dst: &mut [u8]) {
        let mut buffer = [0; MAX_BLOCK_BYTES];
        let packed = &mut buffer[..W::BYTES];
        for (block, dst) in blocks.zip(dst.chunks_exact_mut(W::Wide::BYTES)) {
            self.rows.write(isa, panel, block..block + 1, packed);
            isa.run(Blocks::<W> { panels: packed, dst, format: PhantomData });
        }
    }
}

/// Bytes of the largest block of sixteen rows: Q6_K's.
const MAX_BLOCK_BYTES: usize = 3360;

/// Blocks of panels to be widened, as many in `panels` as `dst` has room for.
struct Blocks<'a, W> {
    panels: &'a [u8],
    dst: &'a mut [u8],
    format: PhantomData<W>,
}

impl<W: Widen> Job for Blocks<'_, W> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (w, dst) in self.panels.chunks_exact(W::BYTES).zip(self.dst.chunks_exact_mut(W::Wide::BYTES)) {
            // SAFETY: a block each.
            unsafe { W::widen(s, w.as_ptr(), dst.as_mut_ptr()) };
        }
    }
}

/// Q4_K and Q5_K: d, -dmin, four vectors of pairs of minima, eight of scales, 64 of codes. `WHOLE` as in [`Q4K`].
pub(super) struct Run32Mins<const WHOLE: bool>;

const PAIRS: usize = 2 * 64;
const SCALES: usize = PAIRS + 4 * 64;
const CODES: usize = SCALES + 8 * 64;

impl<const WHOLE: bool> Format for Run32Mins<WHOLE> {
    const ACT: ActFormat = ActFormat::Q8x256;
    const ELEMENTS: usize = 256;
    const BYTES: usize = CODES + 64 * 64;
    const ACT_BYTES: usize = BLOCK256_BYTES;
    const SUMS: Sums = Sums::Minima;

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
        second: &mut [[S::F; C]; R],
    ) {
        let mut factors = [[s.splat(0.0); C]; R];
        let mut sums = [[s.splat(0.0); C]; R];
        // SAFETY: the caller's promise: a block at each `w`, of activations at each `x`.
        unsafe {
            for r in 0..R {
                let mut pairs = [s.splat_i(0); 4];
                for i in 0..4 {
                    pairs[i] = s.load_bytes(w[r].add(PAIRS + 64 * i));
                }
                let (d, dmin) = (s.load_ptr(w[r].cast()), s.load_ptr(w[r].add(64).cast()));
                for c in 0..C {
                    let dx = s.splat_ptr(x[c].add(SCALE256));
                    factors[r][c] = s.mul(d, dx);
                    second[r][c] = kquant::minima::<S, WHOLE>(s, pairs, s.mul(dmin, dx), x[c], second[r][c]);
                }
            }
            for run in 0..8 {
                let mut dots = [[s.splat_i(0); C]; R];
                for j in 0..8 {
                    let mut codes = [s.splat_i(0); R];
                    for r in 0..R {
                        codes[r] = s.load_bytes(w[r].add(CODES + 64 * (8 * run + j)));
                    }
                    kquant::dot(s, codes, x, 32 * run + 4 * j, &mut dots);
                }
                for r in 0..R {
                    let scale = s.load_ptr(w[r].add(SCALES + 64 * run).cast());
                    for c in 0..C {
                        sums[r][c] = s.fma(s.to_f32(dots[r][c]), scale, sums[r][c]);
                    }
                }
                if run == 7 || (!WHOLE && run % 2 == 1) {
                    kquant::add_scaled(s, &mut sums, &factors, acc);
                }
            }
        }
    }
}

impl<const WHOLE: bool> Widen for Q4K<WHOLE> {
    type Wide = Run32Mins<WHOLE>;
    const FROM_COLUMNS: usize = 48;

    #[inline(always)]
    unsafe fn widen<S: Simd>(s: S, w: *const u8, dst: *mut u8) {
        let low = s.splat_i(0x0f0f_0f0f);
        // SAFETY: the caller's promise.
        unsafe {
            widen_scales(s, w, dst);
            for i in 0..32 {
                let both = s.load_bytes(w.add(256 + 64 * i));
                let to = dst.add(CODES + 64 * (i / 8 * 16 + i % 8));
                s.store_bytes(s.and(both, low), to);
                s.store_bytes(s.and(s.shr::<4>(both), low), to.add(64 * 8));
            }
        }
    }
}

impl Widen for Q5K {
    type Wide = Run32Mins<false>;
    const FROM_COLUMNS: usize = 16;

    #[inline(always)]
    unsafe fn widen<S: Simd>(s: S, w: *const u8, dst: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            widen_scales(s, w, dst);
            for j in 0..8 {
                let to = |run: usize| dst.add(CODES + 64 * (8 * run + j));
                s.store_bytes(kquant::code5::<S, 4, 0>(s, w, 0, j), to(0));
                s.store_bytes(kquant::code5::<S, 3, 0>(s, w, 1, j), to(1));
                s.store_bytes(kquant::code5::<S, 2, 0>(s, w, 2, j), to(2));
                s.store_bytes(kquant::code5::<S, 1, 0>(s, w, 3, j), to(3));
                s.store_bytes(kquant::code5::<S, 0, 0>(s, w, 4, j), to(4));
                s.store_bytes(kquant::code5::<S, 0, 1>(s, w, 5, j), to(5));
                s.store_bytes(kquant::code5::<S, 0, 2>(s, w, 6, j), to(6));
                s.store_bytes(kquant::code5::<S, 0, 3>(s, w, 7, j), to(7));
            }
        }
    }
}

impl Widen for Q6K {
    type Wide = Run16<false, 5>;
    const FROM_COLUMNS: usize = 16;

    #[inline(always)]
    unsafe fn widen<S: Simd>(s: S, w: *const u8, dst: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            for (run, scale) in kquant::unpack_scales16(s, w).into_iter().enumerate() {
                s.store_ptr(scale, dst.add(64 * run).cast());
            }
            for half in 0..2 {
                for i in 0..8 {
                    let to = |group: usize| dst.add(1024 + 64 * (32 * half + 8 * group + i));
                    s.store_bytes(kquant::code6::<S, 0, 4, 0>(s, w, half, 0, i), to(0));
                    s.store_bytes(kquant::code6::<S, 0, 2, 0>(s, w, half, 1, i), to(1));
                    s.store_bytes(kquant::code6::<S, 4, 0, 0>(s, w, half, 2, i), to(2));
                    s.store_bytes(kquant::code6::<S, 4, 0, 2>(s, w, half, 3, i), to(3));
                }
            }
        }
    }
}

/// All of a block of Q4_K or Q5_K but the codes.
///
/// # Safety
/// As [`Widen::widen`].
#[inline(always)]
unsafe fn widen_scales<S: Simd>(s: S, w: *const u8, dst: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let block = kquant::unpack_scales(s, w);
        s.store_ptr(block.d, dst.cast());
        s.store_ptr(block.dmin, dst.add(64).cast());
        for (i, pair) in block.pairs.into_iter().enumerate() {
            s.store_bytes(pair, dst.add(PAIRS + 64 * i));
        }
        for (run, scale) in block.scales.into_iter().enumerate() {
            s.store_ptr(scale, dst.add(SCALES + 64 * run).cast());
        }
    }
}
