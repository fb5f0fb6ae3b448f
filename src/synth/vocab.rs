//! A vocabulary that any SPM reader accepts: three marks, one token a byte, then fillers. Every text has an encoding.

use crate::gguf::{WriteError, Writer};

/// Marks and bytes.
pub(super) const LEAST: u32 = 3 + 256;

/// Kinds of tokens as `tokenizer.ggml.token_type` numbers them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// Adds the keys of a vocabulary of `size` tokens.
pub(super) fn describe(writer: &mut Writer, size: u32) -> Result<(), WriteError> {
    let tokens: Vec<String> = (0..size).map(token).collect();
    let scores: Vec<f32> = (0..size).map(|id| if id < LEAST { 0.0 } else { -((id - LEAST) as f32) }).collect();
    let kinds: Vec<i32> = (0..size).map(kind).collect();
    writer
        .set("tokenizer.ggml.model", "llama")?
        .set("tokenizer.ggml.tokens", tokens)?
        .set("tokenizer.ggml.scores", scores)?
        .set("tokenizer.ggml.token_type", kinds)?
        .set("tokenizer.ggml.unknown_token_id", 0u32)?
        .set("tokenizer.ggml.bos_token_id", 1u32)?
        .set("tokenizer.ggml.eos_token_id", 2u32)?
        .set("tokenizer.ggml.add_bos_token", true)?
        .set("tokenizer.ggml.add_eos_token", false)?;
    Ok(())
}

fn token(id: u32) -> String {
    match id {
        0 => "<unk>".to_owned(),
        1 => "<s>".to_owned(),
        2 => "</s>".to_owned(),
        3..LEAST => format!("<0x{:02X}>", id - 3),
        _ => format!("▁w{id}"),
    }
}

fn kind(id: u32) -> i32 {
    match id {
        0 => UNKNOWN,
        1 | 2 => CONTROL,
        3..LEAST => BYTE,
        _ => NORMAL,
    }
}
