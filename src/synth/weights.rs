//! The bytes of one tensor: random blocks from a stream that the seed and the tensor's name start.

use std::f32::consts::TAU;
use std::io::{self, Write};

use super::Fill;
use crate::gguf::TensorSpec;
use crate::tensor::quant;
use crate::units::Bytes;

/// About how many bytes are made at a time.
const PIECE: u64 = 1 << 20;

/// Writes the tensor's data; `progress` hears the bytes of every piece.
pub(super) fn write(
    tensor: &TensorSpec,
    fill: Fill,
    seed: u64,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Bytes),
) -> io::Result<()> {
    let mut random = Random::new(seed, &tensor.name);
    match fill {
        Fill::Matrix(std) => {
            let block = u64::from(tensor.dtype.block().bytes);
            let mut piece = vec![0; Bytes(PIECE / block * block).index()];
            let mut left = tensor.bytes.0;
            while left > 0 {
                let n = left.min(piece.len() as u64);
                let bytes = &mut piece[..Bytes(n).index()];
                quant::random_blocks(tensor.dtype, std, &mut || random.next(), bytes).map_err(io::Error::other)?;
                out.write_all(bytes)?;
                progress(Bytes(n));
                left -= n;
            }
            return Ok(());
        }
        Fill::Norm => floats(tensor, out, |_| 1.0 + 0.1 * random.signed())?,
        Fill::Bias => floats(tensor, out, |_| 0.1 * random.signed())?,
        Fill::RopeFactors => floats(tensor, out, |i| rope_factor(i, tensor.shape.elements()))?,
    }
    progress(tensor.bytes);
    Ok(())
}

fn floats(tensor: &TensorSpec, out: &mut dyn Write, mut value: impl FnMut(u64) -> f32) -> io::Result<()> {
    (0..tensor.shape.elements()).try_for_each(|i| out.write_all(&value(i).to_le_bytes()))
}

/// What divides the frequency of pair `i` of `pairs` in Llama 3.1: 1 for short waves, 8 for long ones, a blend between
/// (`rope_scaling` of its published configuration: factor 8, low 1, high 4, original context 8192, base 500000).
fn rope_factor(i: u64, pairs: u64) -> f32 {
    let (factor, low, high, context) = (8.0, 1.0, 4.0, 8192.0);
    let wavelength = TAU * libm::powf(500_000.0, i as f32 / pairs as f32);
    if wavelength < context / high {
        return 1.0;
    }
    if wavelength > context / low {
        return factor;
    }
    let smooth = (context / wavelength - low) / (high - low);
    1.0 / ((1.0 - smooth) / factor + smooth)
}

/// SplitMix64 (Steele, Lea, Flood 2014), started by a seed and a name.
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Random {
        // FNV-1a of the name, so that every tensor has a stream of its own.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut random = Random(seed ^ hash);
        random.0 = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `-1..1`.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
