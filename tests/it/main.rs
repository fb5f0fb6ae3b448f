//! All integration tests, one binary.

mod gguf_read;
mod gguf_walk;
mod text_vocab_files;
