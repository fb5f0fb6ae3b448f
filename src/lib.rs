#![doc = include_str!("ARCHITECTURE.md")]

pub mod backend;
pub mod device;
pub mod engine;
pub mod exec;
pub mod gguf;
pub mod graph;
pub mod index;
pub mod kv;
pub mod models;
pub mod plan;
pub mod residency;
pub mod sample;
pub mod tensor;
pub mod text;
pub mod units;
