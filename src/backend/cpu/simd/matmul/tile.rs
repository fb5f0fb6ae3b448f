//! The loops around a format's block: panels and columns in tiles that fill the registers, blocks in order of k.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::{ActFormat, Product, Residual, WeightView, act_row_bytes};
use crate::backend::cpu::simd::{Isa, Job, LANES, Simd};
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
    /// Whether there are two sums a lane, and what for.
    const SUMS: Sums = Sums::One;
    /// Whether many columns are multiplied in this form, by tiles that fill the registers; else another is made of it.
    const MANY_COLUMNS: bool = true;

    /// Adds a block of `R` panels times `C` columns to `acc`, and to `second` what [`Sums`] says. Each element's
    /// operations are the same for all `R`, `C`.
    ///
    /// # Safety
    /// `BYTES` are readable at each `w`, `ACT_BYTES` at each `x`.
    unsafe fn block<S: Simd, const R: usize, const C: usize>(
        s: S,
        w: [*const u8; R],
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
        second: &mut [[S::F; C]; R],
    );
}

/// The sums of a lane. Two become one after some blocks, of which parts of k are multiples.
#[derive(Clone, Copy)]
pub(super) enum Sums {
    /// One.
    One,
    /// Of blocks of even and of odd index: half the latency of a chain.
    EvenOdd,
    /// Of scales and of minima: each keeps bits that it would lose to the other.
    Minima,
}

impl Sums {
    /// Blocks after which two sums become one.
    const fn blocks(self) -> usize {
        match self {
            Sums::One => 1,
            Sums::EvenOdd => 1024,
            Sums::Minima => 8,
        }
    }
}

/// Writes panels in the form of a [`Format`] to scratch, part by part.
pub(super) trait Prepare {
    /// The blocks of a panel; `dst` has their size.
    fn write(&self, isa: Isa, panel: usize, blocks: Range<usize>, dst: &mut [u8]);
}

/// A share of a product.
#[derive(Clone)]
pub(super) struct Share<'a> {
    pub(super) isa: Isa,
    pub(super) product: &'a Product<'a>,
    pub(super) panels: Range<usize>,
    pub(super) columns: usize,
}

/// Bytes of activations that stay in the second-level cache while panels pass.
const COLUMN_BLOCK_BYTES: usize = 512 << 10;
/// The same where panels are prepared anew for every block of columns, which costs more than some cache misses.
const PREPARED_COLUMN_BLOCK_BYTES: usize = 1 << 20;
/// Columns of a block at most, so that the sums of a panel fit [`SUMS_BYTES`].
const MAX_COLUMN_BLOCK: usize = 480;
/// Bytes of scratch for the sums of a panel between parts of k.
const SUMS_BYTES: usize = MAX_COLUMN_BLOCK * LANES * 4;
/// Bytes of scratch for a part of a panel.
const PART_BYTES: usize = 64 << 10;
/// Bytes of scratch for two panels, and to start it at a cache line.
pub(super) const SCRATCH_BYTES: usize = 2 * (SUMS_BYTES + PART_BYTES) + 64;
/// Columns up to which the weights come from memory at the speed of memory: one panel at a time, fetched ahead.
const STREAMED_COLUMNS: usize = 4;

/// Computes the rows of panels as they lie in the weight.
pub(super) fn direct<W: Format>(share: Share) {
    let Share { isa, product, panels, columns } = share;
    let blocks = product.weight.cols / W::ELEMENTS;
    let at = |panel: usize| product.weight.bytes[panel * blocks * W::BYTES..][..blocks * W::BYTES].as_ptr();
    for columns in column_blocks::<W>(columns, product.weight.cols, COLUMN_BLOCK_BYTES) {
        let pairs = pairs::<W>(isa, columns.len());
        let mut p = panels.start;
        while p < panels.end {
            let ahead = ahead(product, p, &panels, &columns);
            let (blocks, columns) = (0..blocks, columns.clone());
            let part = Part { product, blocks, columns, sums: std::ptr::null_mut(), ahead };
            // SAFETY: each pointer stands before all blocks of its panel.
            p += unsafe {
                match pairs && p + 1 < panels.end {
                    true => part.tiles::<W, 2>(isa, [p, p + 1], [at(p), at(p + 1)]),
                    false => part.tiles::<W, 1>(isa, [p], [at(p)]),
                }
            };
        }
    }
}

/// Computes the rows of panels that are written to scratch first.
pub(super) fn prepared<W: Format>(share: Share, from: &impl Prepare, scratch: &mut [u8]) {
    let Share { isa, product, panels, columns } = share;
    let aligned = scratch.as_ptr().align_offset(64);
    let scratch = &mut scratch[aligned..];
    let k = product.weight.cols.min(part_blocks::<W>() * W::ELEMENTS);
    for columns in column_blocks::<W>(columns, k, PREPARED_COLUMN_BLOCK_BYTES) {
        let mut p = panels.start;
        while p < panels.end {
            let ahead = ahead(product, p, &panels, &columns);
            let part = Part { product, blocks: 0..0, columns: columns.clone(), sums: std::ptr::null_mut(), ahead };
            p += match pairs::<W>(isa, columns.len()) && p + 1 < panels.end {
                true => in_parts::<W, 2>(isa, part, from, [p, p + 1], scratch),
                false => in_parts::<W, 1>(isa, part, from, [p], scratch),
            };
        }
    }
}

