//! The CPU backend: kernels on one thread pool, with the instruction set chosen at run time.

pub mod simd;
