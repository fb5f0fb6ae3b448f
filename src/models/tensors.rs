//! The tensors of a model by name: types and shapes, no bytes.

use std::collections::HashMap;

use crate::gguf::Gguf;
use crate::tensor::DType;

/// Types and shapes of a file's tensors, in file order.
#[derive(Clone, Debug)]
pub struct TensorTable {
    file: String,
    tensors: Vec<(String, DType, Vec<u64>)>,
    by_name: HashMap<String, usize>,
}

impl TensorTable {
    /// The table of a model file.
    pub fn from_gguf(gguf: &Gguf) -> TensorTable {
        let file = gguf.shards().next().map_or_else(String::new, |(name, _)| name.to_owned());
        let row = |t: &crate::gguf::TensorInfo| (t.name.clone(), t.dtype, t.shape.dims().to_vec());
        TensorTable::new(file, gguf.tensors().iter().map(row).collect())
    }

    /// A table of names, types and dimensions (innermost first); no name is there twice.
    pub(super) fn new(file: String, tensors: Vec<(String, DType, Vec<u64>)>) -> TensorTable {
        let by_name = tensors.iter().enumerate().map(|(i, (name, ..))| (name.clone(), i)).collect();
        TensorTable { file, tensors, by_name }
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Names in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, ..)| name.as_str())
    }

    /// Type and dimensions (innermost first) of a tensor.
    pub fn get(&self, name: &str) -> Option<(DType, &[u64])> {
        self.by_name.get(name).map(|&i| (self.tensors[i].1, self.tensors[i].2.as_slice()))
    }
}