/// `R` panels, as many blocks at a time as the scratch holds; returns `R`.
fn in_parts<W: Format, const R: usize>(
    isa: Isa,
    mut part: Part,
    from: &impl Prepare,
    panels: [usize; R],
    scratch: &mut [u8],
) -> usize {
    let total = part.product.weight.cols / W::ELEMENTS;
    let (sums, room) = scratch.split_at_mut(2 * SUMS_BYTES);
    part.sums = sums.as_mut_ptr().cast();
    for first in (0..total).step_by(part_blocks::<W>()) {
        let blocks = first..total.min(first + part_blocks::<W>());
        let mut w = [std::ptr::null(); R];
        for r in 0..R {
            let room = &mut room[r * PART_BYTES..][..blocks.len() * W::BYTES];
            from.write(isa, panels[r], blocks.clone(), room);
            w[r] = room.as_ptr();
        }
        part.blocks = blocks;
        // SAFETY: each pointer stands before the blocks of the part; two panels' sums of a block of columns have room.
        unsafe { part.tiles::<W, R>(isa, panels, w) };
        part.ahead = &[];
    }
    R
}

/// The bytes of the two panels that follow `panel` by two, if they are in the share and not fetched yet. With few columns
/// the kernels fetch ahead themselves.
fn ahead<'a>(product: &Product<'a>, panel: usize, panels: &Range<usize>, columns: &Range<usize>) -> &'a [u8] {
    let WeightView { dtype, cols, bytes, .. } = product.weight;
    if columns.start > 0 || columns.len() <= STREAMED_COLUMNS || panel % 2 != panels.start % 2 {
        return &[];
    }
    let panel_bytes = dtype.row_bytes(cols as u64).map_or(0, |row| row.index() * PANEL_ROWS);
    let end = bytes.len().min(panels.end * panel_bytes);
    &bytes[((panel + 2) * panel_bytes).min(end)..((panel + 4) * panel_bytes).min(end)]
}

/// The columns in blocks whose activations of `k` elements are at most `bytes`, if they are not few.
fn column_blocks<W: Format>(columns: usize, k: usize, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let wide = (bytes / act_row_bytes(W::ACT, k).max(1) / 12 * 12).clamp(24, MAX_COLUMN_BLOCK);
    (0..columns).step_by(wide).map(move |first| first..columns.min(first + wide))
}

/// Blocks that fit the scratch for a part of a panel.
const fn part_blocks<W: Format>() -> usize {
    PART_BYTES / W::BYTES / W::SUMS.blocks() * W::SUMS.blocks()
}

/// Whether two panels at a time are best: they share what they read of the activations, if there are registers enough.
fn pairs<W: Format>(isa: Isa, columns: usize) -> bool {
    isa == Isa::Avx512 && W::MANY_COLUMNS && columns > STREAMED_COLUMNS
}

/// Whether [`Part::tiles`] asks for tiles of `r` panels and `c` columns. Others are not compiled.
const fn tile_exists(isa: Isa, many_columns: bool, r: usize, c: usize) -> bool {
    match (isa, r, c) {
        (_, 1, 1) | (Isa::Avx512, 1, 4) => true,
        (Isa::Avx512, 2, 6 | 2 | 1) | (Isa::Avx2 | Isa::AvxVnni, 1, 3) => many_columns,
        (Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512, _, _) => false,
    }
}

/// A range of blocks of k, for a block of columns.
struct Part<'a> {
    product: &'a Product<'a>,
    blocks: Range<usize>,
    columns: Range<usize>,
    /// Room for the sums of two panels a column, used where the part is not all of k.
    sums: *mut f32,
    /// Weights that are needed after this part, fetched a little in every tile.
    ahead: &'a [u8],
}

