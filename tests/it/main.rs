//! All integration tests, as one binary.

mod backend;
mod batching;
mod cards;
mod cells;
mod cells_backend;
mod churn;
mod cli;
mod cli_parallel;
mod compare;
mod conformance;
mod cuda;
mod cuda_kernels;
mod deepseek2;
mod devices;
mod diff;
mod engine;
mod f64_model;
mod fit;
mod gemma3;
mod gguf_hostile;
mod gguf_read;
mod gguf_walk;
mod gguf_write;
mod hooked;
mod html;
mod huge;
mod inspect;
mod json_smoke;
mod json_walk;
mod kv;
mod kv_model;
mod kv_windows;
mod layers;
mod machines;
mod matmul;
mod memory;
mod models;
mod oracle;
mod overlap;
mod placements;
mod plan;
mod plan_damage;
mod plan_execute;
mod plan_numbers;
mod plan_partition;
mod plan_random;
mod quant;
mod records;
mod recover;
mod reference;
mod routed;
mod sample;
mod saved;
mod saved_walk;
mod several_devices;
mod shape_file;
mod shift;
mod sim;
mod simd;
mod sweep;
mod text_chat;
mod text_encode;
mod text_hostile;
mod text_utf8;
mod text_vocab;
mod text_vocab_files;
mod together;
mod vulkan;
mod windows;

/// Cases of a property: a multiple of the usual number where the environment asks for a longer search.
fn cases(usual: u32) -> u32 {
    let factor = std::env::var("PROPERTY_FACTOR").ok().and_then(|f| f.parse().ok()).unwrap_or(1u32);
    usual.saturating_mul(factor)
}
