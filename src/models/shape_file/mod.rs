//! Models as data: metadata, and the type and shape of every tensor, as a JSON file without a weight's bytes.
//! Read by the same builders as a GGUF file, it gives the same graphs; made from any GGUF by [`ShapeFile::from_gguf`].
//!
//! ```json
//! {
//!  "format": "loadmaster-shape",
//!  "version": 1,
//!  "about": "free text: where the numbers come from",
//!  "metadata": {
//!   "general.architecture": "qwen2",
//!   "qwen2.block_count": 64,
//!   "qwen2.rope.freq_base": 1000000.0
//!  },
//!  "tensors": [
//!   {"name": "token_embd.weight", "shape": [5120, 152064], "type": "q4_k"},
//!   {"name": "blk.*.attn_v.weight", "shape": [5120, 1024], "types": {"q6_k": "0-7,10,13", "q4_k": "8-9,11-12"}}
//!  ]
//! }
//! ```
//!
//! `metadata` holds GGUF keys: a number with a point is a float, one without an integer. `about` may be missing. A shape
//! is innermost dimension first. A tensor has a `type`; an entry with `types` stands for one tensor in each layer that
//! is listed, whose number takes the place of the `*` in its name. Keys of the tokenizer and of shards are left out.

mod emit;
mod layers;
mod read;
mod shipped;

use thiserror::Error;

use super::{Model, ModelError, TensorTable};
use crate::gguf::{Gguf, GgufError, MetaValue, WriteError, Writer};
use crate::tensor::{DType, Shape};
use crate::units::Bytes;

const FORMAT: &str = "loadmaster-shape";
const VERSION: u32 = 1;

/// The start of a tensor's name in a layer.
const LAYER: &str = "blk.";

/// Layers are numbered below this.
const MOST_LAYERS: u32 = 1 << 12;

/// The most tensors of a file, so that a short file cannot ask for endless memory.
const MOST_TENSORS: usize = 1 << 16;

/// Why a shape file is none.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum ShapeFileError {
    #[error("{file}: {source}")]
    Json { file: String, source: serde_json::Error },
    #[error("{file}: {field} is {found}, needed {needed}")]
    Field { file: String, field: String, needed: String, found: String },
    #[error("{file}: {source}")]
    Metadata { file: String, source: WriteError },
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// A tensor without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeTensor {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The shape, innermost dimension first; its rows are whole blocks of the type.
    pub shape: Shape,
}

impl ShapeTensor {
    /// Its size in a model file.
    pub fn bytes(&self) -> Bytes {
        // Readers have checked that rows are whole blocks and that sizes fit.
        let row = self.dtype.row_bytes(self.shape.row_len()).unwrap_or_default();
        Bytes(row.0.saturating_mul(self.shape.rows()))
    }
}

/// A model file without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ShapeFile {
    file: String,
    about: String,
    metadata: Vec<(String, MetaValue)>,
    tensors: Vec<ShapeTensor>,
}

impl ShapeFile {
    /// What messages call the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where its numbers come from, in free text; may be empty.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// The metadata, in the order of the file.
    pub fn metadata(&self) -> &[(String, MetaValue)] {
        &self.metadata
    }

    /// The tensors, in the order of the file's entries.
    pub fn tensors(&self) -> &[ShapeTensor] {
        &self.tensors
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> Bytes {
        self.tensors.iter().map(ShapeTensor::bytes).sum()
    }
}

impl Model {
    /// Reads the metadata and tensor list of a shape file, as [`Model::from_gguf`] does those of a model file.
    ///
    /// # Errors
    /// As [`Model::from_gguf`].
    pub fn from_shape(shape: &ShapeFile) -> Result<Model, ModelError> {
        let gguf = shape.header()?;
        let row = |t: &ShapeTensor| (t.name.clone(), t.dtype, t.shape.dims().to_vec());
        let tensors = TensorTable::new(shape.file.clone(), shape.tensors.iter().map(row).collect());
        Model::read(gguf.metadata(), tensors)
    }
}

impl ShapeFile {
    /// A GGUF file of the metadata alone.
    fn header(&self) -> Result<Gguf, ShapeFileError> {
        let refused = |source| ShapeFileError::Metadata { file: self.file.clone(), source };
        let mut writer = Writer::new();
        for (key, value) in &self.metadata {
            writer.set(key, value.clone()).map_err(refused)?;
        }
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes, &mut |_, _| Ok(())).map_err(refused)?;
        Ok(Gguf::from_bytes(&self.file, bytes)?)
    }
}