impl Part<'_> {
    /// All tiles of `R` panels; returns `R`.
    ///
    /// # Safety
    /// The blocks of the part lie at each `w`; `sums` has room where the part is not all of k.
    unsafe fn tiles<W: Format, const R: usize>(&self, isa: Isa, panels: [usize; R], w: [*const u8; R]) -> usize {
        let mut c = self.columns.start;
        while c < self.columns.end {
            let left = self.columns.end - c;
            // The tile relies on the caller's promise, and on columns that exist.
            c += match isa {
                Isa::Avx512 if R == 2 && left >= 6 => self.tile::<W, R, 6>(isa, panels, w, c),
                Isa::Avx512 if R == 2 && left >= 2 => self.tile::<W, R, 2>(isa, panels, w, c),
                Isa::Avx512 if R == 1 && left >= 4 => self.tile::<W, R, 4>(isa, panels, w, c),
                Isa::Avx2 | Isa::AvxVnni if W::MANY_COLUMNS && left >= 3 => self.tile::<W, R, 3>(isa, panels, w, c),
                Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => self.tile::<W, R, 1>(isa, panels, w, c),
            };
        }
        R
    }

    /// A tile; returns `C`.
    fn tile<W: Format, const R: usize, const C: usize>(
        &self,
        isa: Isa,
        panels: [usize; R],
        w: [*const u8; R],
        column: usize,
    ) -> usize {
        isa.run(Tile::<W, R, C> { part: self, panels, w, column, format: PhantomData });
        C
    }

    /// The sums of a panel and column between parts.
    #[inline(always)]
    fn sums(&self, r: usize, column: usize) -> *mut f32 {
        self.sums.wrapping_add(((column - self.columns.start) * 2 + r) * LANES)
    }
}

/// `R` panels times `C` columns from `column` on. Made by [`Part::tile`] alone, under the contract of [`Part::tiles`].
struct Tile<'a, W, const R: usize, const C: usize> {
    part: &'a Part<'a>,
    panels: [usize; R],
    w: [*const u8; R],
    column: usize,
    format: PhantomData<W>,
}

impl<W: Format, const R: usize, const C: usize> Job for Tile<'_, W, R, C> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { tile_exists(S::ISA, W::MANY_COLUMNS, R, C) } {
            // SAFETY: the contract of `Part::tiles`, which made this tile.
            unsafe { self.compute(s) }
        } else {
            // `Isa::run` instantiates a job for every instruction set; `Part::tiles` gives each only the tiles that
            // `tile_exists` grants it, and pairs of panels only to AVX-512.
            unreachable!("no tile of {R} panels and {C} columns in {}", S::ISA)
        }
    }
}

impl<W: Format, const R: usize, const C: usize> Tile<'_, W, R, C> {
    /// Computes the tile.
    ///
    /// # Safety
    /// As [`Part::tiles`], and the columns exist.
    #[inline(always)]
    unsafe fn compute<S: Simd>(&self, s: S) {
        let (part, column) = (self.part, self.column);
        let Part { product, blocks, .. } = part;
        self.fetch_ahead(s);
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
            for r in 0..R {
                for c in 0..C {
                    // SAFETY: an earlier part has left its sums here.
                    acc[r][c] = unsafe { s.load_ptr(part.sums(r, column + c)) };
                }
            }
        }
        // SAFETY: the caller's promise, and `x` as found above.
        let acc = unsafe { self.blocks(s, blocks.len(), x, acc) };
        for r in 0..R {
            for c in 0..C {
                if blocks.end < total {
                    // SAFETY: the caller's promise of room.
                    unsafe { s.store_ptr(acc[r][c], part.sums(r, column + c)) };
                } else {
                    store(s, product, self.panels[r], column + c, acc[r][c]);
                }
            }
        }
    }

    /// Asks for this tile's share of the weights that are needed next.
    #[inline(always)]
    fn fetch_ahead<S: Simd>(&self, s: S) {
        let Part { ahead, columns, .. } = self.part;
        let (tile, tiles) = ((self.column - columns.start) / C, (columns.len() / C).max(1));
        let lines = ahead.len().div_ceil(64);
        let each = lines.div_ceil(tiles);
        for line in (tile * each).min(lines)..((tile + 1) * each).min(lines) {
            s.prefetch(ahead.as_ptr().wrapping_add(64 * line));
        }
    }

    /// Adds the blocks, in order. (Sums go by value, so that they live in registers.)
    ///
    /// # Safety
    /// `n` blocks lie at each `w` and `x`.
    #[inline(always)]
    unsafe fn blocks<S: Simd>(&self, s: S, n: usize, x: [*const u8; C], sums: [[S::F; C]; R]) -> [[S::F; C]; R] {
        let (mut acc, mut second) = (sums, [[s.splat(0.0); C]; R]);
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                match W::SUMS {
                    Sums::EvenOdd if i % 2 == 1 => self.block(s, i, x, &mut second, &mut acc),
                    Sums::EvenOdd | Sums::One | Sums::Minima => self.block(s, i, x, &mut acc, &mut second),
                }
            }
            let whole = (i + 1) % W::SUMS.blocks() == 0 || i + 1 == n;
            if whole && !matches!(W::SUMS, Sums::One) {
                for r in 0..R {
                    for c in 0..C {
                        acc[r][c] = s.add(acc[r][c], second[r][c]);
                        second[r][c] = s.splat(0.0);
                    }
                }
            }
        }
        acc
    }

    /// Block `i`.
    ///
    /// # Safety
    /// It lies at each `w` and `x`.
    #[inline(always)]
    unsafe fn block<S: Simd>(
        &self,
        s: S,
        i: usize,
        x: [*const u8; C],
        acc: &mut [[S::F; C]; R],
        second: &mut [[S::F; C]; R],
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
        unsafe { W::block(s, w, x, acc, second) };
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
