//! GGUF metadata and tensor directory → graphs, one a batch bucket, in which every tensor has a role.
//! Reads names, types and shapes only; never touches a weight's bytes.

mod blocks;
mod deepseek2;
mod gemma3;
mod hparams;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod shape_file;
mod tensors;

use std::fmt;

use thiserror::Error;

use crate::gguf::{Gguf, GgufError, Metadata};
use crate::graph::{Batch, Graph, GraphBuilder, GraphError, Input, InputId, NodeId};
use crate::kv::{KvLayout, Window};
use crate::tensor::DType;
use crate::units::Tokens;

pub use deepseek2::Latent;
pub use gemma3::Windows;
pub use hparams::{Experts, Hparams};
pub use shape_file::{ShapeFile, ShapeFileError, ShapeTensor};
pub use tensors::TensorTable;

/// A model family, as `general.architecture` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the variants are the format's own names")]
pub enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Deepseek2,
    Gemma3,
}

impl Architecture {
    /// All architectures that can be built.
    pub const ALL: [Architecture; 6] = [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Qwen3Moe,
        Architecture::Deepseek2,
        Architecture::Gemma3,
    ];

    /// The name in model files.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen3Moe => "qwen3moe",
            Architecture::Deepseek2 => "deepseek2",
            Architecture::Gemma3 => "gemma3",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a file is no model that can be built.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum ModelError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{file}: general.architecture is {found:?}, needed one of {}", Architecture::ALL.map(Architecture::name).join(", "))]
    Architecture { file: String, found: String },
    #[error("{file}: metadata {key} is needed and missing")]
    MissingKey { file: String, key: String },
    #[error("{file}: metadata {key} is {found}, needed {needed}")]
    BadKey { file: String, key: String, needed: String, found: String },
    #[error("{file}: tensor {name} is needed and missing; its shape would be {needed:?}")]
    MissingTensor { file: String, name: String, needed: Vec<u64> },
    #[error("{file}: tensor {name} is needed and missing; there is {found} instead, but {why}")]
    OtherForm { file: String, name: String, found: String, why: &'static str },
    #[error(
        "{file}: tensor token_embd.weight is {found}, needed [{width}, N]: rows as long as embedding_length, one a token"
    )]
    Embedding { file: String, width: u32, found: String },
    #[error("{file}: tensor {name} has shape {found:?}, needed {needed:?}")]
    TensorShape { file: String, name: String, needed: Vec<u64>, found: Vec<u64> },
    #[error("{file}: {what} cannot be used: {why}")]
    Cache { file: String, what: &'static str, why: String },
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Shape(#[from] ShapeFileError),
}

/// The KV cache that graphs are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Cells of every layer; rounded up to whole pages.
    pub cells: Tokens,
    /// Type of the keys.
    pub keys: DType,
    /// Type of the values.
    pub values: DType,
    /// What layers that look back over a window keep; none: all rows, as the others.
    pub sliding: Option<Sliding>,
}

/// What runs at a time over caches that keep a window of each sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    /// Sequences.
    pub sequences: u32,
    /// Most tokens of a step.
    pub step: Tokens,
}

impl CacheSpec {
    /// Cells of a layer that looks back over `window` tokens, and the window that it keeps: none where all cells are no
    /// more than what windows take.
    fn of_window(&self, window: Tokens) -> (Tokens, Option<Tokens>) {
        let slid = self.sliding.map(|Sliding { sequences, step }| {
            let pages = Window { tokens: window, step }.pages(KvLayout::default());
            Tokens(pages.saturating_mul(sequences.max(1)).saturating_mul(Tokens::PAGE.0))
        });
        match slid {
            Some(cells) if cells < self.cells => (cells, Some(window)),
            Some(_) | None => (self.cells, None),
        }
    }
}

/// A model: hyper-parameters and the types and shapes of its tensors.
#[derive(Clone, Debug)]
pub struct Model {
    architecture: Architecture,
    hparams: Hparams,
    tensors: TensorTable,
}

