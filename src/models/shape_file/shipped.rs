//! The shape files inside the program, by name.

use super::{ShapeFile, ShapeFileError};

/// Name, and text as it lies in `graphs/models`.
macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../../graphs/models/", $name, ".json")))),+]
    };
}

const SHIPPED: [(&str, &str); 8] = shipped![
    "deepseek-v3-iq1_s",
    "gemma-3-27b-it-q4_k_m",
    "kimi-k2.5-ud-iq3_xxs",
    "llama-3-70b-q4_k_m",
    "qwen2.5-32b-q4_k_m",
    "qwen2.5-32b-q5_k_m",
    "qwen3-235b-a22b-q4_k_s",
    "qwen3-30b-a3b-q4_k_m",
];

impl ShapeFile {
    /// The names of all shipped models, sorted.
    pub fn shipped_names() -> impl ExactSizeIterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// The shipped model of this name, if there is one.
    ///
    /// # Errors
    /// Never for the files of this version, which its tests read.
    pub fn shipped(name: &str) -> Option<Result<ShapeFile, ShapeFileError>> {
        let (name, text) = SHIPPED.iter().find(|(n, _)| *n == name)?;
        Some(ShapeFile::parse(name, text))
    }
}
