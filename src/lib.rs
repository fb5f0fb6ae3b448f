#![doc = include_str!("ARCHITECTURE.md")]

pub mod units;
pub mod index;
pub mod tensor;
pub mod graph;
pub mod gguf;
pub mod device;
pub mod kv;
pub mod residency;
pub mod plan;
pub mod backend;
pub mod exec;
pub mod models;
