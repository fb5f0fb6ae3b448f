//! The loops around a format's block: panels and columns in tiles that fill the registers, blocks in order of k.
#![allow(unsafe_code)]

use std::ops::Range;

use super::{ActFormat, Product, Residual, act_row_bytes};
use crate::backend::cpu::simd::{Isa, LANES, Simd};
use crate::tensor::DType;
use crate::tensor::panel::PANEL_ROWS;

/// The kernel of a weight type in panels.
pub(super) trait Format {
    /// What it reads activations as.
    const ACT: ActFormat;
    /// Elements of k in a block.
    const ELEMENTS: usize;
    /// Bytes of a block of a panel.
    const BYTES: usize;
    /// Bytes of the activations of a block.
    const ACT_BYTES: usize;
    /// How many bytes ahead of a streamed panel's reads its lines are asked for. Measured on Zen 5: without, its own
    /// prefetchers reach 60 to 90% of the memory's rate.
    const AHEAD: usize = 4096;
    /// Whether blocks of even and of odd index have sums of their own, added after every [`SUM_BLOCKS`]: half the
    /// latency of a chain.
    const TWO_SUMS: bool = false;

    /// Adds a block of `R` panels times `C` columns to `acc`. Each element's operations are the same for all `R`, `C`.
    ///
    /// # Safety
    /// `BYTES` are readable at each `w`, `ACT_BYTES` at each `x`.
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
    );
}

/// Where the panels of a product lie for [`Format::block`].
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// In the weight itself.
    Panels,
    /// Nowhere yet: a function writes the blocks of a part of a panel to scratch.
    Expanded(Expand),
}

/// Writes the blocks `first..` of a panel's rows in the file's layout, as many as `dst` holds; absent rows are zero.
pub(super) type Expand = fn(dtype: DType, row_bytes: usize, rows: &[u8], first: usize, dst: &mut [u8]);

/// Blocks after which two sums become one. Parts of k are multiples of it.
const SUM_BLOCKS: usize = 1024;

/// Bytes of activations that stay in the second-level cache while panels pass.
const COLUMN_BLOCK_BYTES: usize = 512 << 10;
/// Columns of a block at most, so that the sums of a panel fit [`SUMS_BYTES`].
const MAX_COLUMN_BLOCK: usize = 480;
/// Bytes of scratch for the sums of a panel between parts of k.
pub(super) const SUMS_BYTES: usize = MAX_COLUMN_BLOCK * LANES * 4;
/// Bytes of scratch for an expanded part of a panel.
pub(super) const PART_BYTES: usize = 160 << 10;
/// Columns up to which the weights come from memory at the speed of memory: one panel at a time, fetched ahead.
const STREAMED_COLUMNS: usize = 4;
/// Computes the rows of `panels` for all columns. The scratch is empty where `source` is the weight, else
/// [`SUMS_BYTES`] and [`PART_BYTES`].
#[inline(always)]
pub(super) fn share<S: Simd, W: Format>(
    s: S,
    product: &Product,
    source: Source,
    panels: Range<usize>,
    columns: usize,
    scratch: &mut [u8],
) {
    let row_bytes = act_row_bytes(W::ACT, product.weight.cols);
    let wide = (COLUMN_BLOCK_BYTES / row_bytes.max(1) / 12 * 12).clamp(24, MAX_COLUMN_BLOCK);
    for first in (0..columns).step_by(wide) {
        let block = first..(first + wide).min(columns);
        match source {
            Source::Panels => direct::<S, W>(s, product, panels.clone(), block),
            Source::Expanded(expand) => expanded::<S, W>(s, product, expand, panels.clone(), block, scratch),
        }
    }
}

/// Panels as they lie in the weight.
#[inline(always)]
fn direct<S: Simd, W: Format>(s: S, product: &Product, panels: Range<usize>, columns: Range<usize>) {
    let blocks = product.weight.cols / W::ELEMENTS;
    let pairs = S::ISA == Isa::Avx512 && columns.len() > STREAMED_COLUMNS;
    let at = |panel: usize| &product.weight.bytes[panel * blocks * W::BYTES..][..blocks * W::BYTES];
    let part = |column| Part { product, blocks: 0..blocks, first_column: column, sums: std::ptr::null_mut() };
    let mut p = panels.start;
    while p < panels.end {
        if pairs && p + 1 < panels.end {
            let tiles =
                Tiles { panels: [p, p + 1], w: [at(p).as_ptr(), at(p + 1).as_ptr()], part: part(columns.start) };
            // SAFETY: each pointer stands before all blocks of its panel.
            unsafe { tiles.all::<S, W>(s, columns.clone()) };
            p += 2;
        } else {
            let tiles = Tiles { panels: [p], w: [at(p).as_ptr()], part: part(columns.start) };
            // SAFETY: as above.
            unsafe { tiles.all::<S, W>(s, columns.clone()) };
            p += 1;
        }
    }
}

