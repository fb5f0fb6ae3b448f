#![doc = include_str!("ARCHITECTURE.md")]

pub mod index;
pub mod tensor;
pub mod units;
pub mod graph;
