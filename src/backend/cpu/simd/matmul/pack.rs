//! Sixteen rows of words to words of sixteen rows, a gather a vector: `tensor::panel::pack` at the speed that weights
//! in the file's layout need on every use. Writes what `pack_part` writes.
#![allow(unsafe_code)]

use crate::backend::cpu::simd::{Isa, Job, LANES, Simd};
use crate::tensor::DType;
use crate::tensor::panel::{Field, PANEL_ROWS, fields, flip, pack_part};

/// Writes the blocks `first..` of a panel's rows, as many as `dst` holds; absent rows are zero.
///
/// # Panics
/// As `pack_part`.
pub(super) fn pack(isa: Isa, dtype: DType, row_bytes: usize, rows: &[u8], first: usize, dst: &mut [u8]) {
    let block = dtype.block().bytes as usize;
    let last = (first + dst.len() / (block * PANEL_ROWS)) * block;
    // Words of two are read as four bytes within their row, and offsets are i32.
    let gathers = rows.len() == PANEL_ROWS * row_bytes && last <= row_bytes && row_bytes >= 4;
    match fields(dtype) {
        Some(fields) if gathers && i32::try_from(rows.len()).is_ok() => {
            isa.run(Pack { rows, row_bytes, fields, block, flip: flip(dtype), first, dst })
        }
        _ => pack_part(dtype, row_bytes, rows, first, dst),
    }
}

struct Pack<'a> {
    rows: &'a [u8],
    row_bytes: usize,
    fields: &'a [Field],
    block: usize,
    flip: u8,
    first: usize,
    dst: &'a mut [u8],
}

impl Job for Pack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let offsets = row_offsets(s, self.row_bytes);
        let flip = s.splat_i(i32::from_le_bytes([self.flip; 4]));
        let mut to = self.dst.as_mut_ptr();
        for i in 0..self.dst.len() / (self.block * PANEL_ROWS) {
            for field in self.fields {
                for w in 0..field.words {
                    let at = (self.first + i) * self.block + field.at + w * field.word;
                    // SAFETY: the words lie in the rows, of which there are sixteen; a word of two is read with the two
                    // bytes after it, or before it at a row's end. A block writes sixteen times its size to `dst`.
                    unsafe {
                        if field.word == 4 {
                            s.store_bytes(s.xor(s.gather(self.rows.as_ptr().add(at), offsets), flip), to);
                        } else if at + 4 <= self.row_bytes {
                            s.store_u16_ptr(s.gather(self.rows.as_ptr().add(at), offsets), to);
                        } else {
                            let four = s.gather(self.rows.as_ptr().add(at - 2), offsets);
                            s.store_u16_ptr(s.shr::<16>(four), to);
                        }
                        to = to.add(field.word * PANEL_ROWS);
                    }
                }
            }
        }
    }
}

/// Writes sixteen rows of codes, `N` of a row in each, as vectors of four codes a row, xored with `flip`.
pub(super) struct Codes<'a> {
    /// The rows, `elements` bytes each.
    pub(super) rows: &'a [u8],
    /// Codes of a row, a multiple of four.
    pub(super) elements: usize,
    /// What each byte is xored with.
    pub(super) flip: u8,
    /// The vectors.
    pub(super) dst: &'a mut [u8],
}

impl Job for Codes<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.rows.len() >= PANEL_ROWS * self.elements && self.dst.len() >= PANEL_ROWS * self.elements);
        let offsets = row_offsets(s, self.elements);
        let flip = s.splat_i(i32::from_le_bytes([self.flip; 4]));
        for j in 0..self.elements / 4 {
            // SAFETY: four codes of each of sixteen rows, and as many bytes of `dst`, asserted above.
            unsafe {
                let four = s.gather(self.rows.as_ptr().add(4 * j), offsets);
                s.store_bytes(s.xor(four, flip), self.dst.as_mut_ptr().add(4 * PANEL_ROWS * j));
            }
        }
    }
}

#[inline(always)]
fn row_offsets<S: Simd>(s: S, row_bytes: usize) -> S::I {
    let mut offsets = [0; LANES];
    for r in 0..LANES {
        offsets[r] = (r * row_bytes) as i32;
    }
    s.load_i(&offsets)
}
