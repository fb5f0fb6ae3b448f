//! The vocabulary of a file as plain data, borrowed from it: tokens, scores, kinds, merges, special ids, flags.
//! Never decides how text is split; `tokenizer` does, from this.

use super::{PreTokenizer, TokenId};

/// Everything a [`Tokenizer`](super::Tokenizer) is made from.
#[derive(Clone, Debug)]
pub struct Vocab<'a> {
    /// How text becomes tokens.
    pub algorithm: Algorithm,
    /// The text of each token as the file writes it (SPM: `▁` for a space; BPE: the byte alphabet).
    pub tokens: Vec<&'a str>,
    /// SPM only: the score of each token, higher merges earlier.
    pub scores: Vec<f32>,
    /// The kind of each token; empty when the file does not say, then all are normal.
    pub kinds: Vec<TokenKind>,
    /// BPE only: `left right` pairs, best first.
    pub merges: Vec<&'a str>,
    /// Tokens with a part of their own.
    pub special: SpecialIds,
    /// Whether an encoding starts with `special.bos`.
    pub add_bos: bool,
    /// Whether an encoding ends with `special.eos`.
    pub add_eos: bool,
    /// SPM only: whether text at the start, or after a special token, gets a space in front.
    pub add_space_prefix: bool,
    /// BPE only: whether a word that is a token itself is never built from merges (`ignore_merges`).
    pub whole_words: bool,
    /// Whether white space after a special token is dropped (Phi-3's vocabulary asks for it).
    pub strip_after_special: bool,
    /// What was odd in the file.
    pub notes: Vec<Note>,
}

/// The two families of tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `tokenizer.ggml.model = llama`: SentencePiece's BPE; the best-scored pair of the whole text merges first.
    Spm,
    /// `tokenizer.ggml.model = gpt2`: byte-level BPE; text is cut into words first, ranked pairs merge inside a word.
    Bpe(PreTokenizer),
}

/// What a token is for, as in `tokenizer.ggml.token_type` (1 to 6 in this order, but for 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// A mark such as `<s>` that is no text.
    Control,
    /// Text that is always one token, never split or merged.
    UserDefined,
    /// Reserved.
    Unused,
    /// One raw byte, written `<0x0A>`.
    Byte,
}

impl TokenKind {
    /// The kind with number `n` in `tokenizer.ggml.token_type`; 0 (undefined) counts as unused.
    pub fn from_number(n: i32) -> Option<TokenKind> {
        match n {
            1 => Some(TokenKind::Normal),
            2 => Some(TokenKind::Unknown),
            3 => Some(TokenKind::Control),
            4 => Some(TokenKind::UserDefined),
            0 | 5 => Some(TokenKind::Unused),
            6 => Some(TokenKind::Byte),
            _ => None,
        }
    }
}

/// Tokens with a part of their own, where the vocabulary has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of a sequence.
    pub bos: Option<TokenId>,
    /// End of a sequence.
    pub eos: Option<TokenId>,
    /// End of a turn of a chat.
    pub eot: Option<TokenId>,
    /// End of a message after which the model expects a tool's answer.
    pub eom: Option<TokenId>,
    /// Stands for what has no token.
    pub unknown: Option<TokenId>,
}

/// Something odd in a vocabulary that does not stop it; for the caller to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The file names no pre-tokenizer, or one that is not known; `Default` is used, and some words may split
    /// differently from what the model was trained on.
    PreTokenizer {
        /// The name in `tokenizer.ggml.pre`, if any.
        found: Option<String>,
    },
    /// Merges whose parts or result are no tokens; they are left out.
    Merges {
        /// How many.
        ignored: usize,
        /// The first of them.
        first: String,
    },
    /// Bytes that text may have and the vocabulary cannot spell, not even as unknown; they are left out of encodings.
    Bytes {
        /// How many of the 243 bytes that UTF-8 uses.
        missing: usize,
    },
    /// A special token's id past the end of the vocabulary; the file counts as having no such token.
    SpecialId {
        /// The metadata key.
        key: &'static str,
        /// The id in the file.
        found: u32,
        /// The number of tokens.
        tokens: usize,
    },
}

/// Adds a note when `bytes`, the token of each byte, lacks some that text may have.
pub(super) fn note_missing_bytes(bytes: &[Option<TokenId>; 256], unknown: Option<TokenId>, notes: &mut Vec<Note>) {
    let in_text = |b: &usize| !matches!(b, 0xc0 | 0xc1 | 0xf5..);
    let missing = (0..bytes.len()).filter(in_text).filter(|b| bytes[*b].is_none()).count();
    if missing > 0 && unknown.is_none() {
        notes.push(Note::Bytes { missing });
    }
}
