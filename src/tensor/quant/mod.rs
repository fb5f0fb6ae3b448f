//! Bytes of a tensor to numbers and back, one scalar codec a format: the truth that faster kernels are tested against.
//! Every block struct has alignment 1, so a cast from any byte position works. Never allocates, never panics on data.

mod codebook;
mod float;
mod half32;
mod kquant;
mod random;

pub use codebook::{BlockIq4Nl, BlockIq4Xs, BlockMxfp4, KVALUES_IQ4NL, KVALUES_MXFP4};
pub use float::Half;
pub use half32::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};
pub use kquant::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, scale_min_k4, scales_q3k};
pub use random::random_blocks;

use bytemuck::Pod;

use super::DType;
use crate::units::Bytes;

/// Why bytes and numbers of a type do not become each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// No codec for the type.
    #[error("no {direction} for tensors of type {dtype}")]
    Unsupported {
        /// The type.
        dtype: DType,
        /// `decoder` or `encoder`.
        direction: &'static str,
    },
    /// A number of elements that is no whole number of blocks.
    #[error("{dtype} holds {block} elements a block, found {elements} elements, which is no multiple")]
    PartialBlock {
        /// The type.
        dtype: DType,
        /// Elements in a block.
        block: u32,
        /// Elements given.
        elements: usize,
    },
    /// Bytes that do not belong to that many elements.
    #[error("{elements} elements of {dtype} need {needed} bytes, found {found}")]
    Length {
        /// The type.
        dtype: DType,
        /// Elements given.
        elements: usize,
        /// Bytes they need.
        needed: u64,
        /// Bytes given.
        found: usize,
    },
    /// A block with values that the format cannot hold: not finite, or past the range of its half-precision scale.
    #[error("{dtype} needs finite values whose scale fits half precision, found another in block {block}")]
    Range {
        /// The type.
        dtype: DType,
        /// The block's index.
        block: usize,
    },
}

/// Whether [`decode`] knows the type.
pub const fn can_decode(dtype: DType) -> bool {
    use DType::*;
    match dtype {
        F32 | F16 | Bf16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2K | Q3K | Q4K | Q5K | Q6K | Iq4Nl | Iq4Xs | Mxfp4 => {
            true
        }
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => false,
    }
}

/// Decodes `bytes` to `out.len()` numbers, in the order of single-precision operations that ggml's reference has
/// (`dequantize_row_*` in ggml-quants.c), so that results agree to the bit.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    use DType::*;
    check_lengths(dtype, out.len(), bytes.len())?;
    match dtype {
        F32 => float::decode_f32(bytes, out),
        F16 => float::decode_f16(bytes, out),
        Bf16 => float::decode_bf16(bytes, out),
        Q4_0 => decode_blocks::<BlockQ4_0>(bytes, out),
        Q4_1 => decode_blocks::<BlockQ4_1>(bytes, out),
        Q5_0 => decode_blocks::<BlockQ5_0>(bytes, out),
        Q5_1 => decode_blocks::<BlockQ5_1>(bytes, out),
        Q8_0 => decode_blocks::<BlockQ8_0>(bytes, out),
        Q2K => decode_blocks::<BlockQ2K>(bytes, out),
        Q3K => decode_blocks::<BlockQ3K>(bytes, out),
        Q4K => decode_blocks::<BlockQ4K>(bytes, out),
        Q5K => decode_blocks::<BlockQ5K>(bytes, out),
        Q6K => decode_blocks::<BlockQ6K>(bytes, out),
        Iq4Nl => decode_blocks::<BlockIq4Nl>(bytes, out),
        Iq4Xs => decode_blocks::<BlockIq4Xs>(bytes, out),
        Mxfp4 => decode_blocks::<BlockMxfp4>(bytes, out),
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => return Err(QuantError::Unsupported { dtype, direction: "decoder" }),
    }
    Ok(())
}

/// Encodes `values`, rounding as ggml's reference does (`quantize_row_*_ref` in ggml-quants.c): F32 F16 BF16 Q4_0 Q4_1
/// Q5_0 Q5_1 Q8_0. Past its range F16 becomes infinite, as in the format's converters; blocks refuse such values.
pub fn encode(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    use DType::*;
    check_lengths(dtype, values.len(), out.len())?;
    match dtype {
        F32 => float::encode_f32(values, out),
        F16 => float::encode_f16(values, out),
        Bf16 => float::encode_bf16(values, out),
        Q4_0 => return encode_blocks::<BlockQ4_0>(values, out),
        Q4_1 => return encode_blocks::<BlockQ4_1>(values, out),
        Q5_0 => return encode_blocks::<BlockQ5_0>(values, out),
        Q5_1 => return encode_blocks::<BlockQ5_1>(values, out),
        Q8_0 => return encode_blocks::<BlockQ8_0>(values, out),
        Q2K | Q3K | Q4K | Q5K | Q6K | Iq4Nl | Iq4Xs | Mxfp4 | Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S
        | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0 | Tq2_0 | Nvfp4 | Q1_0 => {
            return Err(QuantError::Unsupported { dtype, direction: "encoder" });
        }
    }
    Ok(())
}

/// A block of a quantised format, as it lies in a file.
pub trait QuantBlock: Pod {
    /// The type.
    const DTYPE: DType;
    /// Elements in a block.
    const ELEMENTS: usize = Self::DTYPE.block().elements as usize;

    /// The block's numbers; `out` has `ELEMENTS` of them.
    fn decode(&self, out: &mut [f32]);
}

/// A block format that numbers can be rounded to.
trait EncodeBlock: QuantBlock {
    /// The block of `ELEMENTS` numbers, or `None` where one is not finite or the scale is past half precision.
    fn encode(values: &[f32]) -> Option<Self>;
}

/// Declares that a struct is a type's block: its size is the table's and it may lie at any byte.
macro_rules! block_layout {
    ($($block:ident = $dtype:ident),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$block>() == DType::$dtype.block().bytes as usize && align_of::<$block>() == 1);
    )+};
}
use block_layout;

fn decode_blocks<B: QuantBlock>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytemuck::cast_slice::<u8, B>(bytes).iter().zip(out.chunks_exact_mut(B::ELEMENTS)) {
        block.decode(out);
    }
}

fn encode_blocks<B: EncodeBlock>(values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    let blocks = bytemuck::cast_slice_mut::<u8, B>(out);
    for (i, (values, out)) in values.chunks_exact(B::ELEMENTS).zip(blocks).enumerate() {
        *out = B::encode(values).ok_or(QuantError::Range { dtype: B::DTYPE, block: i })?;
    }
    Ok(())
}

/// `bytes` must be exactly what `elements` of the type need.
fn check_lengths(dtype: DType, elements: usize, bytes: usize) -> Result<(), QuantError> {
    match dtype.row_bytes(elements as u64) {
        Some(Bytes(needed)) if needed == bytes as u64 => Ok(()),
        Some(Bytes(needed)) => Err(QuantError::Length { dtype, elements, needed, found: bytes }),
        None => Err(QuantError::PartialBlock { dtype, block: dtype.block().elements, elements }),
    }
}
