//! Products of weights and activations: `out[column][row] = sum over k of w[row][k] * x[column][k]`, where a column is
//! a token's row of activations. Weights are quantised blocks in [`Layout::Panel16`] or as in the file.
//!
//! A lane is a weight row: its sum runs over the blocks in order and never crosses lanes, so an output has the same
//! bits for every number of columns, chunk of panels, thread and instruction set. Never allocates.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "tiles are walked by panel and column at once")]

mod acts;
mod expand;
mod float;
mod half32;
mod kquant;
mod pack;
mod tile;
mod widen;

pub use acts::{ActFormat, act_format, act_row_bytes, quantize};

use std::marker::PhantomData;
use std::ops::Range;

use tile::{Format, Share};
use widen::Widen;

use super::Isa;
use crate::tensor::DType;
use crate::tensor::panel::{Layout, PANEL_ROWS, panel_supported};

/// A weight matrix in host memory.
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    /// Element type.
    pub dtype: DType,
    /// How `bytes` are ordered.
    pub layout: Layout,
    /// The blocks.
    pub bytes: &'a [u8],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl WeightView<'_> {
    /// Panels of sixteen rows, the last one perhaps partly filled.
    pub const fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }
}

/// Activations as [`quantize`] wrote them, one row a column of the product.
#[derive(Clone, Copy, Debug)]
pub struct ActView<'a> {
    /// The rows, [`act_row_bytes`] each, in the format of the weight's type.
    pub bytes: &'a [u8],
    /// The rows that take part, in order; all rows where `None`. Products with chosen rows are those with experts,
    /// which may round in another order (see `kquant`).
    pub index: Option<&'a [u32]>,
}

/// What is added to a product, in the order of the fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One number a weight row.
    pub bias: Option<&'a [f32]>,
    /// A matrix of the shape of the output.
    pub residual: Residual<'a>,
}

/// The matrix that an [`Epilogue`] adds.
#[derive(Clone, Copy, Debug, Default)]
pub enum Residual<'a> {
    /// None.
    #[default]
    None,
    /// Element `[row][col]`, of the row and column of the output, at `row * stride + col`.
    Matrix {
        /// The elements.
        data: &'a [f32],
        /// Elements from a row to the next.
        stride: usize,
    },
    /// What the output holds.
    Output,
}

/// Where products go: row `i` of the output is of activation row `i`, element `j` of weight row `j`.
#[derive(Clone, Copy, Debug)]
pub struct OutView<'a> {
    data: *mut f32,
    rows: usize,
    stride: usize,
    index: Option<&'a [u32]>,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: the contract of `from_raw` makes what is written through copies of the view disjoint.
unsafe impl Send for OutView<'_> {}
// SAFETY: as above.
unsafe impl Sync for OutView<'_> {}

impl<'a> OutView<'a> {
    /// The rows of `data`, `stride` elements each; results go to the rows of `index`, in order, or to all.
    ///
    /// # Panics
    /// Where an index names no whole row.
    pub fn new(data: &'a mut [f32], stride: usize, index: Option<&'a [u32]>) -> Self {
        // SAFETY: the exclusive borrow lasts as long as the view; copies are used by the borrower alone or split by panels.
        unsafe { Self::from_raw(data.as_mut_ptr(), data.len() / stride.max(1), stride, index) }
    }

    /// [`OutView::new`] of raw memory.
    ///
    /// # Safety
    /// `rows` rows of a product at `data`, `stride` elements apart, are readable and writable for `'a`, and nobody else
    /// reads or writes those of the panels and rows that a [`Product::compute`] is given while it runs. Concurrent calls get disjoint panels or rows.
    ///
    /// # Panics
    /// Where an index names no row.
    pub unsafe fn from_raw(data: *mut f32, rows: usize, stride: usize, index: Option<&'a [u32]>) -> Self {
        assert!(index.is_none_or(|index| index.iter().all(|&i| (i as usize) < rows)), "an index past {rows} rows");
        Self { data, rows, stride, index, life: PhantomData }
    }

    fn columns(&self) -> usize {
        self.index.map_or(self.rows, <[u32]>::len)
    }
}

/// A product: everything but the share of it that a call computes.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// The weight.
    pub weight: WeightView<'a>,
    /// The activations.
    pub acts: ActView<'a>,
    /// The output.
    pub out: OutView<'a>,
    /// What is added.
    pub epilogue: Epilogue<'a>,
}

