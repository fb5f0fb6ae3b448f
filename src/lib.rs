#![doc = include_str!("ARCHITECTURE.md")]

pub mod gguf;
pub mod index;
pub mod tensor;
pub mod units;