/// Panels that are written to scratch part by part; sums wait there too.
#[inline(always)]
fn expanded<S: Simd, W: Format>(
    s: S,
    product: &Product,
    expand: Expand,
    panels: Range<usize>,
    columns: Range<usize>,
    scratch: &mut [u8],
) {
    let weight = &product.weight;
    let blocks = weight.cols / W::ELEMENTS;
    let step = if W::TWO_SUMS { PART_BYTES / W::BYTES / SUM_BLOCKS * SUM_BLOCKS } else { PART_BYTES / W::BYTES };
    let row_bytes = weight.dtype.row_bytes(weight.cols as u64).expect("checked").index();
    let (sums, part) = scratch.split_at_mut(SUMS_BYTES);
    for p in panels {
        let rows = p * PANEL_ROWS..((p + 1) * PANEL_ROWS).min(weight.rows);
        let rows = &weight.bytes[rows.start * row_bytes..rows.end * row_bytes];
        for first in (0..blocks).step_by(step) {
            let last = (first + step).min(blocks);
            let part = &mut part[..(last - first) * W::BYTES];
            expand(weight.dtype, row_bytes, rows, first, part);
            let sums = sums.as_mut_ptr();
            let tiles = Tiles {
                panels: [p],
                w: [part.as_ptr()],
                part: Part { product, blocks: first..last, first_column: columns.start, sums },
            };
            // SAFETY: the pointer stands before the blocks of this part; the sums have room for the columns of a block.
            unsafe { tiles.all::<S, W>(s, columns.clone()) };
        }
    }
}

/// A range of blocks of k, for all columns of a block of them.
struct Part<'a> {
    product: &'a Product<'a>,
    blocks: Range<usize>,
    first_column: usize,
    /// Room for sixteen sums a column, used where the part is not all of k.
    sums: *mut u8,
}

/// A part of `R` panels.
struct Tiles<'a, const R: usize> {
    panels: [usize; R],
    w: [*const u8; R],
    part: Part<'a>,
}