impl Product<'_> {
    /// Computes the weight rows of `panels` for all columns. `scratch` has at least [`scratch_bytes`].
    ///
    /// # Panics
    /// Where sizes disagree or the type cannot be multiplied.
    pub fn compute(&self, isa: Isa, panels: Range<usize>, scratch: &mut [u8]) {
        let columns = self.check(&panels);
        let needed = scratch_bytes(self.weight.dtype, self.weight.layout);
        assert!(scratch.len() >= needed, "{} bytes of scratch, {needed} needed", scratch.len());
        if columns > 0 && !panels.is_empty() {
            Work { share: Share { isa, product: self, panels, columns }, scratch: &mut scratch[..needed] }.run();
        }
    }

    /// Asserts what the kernels rely on; returns the number of columns.
    fn check(&self, panels: &Range<usize>) -> usize {
        let Product { weight: w, acts, out, epilogue } = self;
        assert!(panels.end <= w.panels(), "panels {panels:?} of {}", w.panels());
        assert!(w.layout == Layout::Gguf || panel_supported(w.dtype), "{} has no panels", w.dtype);
        let row = w.dtype.row_bytes(w.cols as u64).expect("a whole number of blocks in a row").index();
        let rows = match w.layout {
            Layout::Gguf => w.rows,
            Layout::Panel16 => w.panels() * PANEL_ROWS,
        };
        assert!(w.bytes.len() >= row * rows, "{} bytes of weight, {} needed", w.bytes.len(), row * rows);
        let format = act_format(w.dtype).expect("a type that can be multiplied");
        let held = acts.bytes.len() / act_row_bytes(format, w.cols).max(1);
        let columns = acts.index.map_or(held, <[u32]>::len);
        assert!(acts.index.is_none_or(|index| index.iter().all(|&i| (i as usize) < held)), "an index past {held} rows");
        assert_eq!(columns, out.columns(), "columns of activations and of output");
        assert!(out.stride >= w.rows, "output rows of {} elements, {} needed", out.stride, w.rows);
        assert!(epilogue.bias.is_none_or(|bias| bias.len() >= w.rows), "a bias for every weight row");
        if let Residual::Matrix { data, stride } = epilogue.residual {
            let last = out.index.map_or(out.rows.checked_sub(1), |index| index.iter().max().map(|&i| i as usize));
            assert!(last.is_none_or(|last| data.len() >= last * stride + w.rows), "a residual for every output");
        }
        columns
    }
}

/// Bytes of scratch that a thread needs for [`Product::compute`] of a weight of that type and layout.
pub const fn scratch_bytes(dtype: DType, layout: Layout) -> usize {
    match (layout, act_format(dtype)) {
        (Layout::Gguf, Some(_)) | (Layout::Panel16, Some(ActFormat::Q8x256)) => tile::SCRATCH_BYTES,
        (Layout::Panel16, Some(ActFormat::F32 | ActFormat::F16 | ActFormat::Q8x32)) | (_, None) => 0,
    }
}

/// A share, with scratch.
struct Work<'a> {
    share: Share<'a>,
    scratch: &'a mut [u8],
}

impl Work<'_> {
    fn run(self) {
        use DType::*;
        let dtype = self.share.product.weight.dtype;
        match dtype {
            F32 => self.of::<float::F32>(),
            F16 => self.of::<float::F16>(),
            Bf16 => self.of::<float::Bf16>(),
            Q4_0 => self.of::<half32::Q4_0>(),
            Q8_0 => self.of::<half32::Q8_0>(),
            Q4K if self.share.product.acts.index.is_some() => self.of_wide::<kquant::Q4K<true>>(),
            Q4K => self.of_wide::<kquant::Q4K<false>>(),
            Q5K => self.of_wide::<kquant::Q5K>(),
            Q6K => self.of_wide::<kquant::Q6K>(),
            Q5_0 | Iq4Nl | Mxfp4 => self.of::<expand::Run32<false>>(),
            Q4_1 | Q5_1 => self.of::<expand::Run32<true>>(),
            Q3K | Iq4Xs => self.of::<expand::Run16<false, 7>>(),
            Q2K => self.of::<expand::Run16<true, 0>>(),
            // `Product::check`, which every share passes first, asserts an activation format; these have none.
            Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
            | Tq2_0 | Nvfp4 | Q1_0 => unreachable!("checked: {dtype} has an activation format"),
        }
    }

    /// Panels as they lie, or written to scratch from the file's rows.
    fn of<W: Format>(self) {
        let weight = self.share.product.weight;
        match weight.layout {
            Layout::Panel16 => tile::direct::<W>(self.share),
            Layout::Gguf => tile::prepared::<W>(self.share, &expand::Rows::of(weight), self.scratch),
        }
    }

    /// [`Work::of`], or widened where that pays.
    fn of_wide<W: Widen>(self) {
        let weight = self.share.product.weight;
        if self.share.columns < W::FROM_COLUMNS || self.share.isa == Isa::Scalar {
            return self.of::<W>();
        }
        match weight.layout {
            Layout::Panel16 => tile::prepared::<W::Wide>(self.share, &widen::Panels::<W>::of(weight), self.scratch),
            Layout::Gguf => tile::prepared::<W::Wide>(self.share, &widen::Rows::<W>::of(weight), self.scratch),
        }
    }
}
