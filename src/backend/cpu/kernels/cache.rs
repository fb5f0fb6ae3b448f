//! The layout of KV pages on this device, and the kernels that write and read them.
//!
//! A page holds 16 cells. Keys lie transposed, `[head][element][cell]`, so that 16 scores are computed in 16 lanes;
//! values lie as `[head][cell][element]`. A quantised head stores its codes so, and behind them the f16 scales of its
//! blocks of 32 elements, `[block][cell]` for keys and `[cell][block]` for values. Of four bits, a code holds element `i`
//! of a block and above it element `i + 16`. Pages and heads are as large as the
//! rows in them; only this module knows the arrangement.

use crate::backend::cpu::simd::{Job, LANES, Simd};
use crate::graph::{CACHE_TYPES, CacheHalf, State};
use crate::tensor::DType;

/// Cells of a page; a page fills the lanes of a vector.
pub const PAGE: usize = LANES;

/// Elements that share a scale.
const BLOCK: usize = 32;

/// Whether a half is arranged for keys or for values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// `[element][cell]`.
    Keys,
    /// `[cell][element]`.
    Values,
}

/// The pages of one cache half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLayout {
    /// Keys or values.
    pub arrangement: Arrangement,
    /// What an element is kept as.
    pub kind: PageType,
    /// KV heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// The types that pages can have: those of `graph::CACHE_TYPES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Codes of eight bits with a scale a block.
    Q8_0,
    /// Codes of four bits with a scale a block.
    Q4_0,
}

/// A block of a type: its scale, if it has one, then its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// Elements that share a scale.
    pub elements: usize,
    /// Bytes of the scale.
    pub scale: usize,
    /// Codes; one may stand for several elements.
    pub codes: usize,
    /// Bytes of a code.
    pub unit: usize,
}

impl PageType {
    /// The page type of an element type, if it has one.
    pub const fn of(dtype: DType) -> Option<PageType> {
        use DType::*;
        match dtype {
            F32 => Some(PageType::F32),
            F16 => Some(PageType::F16),
            Bf16 => Some(PageType::Bf16),
            Q8_0 => Some(PageType::Q8_0),
            Q4_0 => Some(PageType::Q4_0),
            Q4_1 | Q5_0 | Q5_1 | Q8_1 | Q2K | Q3K | Q4K | Q5K | Q6K | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq4Nl
            | Iq3S | Iq2S | Iq4Xs | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0 | Tq2_0 | Mxfp4 | Nvfp4 | Q1_0 => None,
        }
    }

    /// How a row of the type is made up.
    pub const fn coding(self) -> Coding {
        let block = self.dtype().block();
        let (elements, bytes) = (block.elements as usize, block.bytes as usize);
        match self {
            PageType::F32 | PageType::F16 | PageType::Bf16 => Coding { elements, scale: 0, codes: 1, unit: bytes },
            PageType::Q8_0 | PageType::Q4_0 => Coding { elements, scale: 2, codes: bytes - 2, unit: 1 },
        }
    }

    const fn dtype(self) -> DType {
        match self {
            PageType::F32 => DType::F32,
            PageType::F16 => DType::F16,
            PageType::Bf16 => DType::Bf16,
            PageType::Q8_0 => DType::Q8_0,
            PageType::Q4_0 => DType::Q4_0,
        }
    }
}

// Every type that a graph may keep a cache in has pages here.
const _: () = {
    let mut i = 0;
    while i < CACHE_TYPES.len() {
        assert!(PageType::of(CACHE_TYPES[i]).is_some());
        i += 1;
    }
};

impl PageLayout {
    /// The pages of a state, or `None` where it has a type without pages.
    pub fn of(state: &State) -> Option<PageLayout> {
        let arrangement = match state.half {
            CacheHalf::Keys => Arrangement::Keys,
            CacheHalf::Values => Arrangement::Values,
        };
        let (heads, head_dim) = (state.heads as usize, state.head_dim as usize);
        Some(PageLayout { arrangement, kind: PageType::of(state.dtype)?, heads, head_dim })
    }

    /// Bytes of one head in a page.
    pub fn head_bytes(&self) -> usize {
        let block = self.kind.dtype().block();
        self.head_dim / block.elements as usize * block.bytes as usize * PAGE
    }

    /// Blocks of a head.
    pub fn blocks(&self) -> usize {
        self.head_dim / self.kind.coding().elements
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.head_bytes() * self.heads
    }

    /// Writes elements of one head of one cell, from element `first` on, into the head's part of its page: whole blocks.
    pub fn write(&self, x: &[f32], first: usize, lane: usize, head: &mut [u8]) {
        let at = |i: usize| self.place(first + i, lane, self.head_dim);
        let each = x.iter().enumerate();
        match self.kind {
            PageType::F32 => each.for_each(|(i, &v)| put(head, at(i), v.to_le_bytes())),
            PageType::F16 => each.for_each(|(i, &v)| put(head, at(i), half::f16::from_f32(v).to_le_bytes())),
            PageType::Bf16 => each.for_each(|(i, &v)| put(head, at(i), half::bf16::from_f32(v).to_le_bytes())),
            PageType::Q8_0 => self.write_blocks(x, first, lane, head, q8_0),
            PageType::Q4_0 => self.write_blocks(x, first, lane, head, q4_0),
        }
    }

