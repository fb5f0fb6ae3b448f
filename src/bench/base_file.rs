//! A file of log-probabilities, as llama.cpp's perplexity tool writes it with `--kl-divergence-base` → tokens, and rows
//! read one after the other. The file says how much it holds; nothing is allocated that its length does not bear out.
//!
//! Format: `_logits_`, then i32 `n_ctx`, `n_vocab`, `n_chunk`, then `n_ctx * n_chunk` i32 tokens, then for each chunk
//! `n_ctx - 1 - n_ctx / 2` rows of u16: an f32 scale and an f32 minimum (four u16), `n_vocab` steps of the scale above
//! the minimum, and one more u16 where `n_vocab` is odd.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use thiserror::Error;

/// Why a file is no base file.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum BaseError {
    #[error("{file}: cannot read it: {why}")]
    Io { file: String, why: std::io::Error },
    #[error("{file}: needed the magic \"_logits_\" of a base file, found \"{}\"", .found.escape_ascii())]
    Magic { file: String, found: Vec<u8> },
    #[error("{file}: a base file starts with {needed} bytes of header, found {found} in all")]
    Header { file: String, needed: u64, found: u64 },
    #[error("{file}: {what} is {found}, needed {needed}")]
    Field { file: String, what: &'static str, found: i64, needed: String },
    #[error(
        "{file}: {context} tokens of context, {vocab} of vocabulary and {chunks} chunks need {needed} bytes, found {found}"
    )]
    Size { file: String, context: u32, vocab: u32, chunks: u32, needed: u128, found: u64 },
}

/// An open base file.
pub struct BaseFile {
    file: String,
    reader: BufReader<File>,
    context: usize,
    vocab: usize,
    chunks: usize,
    tokens: Vec<u32>,
    row: Vec<u8>,
}

const HEADER: u64 = 8 + 3 * 4;

impl BaseFile {
    /// Opens a file and reads its tokens.
    ///
    /// # Errors
    /// It is no base file, or not all of one.
    pub fn open(path: &Path) -> Result<BaseFile, BaseError> {
        let file = path.display().to_string();
        let io = |why| BaseError::Io { file: file.clone(), why };
        let opened = File::open(path).map_err(io)?;
        let found = opened.metadata().map_err(io)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, opened);
        let mut magic = Vec::new();
        reader.by_ref().take(8).read_to_end(&mut magic).map_err(io)?;
        if magic != b"_logits_" {
            return Err(BaseError::Magic { file, found: magic });
        }
        if found < HEADER {
            return Err(BaseError::Header { file, needed: HEADER, found });
        }
        let mut number = |what, least: i32, most: i32| -> Result<u32, BaseError> {
            let mut bytes = [0; 4];
            reader.read_exact(&mut bytes).map_err(io)?;
            let found = i32::from_le_bytes(bytes);
            let needed = || format!("{least} to {most}");
            let wrong = || BaseError::Field { file: file.clone(), what, found: found.into(), needed: needed() };
            u32::try_from(found).ok().filter(|_| (least..=most).contains(&found)).ok_or_else(wrong)
        };
        let context = number("the context", 4, 1 << 24)?;
        let vocab = number("the vocabulary", 1, 1 << 24)?;
        let chunks = number("the number of chunks", 1, i32::MAX)?;
        let scored = u128::from(context - 1 - context / 2);
        let row = 2 * (u128::from(vocab).next_multiple_of(2) + 4);
        let tokens = u128::from(context) * u128::from(chunks);
        let needed = u128::from(HEADER) + 4 * tokens + u128::from(chunks) * scored * row;
        if needed > u128::from(found) {
            return Err(BaseError::Size { file, context, vocab, chunks, needed, found });
        }
        let tokens = read_tokens(&mut reader, &file, tokens as usize, vocab)?;
        let (context, vocab, chunks) = (context as usize, vocab as usize, chunks as usize);
        Ok(BaseFile { file, reader, context, vocab, chunks, tokens, row: vec![0; row as usize] })
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Logits of a row.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Chunks.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// All chunks' tokens, each below [`BaseFile::vocab`].
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Reads the next row of natural logarithms of probabilities.
    ///
    /// # Errors
    /// The file ends or cannot be read, or the row's scale or minimum is no number.
    pub fn next_row(&mut self, out: &mut Vec<f32>) -> Result<(), BaseError> {
        let io = |why| BaseError::Io { file: self.file.clone(), why };
        self.reader.read_exact(&mut self.row).map_err(io)?;
        let (head, steps) = self.row.split_at(8);
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (scale, least) = (float(&head[..4]), float(&head[4..]));
        if !scale.is_finite() || !least.is_finite() || scale < 0.0 {
            let needed = "finite scales and minima in every row".to_owned();
            let file = self.file.clone();
            return Err(BaseError::Field { file, what: "a row's scale", found: scale.to_bits().into(), needed });
        }
        out.clear();
        let steps = steps.chunks_exact(2).take(self.vocab);
        out.extend(steps.map(|b| scale * f32::from(u16::from_le_bytes([b[0], b[1]])) + least));
        Ok(())
    }
}

fn read_tokens(reader: &mut impl Read, file: &str, count: usize, vocab: u32) -> Result<Vec<u32>, BaseError> {
    let mut bytes = vec![0; 4 * count];
    reader.read_exact(&mut bytes).map_err(|why| BaseError::Io { file: file.to_owned(), why })?;
    let tokens: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match tokens.iter().find(|&&token| token >= vocab) {
        Some(&token) => {
            let (file, needed) = (file.to_owned(), format!("below {vocab}"));
            Err(BaseError::Field { file, what: "a token", found: token.into(), needed })
        }
        None => Ok(tokens),
    }
}
