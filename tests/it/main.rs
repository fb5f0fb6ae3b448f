//! All integration tests, one binary.

mod gguf_hostile;
mod gguf_read;
mod gguf_walk;
mod gguf_write;
mod quant;
