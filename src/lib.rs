#![doc = include_str!("ARCHITECTURE.md")]

pub mod backend;
pub mod index;
pub mod tensor;
pub mod units;
