//! Weights regrouped for vectors: sixteen rows become one panel in which equal words of the sixteen lie side by side, and back.
//! The bytes of a panel are those of its rows in another order (Q8_0 codes also lose their sign by a flipped top bit),
//! so sizes stay those of the file. Pure functions over bytes; never reads or writes a number.

use super::DType;
use crate::units::Bytes;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;

/// How the rows of a weight lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Row after row, as in a GGUF file.
    Gguf,
    /// Panel after panel of sixteen rows, the last one padded with zero rows; see [`pack`].
    Panel16,
}

/// A run of equal words of a block. In the panel, word 0 of the sixteen rows comes first, then word 1, and so on.
pub(crate) struct Field {
    /// Offset in the block.
    pub(crate) at: usize,
    /// Bytes of a word: 2 or 4.
    pub(crate) word: usize,
    /// Words.
    pub(crate) words: usize,
}

const fn field(at: usize, word: usize, words: usize) -> Field {
    Field { at, word, words }
}

/// The fields of a type's block in the order in which the panel holds them: what a kernel reads first comes first.
pub(crate) const fn fields(dtype: DType) -> Option<&'static [Field]> {
    use DType::*;
    Some(match dtype {
        F32 => const { &[field(0, 4, 1)] },
        F16 | Bf16 => const { &[field(0, 2, 1)] },
        // d, codes.
        Q4_0 => const { &[field(0, 2, 1), field(2, 4, 4)] },
        Q8_0 => const { &[field(0, 2, 1), field(2, 4, 8)] },
        // d and dmin, scales and minima, (high bits,) codes.
        Q4K => const { &[field(0, 2, 2), field(4, 4, 3), field(16, 4, 32)] },
        Q5K => const { &[field(0, 2, 2), field(4, 4, 3), field(16, 4, 8), field(48, 4, 32)] },
        // d, scales, high bits, low bits.
        Q6K => const { &[field(208, 2, 1), field(192, 4, 4), field(128, 4, 16), field(0, 4, 32)] },
        Q4_1 | Q5_0 | Q5_1 | Q8_1 | Q2K | Q3K | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq4Nl | Iq3S | Iq2S | Iq4Xs
        | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0 | Tq2_0 | Mxfp4 | Nvfp4 | Q1_0 => return None,
    })
}

/// What is xored to the bytes of words of four: Q8_0 codes become `code + 128`, for dot products of u8 and i8.
pub(crate) const fn flip(dtype: DType) -> u8 {
    if matches!(dtype, DType::Q8_0) { 0x80 } else { 0 }
}

/// Whether [`pack`] knows the type.
pub const fn panel_supported(dtype: DType) -> bool {
    fields(dtype).is_some()
}

/// Bytes of `rows` rows of `cols` elements as panels, or `None` where the type has none, where `cols` is no whole
/// number of blocks, or past 2^64.
pub fn panel_bytes(dtype: DType, rows: u64, cols: u64) -> Option<Bytes> {
    fields(dtype)?;
    let row = dtype.row_bytes(cols)?;
    row.0.checked_mul(rows.checked_next_multiple_of(PANEL_ROWS as u64)?).map(Bytes)
}

/// Packs `rows` (at most sixteen rows of `cols` elements, as in a GGUF file) into the panel `dst`.
/// Block after block, and within a block the fields of the type, each word sixteen times.
///
/// # Panics
/// Where the type has no panels, `rows` is no whole number of at most sixteen rows, or `dst` is not one panel.
pub fn pack(dtype: DType, cols: usize, rows: &[u8], dst: &mut [u8]) {
    let row_bytes = dtype.row_bytes(cols as u64).expect("whole blocks").index();
    assert_eq!(dst.len(), row_bytes * PANEL_ROWS, "a panel holds sixteen rows");
    pack_part(dtype, row_bytes, rows, 0, dst);
}

