//! Activations as quantised kernels read them: formats and sizes, for planners to reserve and kernels to write.

use crate::tensor::DType;

/// How a row of activations is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActFormat {
    /// As it is.
    F32,
    /// F32 rounded to the nearest f16.
    F16,
    /// Blocks of 32: 32 i8 codes, the f32 scale, the i32 sum of the codes times -8 and times -128.
    Q8x32,
    /// Blocks of 256: 256 i8 codes, the f32 scale, eight i16 sums of 32 codes, sixteen i32 sums of 16 codes
    /// times -32.
    Q8x256,
}

/// Bytes of a [`ActFormat::Q8x32`] block.
pub(crate) const BLOCK32_BYTES: usize = 44;
/// Offset of the scale in a [`ActFormat::Q8x32`] block.
pub(crate) const SCALE32: usize = 32;
/// Offset of -8 times the sum.
pub(crate) const SUM32_BY_8: usize = 36;
/// Offset of -128 times the sum.
pub(crate) const SUM32_BY_128: usize = 40;
/// Bytes of a [`ActFormat::Q8x256`] block.
pub(crate) const BLOCK256_BYTES: usize = 340;
/// Offset of the scale in a [`ActFormat::Q8x256`] block.
pub(crate) const SCALE256: usize = 256;
/// Offset of the sums of 32.
pub(crate) const SUMS32: usize = 260;
/// Offset of -32 times the sums of 16.
pub(crate) const SUMS16_BY_32: usize = 276;

/// The format in which the kernels of a weight type read activations, or `None` where there are no kernels.
pub const fn act_format(dtype: DType) -> Option<ActFormat> {
    use DType::*;
    match dtype {
        F32 | Bf16 => Some(ActFormat::F32),
        F16 => Some(ActFormat::F16),
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Iq4Nl | Mxfp4 => Some(ActFormat::Q8x32),
        Q2K | Q3K | Q4K | Q5K | Q6K | Iq4Xs => Some(ActFormat::Q8x256),
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => None,
    }
}

/// Bytes of a row of `cols` activations.
pub const fn act_row_bytes(format: ActFormat, cols: usize) -> usize {
    match format {
        ActFormat::F32 | ActFormat::F16 => cols * 4,
        ActFormat::Q8x32 => cols / 32 * BLOCK32_BYTES,
        ActFormat::Q8x256 => cols / 256 * BLOCK256_BYTES,
    }
}
