#![doc = include_str!("ARCHITECTURE.md")]

pub mod gguf;
pub mod index;
pub mod sample;
pub mod tensor;
pub mod text;
pub mod units;
