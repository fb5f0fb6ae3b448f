//! All integration tests, as one binary.

mod cli;
mod engine;
mod f64_model;
mod gguf_hostile;
mod gguf_read;
mod gguf_walk;
mod gguf_write;
mod inspect;
mod layers;
mod matmul;
mod oracle;
mod plan;
mod quant;
mod reference;
mod sample;
mod simd;
mod text_chat;
mod text_encode;
mod text_utf8;
mod text_vocab;
mod text_vocab_files;
