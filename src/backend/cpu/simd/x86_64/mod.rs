//! The sixteen lanes in the vector instructions of x86-64.

pub mod avx2;
pub mod avx512;
