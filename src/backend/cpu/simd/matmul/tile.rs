//! The loops around a format's block: panels and columns in tiles that fill the registers, blocks in order of k.
#![allow(unsafe_code)]

use std::ops::Range;

use super::{ActFormat, Product, Residual, act_row_bytes};
use crate::backend::cpu::simd::{Isa, LANES, Simd};
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

/// Bytes of activations that stay in the second-level cache while panels pass.
const COLUMN_BLOCK_BYTES: usize = 512 << 10;

/// Computes the rows of `panels` for all columns.
#[inline(always)]
pub(super) fn share<S: Simd, W: Format>(s: S, product: &Product, panels: Range<usize>, columns: usize) {
    let step = match S::ISA {
        Isa::Scalar => 1,
        Isa::Avx2 | Isa::AvxVnni => 1,
        Isa::Avx512 => 2,
    };
    let wide = (COLUMN_BLOCK_BYTES / act_row_bytes(W::ACT, product.weight.cols).max(1)).max(24) / 12 * 12;
    for first in (0..columns).step_by(wide) {
        let block = first..(first + wide).min(columns);
        let mut p = panels.start;
        while p < panels.end {
            let pair = step == 2 && p + 1 < panels.end && columns > 0;
            if pair {
                columns_of::<S, W, 2>(s, product, [p, p + 1], block.clone());
                p += 2;
            } else {
                columns_of::<S, W, 1>(s, product, [p], block.clone());
                p += 1;
            }
        }
    }
}

/// All tiles of `R` panels.
#[inline(always)]
fn columns_of<S: Simd, W: Format, const R: usize>(s: S, product: &Product, panels: [usize; R], columns: Range<usize>) {
    let mut c = columns.start;
    while c < columns.end {
        let left = columns.end - c;
        match S::ISA {
            Isa::Avx512 if left >= 6 => c += tile::<S, W, R, 6>(s, product, panels, c),
            Isa::Avx512 if left >= 4 => c += tile::<S, W, R, 4>(s, product, panels, c),
            Isa::Avx2 | Isa::AvxVnni if left >= 3 => c += tile::<S, W, R, 3>(s, product, panels, c),
            Isa::Avx512 if left >= 2 => c += tile::<S, W, R, 2>(s, product, panels, c),
            Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => c += tile::<S, W, R, 1>(s, product, panels, c),
        }
    }
}

/// `R` panels times `C` columns from `column` on; returns `C`.
#[inline(always)]
fn tile<S: Simd, W: Format, const R: usize, const C: usize>(
    s: S,
    product: &Product,
    panels: [usize; R],
    column: usize,
) -> usize {
    let weight = &product.weight;
    let blocks = weight.cols / W::ELEMENTS;
    let row_bytes = act_row_bytes(W::ACT, weight.cols);
    let mut w = [std::ptr::null(); R];
    for r in 0..R {
        // SAFETY: `Product::check` found room for every panel of `blocks` blocks.
        w[r] = unsafe { weight.bytes.as_ptr().add(panels[r] * blocks * W::BYTES) };
    }
    let mut x = [std::ptr::null(); C];
    for c in 0..C {
        let row = product.acts.index.map_or(column + c, |index| index[column + c] as usize);
        // SAFETY: `Product::check` found this row among the activations.
        x[c] = unsafe { product.acts.bytes.as_ptr().add(row * row_bytes) };
    }
    let mut acc = [[s.splat(0.0); C]; R];
    for i in 0..blocks {
        // SAFETY: each pointer stands before `blocks` blocks, of which this is number `i`.
        unsafe {
            let (mut wi, mut xi) = (w, x);
            for r in 0..R {
                wi[r] = w[r].add(i * W::BYTES);
            }
            for c in 0..C {
                xi[c] = x[c].add(i * W::ACT_BYTES);
            }
            W::block(s, wi, xi, &mut acc);
        }
    }
    for r in 0..R {
        for c in 0..C {
            store(s, product, panels[r], column + c, acc[r][c]);
        }
    }
    C
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
