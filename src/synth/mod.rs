//! A shape, a type and a seed → a GGUF model of random weights, streamed to disk, so that speed can be measured at real
//! sizes without downloads. The same shape, type and seed give the same bytes on every machine. Never reads a file.
//!
//! Matrices have a standard deviation of `1 / sqrt(columns)`, which keeps activations and logits near one.

mod named;
mod shape;
mod tensors;
mod vocab;
mod weights;

use std::io::{self, Write};
use std::path::Path;

use thiserror::Error;

use crate::gguf::{MetaValue, TensorSpec, WriteError, Writer};
use crate::tensor::{DType, ShapeError, quant};
use crate::units::Bytes;

pub use named::{named, names};
pub use shape::{ExpertShape, LatentShape, ModelShape, RopeScaling, WindowShape};
pub use tensors::Fallback;

/// What kind of numbers a tensor gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    /// Mean 0, this standard deviation.
    Matrix(f32),
    /// Around 1.
    Norm,
    /// Small, around 0.
    Bias,
    /// The divisors of rotation frequencies of Llama 3.1.
    RopeFactors,
}

/// A model that is ready to be written.
pub struct Synth {
    writer: Writer,
    fills: Vec<Fill>,
    fallbacks: Vec<Fallback>,
    seed: u64,
}

/// Why there is no such model.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum SynthError {
    #[error("no codec makes random weights of type {found}; needed one of {}", decodable())]
    Type { found: DType },
    #[error("{what} is {found}, needed {needed}")]
    Shape { what: &'static str, needed: String, found: String },
    #[error("no shape is named {found:?}; there are {}", names().collect::<Vec<_>>().join(", "))]
    Name { found: String },
    #[error(transparent)]
    Dims(#[from] ShapeError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Synth {
    /// A model of `shape` whose matrices are of type `dtype`; norms, biases and routers are f32.
    ///
    /// # Errors
    /// A type without a codec, or a shape that no model has.
    pub fn new(shape: &ModelShape, dtype: DType, seed: u64) -> Result<Synth, SynthError> {
        if !quant::can_decode(dtype) {
            return Err(SynthError::Type { found: dtype });
        }
        shape.check()?;
        let mut writer = Writer::new();
        for (key, value) in shape.metadata(dtype, seed) {
            writer.set(&key, value)?;
        }
        vocab::describe(&mut writer, shape.vocab)?;
        let mut list = tensors::List { writer, dtype, fills: Vec::new(), fallbacks: Vec::new() };
        list.add_all(shape)?;
        let tensors::List { writer, fills, fallbacks, .. } = list;
        Ok(Synth { writer, fills, fallbacks, seed })
    }

    /// The tensors, in the order in which they are written.
    pub fn tensors(&self) -> &[TensorSpec] {
        self.writer.tensors()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> Bytes {
        self.tensors().iter().map(|t| t.bytes).sum()
    }

    /// Tensors that are of another type than asked for, because their rows are no whole number of its blocks.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.fallbacks
    }

    /// Writes the model to a file; `progress` hears how many bytes of tensors are done.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write_file(&self, path: &Path, mut progress: impl FnMut(Bytes)) -> Result<(), SynthError> {
        let mut fills = self.fills.iter();
        let mut done = Bytes::ZERO;
        let data = |tensor: &TensorSpec, out: &mut dyn Write| {
            let fill = fills.next().copied().unwrap_or(Fill::Bias);
            weights::write(tensor, fill, self.seed, out, &mut |n| {
                done += n;
                progress(done);
            })
        };
        Ok(self.writer.write_file(path, data)?)
    }

    /// The model's bytes, for tests of small ones.
    ///
    /// # Errors
    /// As [`Synth::write_file`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, SynthError> {
        let mut fills = self.fills.iter();
        let mut bytes = Vec::new();
        let mut data = |tensor: &TensorSpec, out: &mut dyn Write| -> io::Result<()> {
            let fill = fills.next().copied().unwrap_or(Fill::Bias);
            weights::write(tensor, fill, self.seed, out, &mut |_| {})
        };
        self.writer.write_to(&mut bytes, &mut data)?;
        Ok(bytes)
    }
}

/// Names of the types that weights can have.
fn decodable() -> String {
    let known = DType::ALL.iter().filter(|t| quant::can_decode(**t));
    known.map(|t| t.name()).collect::<Vec<_>>().join(", ")
}

/// A metadata entry.
type Entry = (String, MetaValue);