impl Model {
    /// Reads the metadata and directory of a model file.
    ///
    /// # Errors
    /// The architecture is unknown, or a key is missing or makes no sense.
    pub fn from_gguf(gguf: &Gguf) -> Result<Model, ModelError> {
        Model::read(gguf.metadata(), TensorTable::from_gguf(gguf))
    }

    fn read(metadata: &Metadata, tensors: TensorTable) -> Result<Model, ModelError> {
        const SHOWN: usize = 64;
        let file = tensors.file().to_owned();
        let Some(name) = metadata.str("general.architecture")? else {
            return Err(ModelError::MissingKey { file, key: "general.architecture".into() });
        };
        let architecture = Architecture::ALL.into_iter().find(|a| a.name() == name);
        let architecture =
            architecture.ok_or_else(|| ModelError::Architecture { file, found: name.chars().take(SHOWN).collect() })?;
        let hparams = Hparams::read(metadata, architecture, &tensors)?;
        Ok(Model { architecture, hparams, tensors })
    }

    /// The model family.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The hyper-parameters.
    pub fn hparams(&self) -> &Hparams {
        &self.hparams
    }

    /// The graph for a batch bucket.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than the hyper-parameters ask for; the error names both.
    pub fn graph(&self, batch: Batch, cache: CacheSpec) -> Result<Graph, ModelError> {
        self.build(batch, cache).map(|(graph, _)| graph)
    }

    /// Tensors of the file that no node of the graph uses, in file order.
    ///
    /// # Errors
    /// As for [`Model::graph`].
    pub fn unused_tensors(&self) -> Result<Vec<String>, ModelError> {
        let batch = Batch { tokens: Tokens(1), outputs: Tokens(1) };
        let cache = CacheSpec { cells: Tokens::PAGE, keys: DType::F16, values: DType::F16, sliding: None };
        let (_, used) = self.build(batch, cache)?;
        Ok(self.tensors.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect())
    }

    fn build(&self, batch: Batch, cache: CacheSpec) -> Result<(Graph, std::collections::HashSet<String>), ModelError> {
        let cells = cache.cells.pages().checked_mul(Tokens::PAGE.0).map(Tokens).ok_or_else(|| ModelError::Cache {
            file: self.tensors.file().into(),
            what: "the cache",
            why: format!("{} are more than whole pages of 32 bits count", cache.cells),
        })?;
        let cache = CacheSpec { cells, ..cache };
        let mut builder = GraphBuilder::new(batch);
        let inputs = Inputs {
            ids: builder.input(Input::TokenIds),
            positions: builder.input(Input::Positions),
            output_rows: builder.input(Input::OutputRows),
        };
        let mut blocks = blocks::Blocks::new(builder, inputs, &self.hparams, &self.tensors, cache);
        let mut x = blocks.embedding()?;
        for layer in 0..self.hparams.layers {
            blocks.set_layer(layer);
            x = self.layer(&mut blocks, x, layer)?;
        }
        let logits = blocks.head(x)?;
        blocks.finish(logits)
    }

    fn layer(&self, blocks: &mut blocks::Blocks<'_>, x: NodeId, layer: u32) -> Result<NodeId, ModelError> {
        match self.architecture {
            Architecture::Llama => llama::layer(blocks, x),
            Architecture::Qwen2 => qwen2::layer(blocks, x),
            Architecture::Qwen3 => qwen3::layer(blocks, x),
            Architecture::Qwen3Moe => qwen3moe::layer(blocks, x),
            Architecture::Deepseek2 => deepseek2::layer(blocks, x, layer),
            Architecture::Gemma3 => gemma3::layer(blocks, x),
        }
    }
}

/// The run-time inputs of every graph.
#[derive(Clone, Copy, Debug)]
struct Inputs {
    ids: InputId,
    positions: InputId,
    output_rows: InputId,
}
