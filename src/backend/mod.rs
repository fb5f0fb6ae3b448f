//! What runs a split: one module a kind of device.

pub mod cpu;