/// One row of a panel, as in a GGUF file: the inverse of [`pack`] for lane `lane`.
///
/// # Panics
/// Where the type has no panels, or `panel` is not one panel of rows as long as `row`.
pub fn unpack_row(dtype: DType, panel: &[u8], lane: usize, row: &mut [u8]) {
    let fields = fields(dtype).expect("a type with panels");
    let block = dtype.block().bytes as usize;
    assert!(
        panel.len() == row.len() * PANEL_ROWS && lane < PANEL_ROWS,
        "lane {lane} of a panel of {} bytes",
        panel.len()
    );
    for (panel, row) in panel.chunks_exact(block * PANEL_ROWS).zip(row.chunks_exact_mut(block)) {
        let mut at = 0;
        for field in fields {
            let flip = if field.word == 4 { flip(dtype) } else { 0 };
            for word in 0..field.words {
                let from = &panel[at + lane * field.word..][..field.word];
                let to = &mut row[field.at + word * field.word..][..field.word];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ flip);
                at += field.word * PANEL_ROWS;
            }
        }
    }
}

/// The rows of a panel, at most sixteen, as in a GGUF file: the inverse of [`pack`].
///
/// # Panics
/// As [`pack`].
pub fn unpack(dtype: DType, cols: usize, panel: &[u8], rows: &mut [u8]) {
    let fields = fields(dtype).expect("a type with panels");
    let (block, row) = (dtype.block().bytes as usize, dtype.row_bytes(cols as u64).expect("whole blocks").index());
    assert_eq!(panel.len(), row * PANEL_ROWS, "a panel holds sixteen rows");
    assert!(rows.len() <= panel.len() && rows.len().is_multiple_of(row), "at most sixteen whole rows");
    for (i, panel) in panel.chunks_exact(block * PANEL_ROWS).enumerate() {
        let mut panel = panel;
        for field in fields {
            let (part, rest) = panel.split_at(field.word * field.words * PANEL_ROWS);
            let at = i * block + field.at;
            match field.word {
                2 => transpose_back::<2>(part, rows, row, at, 0),
                _ => transpose_back::<4>(part, rows, row, at, flip(dtype)),
            }
            panel = rest;
        }
    }
}

/// [`pack`] of the blocks from `first` on, as many as `dst` holds: a part of a panel.
///
/// # Panics
/// As [`pack`], or where the rows hold fewer blocks.
pub fn pack_part(dtype: DType, row_bytes: usize, rows: &[u8], first: usize, dst: &mut [u8]) {
    let fields = fields(dtype).expect("a type with panels");
    let block = dtype.block().bytes as usize;
    assert!(rows.len() <= row_bytes * PANEL_ROWS && rows.len().is_multiple_of(row_bytes), "at most sixteen whole rows");
    for (i, dst) in dst.chunks_exact_mut(block * PANEL_ROWS).enumerate() {
        let mut dst = dst;
        for field in fields {
            let (part, rest) = dst.split_at_mut(field.word * field.words * PANEL_ROWS);
            let at = (first + i) * block + field.at;
            match field.word {
                2 => transpose::<2>(rows, row_bytes, at, part, 0),
                _ => transpose::<4>(rows, row_bytes, at, part, flip(dtype)),
            }
            dst = rest;
        }
    }
}

/// Writes the words of `W` bytes of sixteen rows, word by word, into each row from offset `at` on; more than there are rows
/// are left out.
fn transpose_back<const W: usize>(src: &[u8], rows: &mut [u8], row_bytes: usize, at: usize, flip: u8) {
    let words = src.len() / (W * PANEL_ROWS);
    let src = src.as_chunks::<W>().0;
    for (r, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
        for (w, word) in row[at..at + words * W].as_chunks_mut::<W>().0.iter_mut().enumerate() {
            *word = src[w * PANEL_ROWS + r].map(|b| b ^ flip);
        }
    }
}

/// Writes the words of `W` bytes from offset `at` of each row on, word by word, sixteen rows each; absent rows are zero.
fn transpose<const W: usize>(rows: &[u8], row_bytes: usize, at: usize, dst: &mut [u8], flip: u8) {
    let words = dst.len() / (W * PANEL_ROWS);
    let dst = dst.as_chunks_mut::<W>().0;
    for r in 0..PANEL_ROWS {
        let row = rows.get(r * row_bytes..(r + 1) * row_bytes).map(|row| &row[at..at + words * W]);
        for w in 0..words {
            let word: [u8; W] = row.map_or([0; W], |row| std::array::from_fn(|b| row[w * W + b]));
            dst[w * PANEL_ROWS + r] = word.map(|b| b ^ flip);
        }
    }
}
