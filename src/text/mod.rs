//! Text ↔ tokens: a GGUF file's vocabulary becomes a [`Tokenizer`], its chat template a [`ChatTemplate`],
//! and bytes of generated tokens become whole characters through a [`Utf8Stream`].
//! Never prints, never reads a file, and never panics on what a file or a person wrote.

mod bpe;
mod byte_level;
mod chat;
mod merge;
mod metadata;
mod pre;
mod special;
mod spm;
mod tokenizer;
mod utf8;
mod vocab;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gguf::GgufError;

pub use chat::{ChatTemplate, Conversation, Message, TemplateError, TemplateOrigin};
pub use pre::PreTokenizer;
pub use tokenizer::{Encode, Tokenizer};
pub use utf8::Utf8Stream;
pub use vocab::{Algorithm, Note, SpecialIds, TokenKind, Vocab};

/// A token of a vocabulary: the row of the embedding and of the logits that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// As an index of a row.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The id of row `i`; rows past 2^32 do not exist in the format (ids are u32 there).
    pub(crate) fn from_row(i: usize) -> TokenId {
        TokenId(u32::try_from(i).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a vocabulary or a chat template is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file has no tokenizer that this program knows; it still runs from token ids.
    #[error(
        "no usable tokenizer: needed tokenizer.ggml.model `llama` or `gpt2` with tokenizer.ggml.tokens, found {found}; \
         give token ids instead of text"
    )]
    NoTokenizer {
        /// What the file has instead.
        found: String,
    },
    /// Metadata of a wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// A per-token array whose length is not the number of tokens.
    #[error("{key} has {found} entries, needed {needed}, one a token")]
    Length {
        /// The metadata key.
        key: &'static str,
        /// The number of tokens.
        needed: usize,
        /// The length of the array.
        found: usize,
    },
    /// A token type that the format does not define.
    #[error("tokenizer.ggml.token_type[{token}] is {found}, needed 0 to 6")]
    Kind {
        /// The token.
        token: TokenId,
        /// The number in the file.
        found: i32,
    },
    /// The special tokens do not fit one search automaton.
    #[error("{count} special tokens of {bytes} bytes in all cannot be searched for: {reason}")]
    Specials {
        /// How many special tokens there are.
        count: usize,
        /// Their summed length.
        bytes: usize,
        /// What the automaton's builder said.
        reason: String,
    },
    /// A pre-tokenizer pattern that does not compile: a fault of this program, never of a file.
    #[error("pattern of pre-tokenizer {pre:?} does not compile: {reason}")]
    Pattern {
        /// Whose pattern it is.
        pre: PreTokenizer,
        /// What the compiler said.
        reason: String,
    },
}