impl<const R: usize> Tiles<'_, R> {
    /// All tiles of the columns.
    ///
    /// # Safety
    /// The blocks of the part lie at each `w`; `sums` has room where the part is not all of k.
    #[inline(always)]
    unsafe fn all<S: Simd, W: Format>(&self, s: S, columns: Range<usize>) {
        let mut c = columns.start;
        while c < columns.end {
            let left = columns.end - c;
            // SAFETY: the caller's promise; the columns are below the end.
            c += unsafe {
                match S::ISA {
                    Isa::Avx512 if left >= 6 => self.tile::<S, W, 6>(s, c),
                    Isa::Avx512 if left >= 4 => self.tile::<S, W, 4>(s, c),
                    Isa::Avx2 | Isa::AvxVnni if left >= 3 => self.tile::<S, W, 3>(s, c),
                    Isa::Avx512 if left >= 2 => self.tile::<S, W, 2>(s, c),
                    Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => self.tile::<S, W, 1>(s, c),
                }
            };
        }
    }

    /// `C` columns from `column` on; returns `C`.
    ///
    /// # Safety
    /// As [`Tiles::all`], and the columns exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, W: Format, const C: usize>(&self, s: S, column: usize) -> usize {
        let Part { product, blocks, .. } = &self.part;
        let total = product.weight.cols / W::ELEMENTS;
        let row_bytes = act_row_bytes(W::ACT, product.weight.cols);
        let mut x = [std::ptr::null(); C];
        for c in 0..C {
            let row = product.acts.index.map_or(column + c, |index| index[column + c] as usize);
            // SAFETY: `Product::check` found this row among the activations; the blocks are within it.
            x[c] = unsafe { product.acts.bytes.as_ptr().add(row * row_bytes + blocks.start * W::ACT_BYTES) };
        }
        let mut acc = [[s.splat(0.0); C]; R];
        if blocks.start > 0 {
            for c in 0..C {
                // SAFETY: an earlier part has left its sums here.
                acc[0][c] = unsafe { s.load_ptr(self.sums(column + c)) };
            }
        }
        // SAFETY: the caller's promise, and `x` as found above.
        unsafe { self.blocks::<S, W, C>(s, blocks.len(), x, &mut acc) };
        for c in 0..C {
            if blocks.end < total {
                // SAFETY: the caller's promise of room.
                unsafe { s.store_ptr(acc[0][c], self.sums(column + c)) };
                continue;
            }
            for r in 0..R {
                store(s, product, self.panels[r], column + c, acc[r][c]);
            }
        }
        C
    }

    /// The sums of a column between parts. Only single panels are expanded, so there is one vector a column.
    #[inline(always)]
    fn sums(&self, column: usize) -> *mut f32 {
        self.part.sums.wrapping_add((column - self.part.first_column) * LANES * 4).cast()
    }

    /// The blocks, in order.
    ///
    /// # Safety
    /// `n` blocks lie at each `w` and `x`.
    #[inline(always)]
    unsafe fn blocks<S: Simd, W: Format, const C: usize>(
        &self,
        s: S,
        n: usize,
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
    ) {
        let mut first = 0;
        while W::TWO_SUMS && first < n {
            let last = n.min(first + SUM_BLOCKS);
            let mut odd = [[s.splat(0.0); C]; R];
            let mut i = first;
            // SAFETY: the caller's promise.
            unsafe {
                while i + 1 < last {
                    self.block::<S, W, C>(s, i, x, acc);
                    self.block::<S, W, C>(s, i + 1, x, &mut odd);
                    i += 2;
                }
                if i < last {
                    self.block::<S, W, C>(s, i, x, acc);
                }
            }
            for r in 0..R {
                for c in 0..C {
                    acc[r][c] = s.add(acc[r][c], odd[r][c]);
                }
            }
            first = last;
        }
        for i in first..n {
            // SAFETY: the caller's promise.
            unsafe { self.block::<S, W, C>(s, i, x, acc) };
        }
    }

    /// Block `i`.
    ///
    /// # Safety
    /// It lies at each `w` and `x`.
    #[inline(always)]
    unsafe fn block<S: Simd, W: Format, const C: usize>(
        &self,
        s: S,
        i: usize,
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
    ) {
        let (mut w, mut x) = (self.w, x);
        for w in &mut w {
            // SAFETY: the caller's promise.
            *w = unsafe { w.add(i * W::BYTES) };
        }
        for x in &mut x {
            // SAFETY: the caller's promise.
            *x = unsafe { x.add(i * W::ACT_BYTES) };
        }
        // SAFETY: the caller's promise.
        unsafe { W::block(s, w, x, acc) };
    }
}

/// Sixty-four bytes of weights, each of which a block reads this way once.
///
/// # Safety
/// They are readable.
#[inline(always)]
pub(super) unsafe fn load_ahead<S: Simd, W: Format, const R: usize, const C: usize>(s: S, p: *const u8) -> S::I {
    prefetch_ahead::<S, W, R, C>(s, p);
    // SAFETY: the caller's promise.
    unsafe { s.load_bytes(p) }
}

/// Asks for what a streamed panel reads soon.
#[inline(always)]
pub(super) fn prefetch_ahead<S: Simd, W: Format, const R: usize, const C: usize>(s: S, p: *const u8) {
    if R == 1 && C <= STREAMED_COLUMNS {
        s.prefetch(p.wrapping_add(W::AHEAD));
    }
}

/// Adds what the epilogue says and writes sixteen rows, or those that exist, of a column.
#[inline(always)]
fn store<S: Simd>(s: S, product: &Product, panel: usize, column: usize, acc: S::F) {
    let out = &product.out;
    let row = panel * PANEL_ROWS;
    let live = (product.weight.rows - row).min(LANES);
    let at = out.index.map_or(column, |index| index[column] as usize);
    // SAFETY: `Product::check` and the view's constructor found this output row, `stride` elements that hold all
    // weight rows; that nobody else uses these elements is the constructor's contract.
    let dst = unsafe { std::slice::from_raw_parts_mut(out.data.add(at * out.stride + row), live) };
    let mut y = acc;
    if let Some(bias) = product.epilogue.bias {
        y = s.add(y, load(s, &bias[row..row + live]));
    }
    match product.epilogue.residual {
        Residual::None => {}
        Residual::Matrix { data, stride } => y = s.add(y, load(s, &data[at * stride + row..][..live])),
        Residual::Output => y = s.add(y, load(s, dst)),
    }
    if live == LANES { s.store(y, dst) } else { s.store_part(y, dst) }
}

#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32]) -> S::F {
    if x.len() == LANES { s.load(x) } else { s.load_part(x, 0.0) }
}
