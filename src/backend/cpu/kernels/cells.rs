//! Rows that lie in pages already: copied from lane to lane, turned to other positions, taken out and put back as files
//! hold them. Bits change in what is turned alone.

use std::ops::Range;

use super::cache::{Arrangement, Expand, PAGE, PageLayout, PageType};
use crate::backend::cpu::simd::{Job, LANES, Simd};
use crate::graph::ops::RopeStyle;

/// A part of a head in a page: `rows` times 16 lanes of `unit` bytes each, from byte `at` on.
struct Plane {
    at: usize,
    rows: usize,
    unit: usize,
}

impl Plane {
    fn lanes(&self, row: usize, lanes: Range<usize>) -> Range<usize> {
        let at = |lane: usize| self.at + (row * PAGE + lane) * self.unit;
        at(lanes.start)..at(lanes.end)
    }
}

impl PageLayout {
    /// The codes of a head, and the scales behind them.
    fn planes(&self) -> [Plane; 2] {
        let (coding, blocks) = (self.kind.coding(), self.blocks());
        let at = blocks * coding.codes * coding.unit * PAGE;
        match self.arrangement {
            Arrangement::Keys => [
                Plane { at: 0, rows: blocks * coding.codes, unit: coding.unit },
                Plane { at, rows: blocks, unit: coding.scale },
            ],
            Arrangement::Values => [
                Plane { at: 0, rows: 1, unit: blocks * coding.codes * coding.unit },
                Plane { at, rows: 1, unit: blocks * coding.scale },
            ],
        }
    }

    /// Rows of `lanes` cells from lane `from` of one page to those from lane `to` of another.
    pub fn copy_lanes(&self, src: &[u8], dst: &mut [u8], (from, to, lanes): (usize, usize, usize)) {
        if lanes == PAGE {
            return dst.copy_from_slice(src);
        }
        for plane in self.planes() {
            for row in 0..plane.rows {
                let src = &src[plane.lanes(row, from..from + lanes)];
                dst[plane.lanes(row, to..to + lanes)].copy_from_slice(src);
            }
        }
    }

    /// As [`PageLayout::copy_lanes`] within a page; the lanes may overlap.
    pub fn move_lanes(&self, head: &mut [u8], (from, to, lanes): (usize, usize, usize)) {
        for plane in self.planes() {
            for row in 0..plane.rows {
                head.copy_within(plane.lanes(row, from..from + lanes), plane.lanes(row, to..to + lanes).start);
            }
        }
    }

    /// Where the bytes of a cell's row lie in its head: ranges of the row, in order, with the place of each.
    fn pieces(&self, lane: usize, mut piece: impl FnMut(Range<usize>, usize)) {
        let (coding, blocks) = (self.kind.coding(), self.blocks());
        let [codes, scales] = self.planes();
        let mut at = 0;
        let mut next = |len: usize, place: usize| {
            piece(at..at + len, place);
            at += len;
        };
        for block in 0..blocks {
            match self.arrangement {
                Arrangement::Keys => {
                    next(coding.scale, scales.lanes(block, lane..lane).start);
                    for row in block * coding.codes..(block + 1) * coding.codes {
                        next(coding.unit, codes.lanes(row, lane..lane).start);
                    }
                }
                Arrangement::Values => {
                    let own = |plane: &Plane| plane.lanes(0, lane..lane).start + plane.unit / blocks * block;
                    next(coding.scale, own(&scales));
                    next(coding.codes * coding.unit, own(&codes));
                }
            }
        }
    }

    /// Bytes of one head's row as files hold it.
    pub fn row_bytes(&self) -> usize {
        self.head_bytes() / PAGE
    }

    /// One head of one cell, as files hold it.
    pub fn take_row(&self, head: &[u8], lane: usize, row: &mut [u8]) {
        self.pieces(lane, |range, place| {
            let len = range.len();
            row[range].copy_from_slice(&head[place..place + len]);
        });
    }

    /// What [`PageLayout::take_row`] took.
    pub fn put_row(&self, head: &mut [u8], lane: usize, row: &[u8]) {
        self.pieces(lane, |range, place| head[place..place + range.len()].copy_from_slice(&row[range]));
    }
}

/// Turns the keys of some cells of one head of a page.
pub struct TurnKeys<'a> {
    /// The layout; keys.
    pub layout: PageLayout,
    /// The cells, by their lanes.
    pub lanes: Range<usize>,
    /// Elements of the head before the turned ones.
    pub offset: usize,
    /// Which elements are a pair.
    pub style: RopeStyle,
    /// Cosine and sine of each pair.
    pub table: &'a [f32],
    /// The head's part of the page.
    pub head: &'a mut [u8],
    /// At least `17 * head_dim` floats.
    pub scratch: &'a mut [f32],
}

impl Job for TurnKeys<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TurnKeys { layout, lanes, offset, style, table, head, scratch } = self;
        let (page, row) = scratch.split_at_mut(PAGE * layout.head_dim);
        Expand { layout, head, out: page }.run(s);
        let pairs = table.len() / 2;
        for (i, turn) in table.as_chunks::<2>().0.iter().enumerate() {
            let (a, b) = match style {
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                RopeStyle::Halves => (i, i + pairs),
            };
            turn_pair(s, &mut page[offset * LANES..], (a, b), turn);
        }
        // Whole blocks of a quantised head, the others stay as they are.
        let block = layout.kind.coding().elements;
        let turned = offset / block * block..(offset + 2 * pairs).next_multiple_of(block);
        let floats = turned.start * LANES..turned.end * LANES;
        let keys = &page[floats.clone()];
        match layout.kind {
            PageType::F32 if lanes.len() == PAGE => bytemuck::cast_slice_mut(head)[floats].copy_from_slice(keys),
            PageType::F16 if lanes.len() == PAGE => {
                let head = &mut bytemuck::cast_slice_mut(head)[floats];
                for (x, halves) in keys.chunks_exact(LANES).zip(head.as_chunks_mut::<LANES>().0) {
                    s.store_f16(s.load(x), halves);
                }
            }
            PageType::F32 | PageType::F16 | PageType::Bf16 | PageType::Q8_0 | PageType::Q4_0 => {
                for lane in lanes {
                    for (x, key) in row.iter_mut().zip(keys.chunks_exact(LANES)) {
                        *x = key[lane];
                    }
                    layout.write(&row[..turned.len()], turned.start, lane, head);
                }
            }
        }
    }
}

/// Turns elements `a` and `b` of sixteen keys.
#[inline(always)]
fn turn_pair<S: Simd>(s: S, keys: &mut [f32], (a, b): (usize, usize), turn: &[f32; 2]) {
    let (x, y) = (s.load(&keys[a * LANES..]), s.load(&keys[b * LANES..]));
    let (cos, sin) = (s.splat(turn[0]), s.splat(turn[1]));
    s.store(s.fma(x, cos, s.neg(s.mul(y, sin))), &mut keys[a * LANES..]);
    s.store(s.fma(x, sin, s.mul(y, cos)), &mut keys[b * LANES..]);
}