    /// Writes blocks of 32 elements, each of which `encode` makes a scale and `N` codes of.
    fn write_blocks<const N: usize>(
        &self,
        x: &[f32],
        first: usize,
        lane: usize,
        head: &mut [u8],
        encode: impl Fn(&[f32; BLOCK]) -> (half::f16, [u8; N]),
    ) {
        let (codes, scales) = head.split_at_mut(self.blocks() * N * PAGE);
        for (b, block) in (first / BLOCK..).zip(x.as_chunks::<BLOCK>().0) {
            let (scale, quants) = encode(block);
            for (i, code) in quants.into_iter().enumerate() {
                codes[self.place(b * N + i, lane, self.blocks() * N)] = code;
            }
            put(scales, self.place(b, lane, self.blocks()), scale.to_le_bytes());
        }
    }

    /// The place of item `i` of a cell that has `all` of them.
    fn place(&self, i: usize, lane: usize, all: usize) -> usize {
        match self.arrangement {
            Arrangement::Keys => i * PAGE + lane,
            Arrangement::Values => lane * all + i,
        }
    }
}

/// A block as in ggml: the scale is the largest magnitude over 127, in f16; codes round half away from zero.
fn q8_0(block: &[f32; BLOCK]) -> (half::f16, [u8; BLOCK]) {
    let most = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = most / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (half::f16::from_f32(scale), block.map(|v| (v * inverse).round() as i8 as u8))
}

/// A block as in ggml: the scale is the element of the largest magnitude, the first of several, over -8, in f16; codes
/// are 8 more than the elements over the scale, rounded half up, and at most 15.
fn q4_0(block: &[f32; BLOCK]) -> (half::f16, [u8; BLOCK / 2]) {
    let most = block.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let scale = most / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let code = |v: f32| ((v * inverse + 8.5) as u8).min(15);
    (half::f16::from_f32(scale), std::array::from_fn(|i| code(block[i]) | code(block[i + BLOCK / 2]) << 4))
}

/// Element `i` of `N` bytes.
fn put<const N: usize>(bytes: &mut [u8], i: usize, element: [u8; N]) {
    bytes[i * N..(i + 1) * N].copy_from_slice(&element);
}

/// One head of a page → f32, in the arrangement of the page.
pub struct Expand<'a> {
    /// The layout.
    pub layout: PageLayout,
    /// The head's part of the page.
    pub head: &'a [u8],
    /// `16 * head_dim` floats.
    pub out: &'a mut [f32],
}

impl Job for Expand<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.layout.kind {
            PageType::F32 => bytemuck::cast_slice_mut::<f32, u8>(self.out).copy_from_slice(self.head),
            PageType::F16 => {
                for (halves, out) in vectors::<u16>(self.head).zip(self.out.chunks_exact_mut(LANES)) {
                    s.store(s.load_f16(halves), out);
                }
            }
            PageType::Bf16 => {
                for (halves, out) in vectors::<u16>(self.head).zip(self.out.chunks_exact_mut(LANES)) {
                    s.store(s.load_bf16(halves), out);
                }
            }
            PageType::Q8_0 => self.expand_q8(s),
            PageType::Q4_0 => self.expand_q4(s),
        }
    }
}

impl Expand<'_> {
    #[inline(always)]
    fn expand_q8<S: Simd>(self, s: S) {
        let (codes, scales) = self.head.split_at(self.layout.head_dim * PAGE);
        let mut scale = s.splat(0.0);
        for (i, (codes, out)) in vectors::<i8>(codes).zip(self.out.chunks_exact_mut(LANES)).enumerate() {
            scale = scale_of(s, self.layout.arrangement, scales, (i, BLOCK), scale);
            s.store(s.mul(s.load_i8(codes), scale), out);
        }
    }

    /// Elements `i` and `i + 16` of sixteen cells, or the first and the last sixteen of a block of one.
    #[inline(always)]
    fn expand_q4<S: Simd>(self, s: S) {
        let (codes, scales) = self.head.split_at(self.layout.head_dim / 2 * PAGE);
        // Floats from an element to the one sixteen further on.
        let apart = match self.layout.arrangement {
            Arrangement::Keys => BLOCK / 2 * PAGE,
            Arrangement::Values => BLOCK / 2,
        };
        let mut scale = s.splat(0.0);
        let (eight, low_bits) = (s.splat_i(8), s.splat_i(15));
        for (i, codes) in vectors::<u8>(codes).enumerate() {
            scale = scale_of(s, self.layout.arrangement, scales, (i, BLOCK / 2), scale);
            let codes = s.load_u8(codes);
            let first = s.to_f32(s.sub_i(s.and(codes, low_bits), eight));
            let second = s.to_f32(s.sub_i(s.shr::<4>(codes), eight));
            let at = i * LANES / apart * 2 * apart + i * LANES % apart;
            s.store(s.mul(first, scale), &mut self.out[at..]);
            s.store(s.mul(second, scale), &mut self.out[at + apart..]);
        }
    }
}

/// The scales of vector `i` of codes, of which a block has `each`; `before` are those of the vector before.
#[inline(always)]
fn scale_of<S: Simd>(s: S, arrangement: Arrangement, scales: &[u8], (i, each): (usize, usize), before: S::F) -> S::F {
    let vector = |i: usize| vectors::<u16>(&scales[i * 2 * LANES..]).next();
    match arrangement {
        Arrangement::Keys if !i.is_multiple_of(each) => before,
        Arrangement::Keys => vector(i / each).map_or(before, |halves| s.load_f16(halves)),
        Arrangement::Values => {
            let at = i * LANES / each;
            s.splat(half::f16::from_le_bytes([scales[2 * at], scales[2 * at + 1]]).to_f32())
        }
    }
}

/// Runs of sixteen elements; bytes of pages are as aligned as their elements.
#[inline(always)]
fn vectors<T: bytemuck::Pod>(bytes: &[u8]) -> impl Iterator<Item = &[T; LANES]> {
    bytemuck::cast_slice::<u8, T>(bytes).as_chunks::<LANES>().0.iter()
}
