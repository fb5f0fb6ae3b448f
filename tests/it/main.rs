//! All integration tests, as one binary.

mod gguf_hostile;
mod gguf_read;
mod gguf_walk;
mod gguf_write;
mod quant;
mod reference;
mod simd;
mod text_vocab_files;
