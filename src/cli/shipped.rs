//! The model inside the program: a tiny one that tells stories, so that `run` works anywhere. How it was trained is in
//! `graphs/shipped`.

use anyhow::Result;

use crate::gguf::Gguf;

/// A prompt that it knows.
pub(super) const PROMPT: &str = "Once upon a time";

/// Lies at a multiple of 64 bytes, so that reading it copies nothing.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../graphs/shipped/stories-1m.gguf"));

/// The model.
pub(super) fn open() -> Result<Gguf> {
    Ok(Gguf::from_static("shipped stories-1m.gguf", &MODEL.0)?)
}
