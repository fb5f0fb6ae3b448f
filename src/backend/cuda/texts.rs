//! Every text that kernels are compiled from, with what it is compiled for: what tests compile without a card.

use super::driver::compile;
use super::kernels::{File, Source, options_of, text_of};
use super::product::product_defines;
use crate::graph::CACHE_TYPES;
use crate::tensor::{DType, quant};

/// A text with all that decides what it is compiled to but the architecture.
#[derive(Clone, Debug)]
pub struct KernelText {
    source: Source,
}

impl KernelText {
    /// Its file, and what that is compiled for.
    pub fn name(&self) -> String {
        format!("{}.cu {}", self.source.file.name, self.source.defines.join(" "))
    }

    /// Compiles it for an architecture such as 90, and returns what the compiler says of registers and memory.
    ///
    /// # Errors
    /// There is no compiler, or it refuses the text; in its words.
    pub fn compile(&self, architecture: u32) -> Result<String, String> {
        super::driver::compiler()?;
        let mut options = options_of(&self.source);
        options.push("--ptxas-options=-v".to_owned());
        compile(&text_of(self.source.file), architecture, &options).map(|compiled| compiled.log)
    }
}

/// Elements of a head of keys and of values, and whether these are the first of those.
const HEADS: [(u32, u32, bool); 7] = [
    (64, 64, false),
    (80, 80, false),
    (96, 96, false),
    (128, 128, false),
    (256, 256, false),
    (192, 128, false),
    (576, 512, true),
];

/// Every text for an architecture: all files for all types, and attention over heads of usual sizes.
pub fn kernel_texts(architecture: u32) -> Vec<KernelText> {
    let tensor_cores = architecture >= 80;
    let widest = if tensor_cores { 64 } else { 32 };
    let room = match architecture {
        ..80 => 64 << 10,
        80 => 163 << 10,
        90 | 100 | 103 => 227 << 10,
        _ => 99 << 10,
    };
    let mut all = Vec::new();
    let mut add = |file: File, params: usize, defines: &[String]| {
        all.push(KernelText { source: Source { file, defines: defines.to_vec(), params } });
    };
    add(File::ELEMENTWISE, 48, &[]);
    add(File::GROUPS, 40, &[]);
    add(File::NORM, 72, &[]);
    add(File::ROPE, 104, &[]);
    add(File::ROWS, 64, &[]);
    add(File::MOE, 112, &[]);
    for experts in [1, 2, 4, 5, 8, 12] {
        add(File::MOE, 112, &[format!("LANE_EXPERTS={experts}")]);
    }
    for runs in [1, 8] {
        add(File::ACTS, 72, &[format!("RUNS={runs}")]);
        add(File::NORM, 72, &[format!("RUNS={runs}")]);
    }
    for state in CACHE_TYPES {
        add(File::CACHE, 40, &[format!("STATE={state}")]);
        add(File::CELLS, 56, &[format!("STATE={state}")]);
        add(File::ROPE, 104, &[format!("STATE={state}")]);
        let upper = state.name().to_ascii_uppercase();
        for (keys, values, same) in HEADS.into_iter().filter(|(keys, ..)| keys % state.block().elements == 0) {
            let types = [format!("KEYS={upper}"), format!("VALUES={upper}")];
            let sizes = [format!("KEY_DIM={keys}"), format!("VALUE_DIM={values}"), format!("SAME={}", u32::from(same))];
            add(File::ATTENTION, 96, &[&types[..], &sizes, &[format!("ROOM={room}")]].concat());
        }
    }
    for dtype in DType::ALL.iter().copied().filter(|&dtype| quant::can_decode(dtype)) {
        add(File::ROWS, 64, &[format!("TYPE={dtype}")]);
        for rows in [1, 8] {
            add(File::MATMUL, 120, &product_defines(dtype, "ROWS", rows, tensor_cores));
        }
        for tile in [16, 32, 64].into_iter().filter(|&tile| tile <= widest) {
            add(File::MATMUL_TILES, 120, &product_defines(dtype, "TILE", tile, tensor_cores));
        }
    }
    all
}
