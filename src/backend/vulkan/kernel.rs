//! The texts of kernels, put together for a type or two, and compiled.

use super::gpu::Gpu;
use super::heaps;
use crate::tensor::DType;

macro_rules! shader {
    ($name:literal) => {
        include_str!(concat!("../../../shaders/wgsl/", $name, ".wgsl"))
    };
}

/// A file of kernels: an op family, or the work between steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// Rows by index.
    Rows,
    /// Norms.
    Norm,
    /// Values as signed bytes.
    Acts,
    /// Slots by the experts that they chose.
    Groups,
    /// Products with weights for few rows, those of experts too.
    MatMul,
    /// Products with weights for many rows.
    Tiles,
    /// Rotations.
    Rope,
    /// Writes into caches.
    Cache,
    /// Attention.
    Attention,
    /// Ops on elements.
    Elementwise,
    /// Routing and weighted sums.
    Moe,
    /// Cells between steps.
    Cells,
}

/// How a kernel touches what is bound; all that lies in an arena is bound for writing, as buffers have one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads.
    Read,
    /// Reads and writes.
    Write,
}

use Access::{Read, Write};

impl File {
    fn text(self) -> &'static str {
        match self {
            File::Rows => shader!("rows"),
            File::Norm => shader!("norm"),
            File::Acts => shader!("acts"),
            File::Groups => shader!("groups"),
            File::MatMul => shader!("matmul_rows"),
            File::Tiles => shader!("matmul_tiles"),
            File::Rope => shader!("rope"),
            File::Cache => shader!("cache"),
            File::Attention => shader!("attention"),
            File::Elementwise => shader!("elementwise"),
            File::Moe => shader!("moe"),
            File::Cells => shader!("cells"),
        }
    }

    /// What is bound behind the parameters, in order.
    pub fn bindings(self) -> &'static [Access] {
        match self {
            File::Rows => &[Read, Write, Write, Write],
            File::Norm => &[Read, Write, Write],
            File::Acts | File::Groups => &[Write, Write],
            File::MatMul | File::Tiles => &[Read, Read, Write, Write, Write, Write],
            File::Rope => &[Read, Read, Write, Write, Write],
            File::Cache => &[Write, Write],
            File::Attention => &[Write, Write, Write, Write, Write],
            File::Elementwise => &[Write, Write, Write],
            File::Moe => &[Read, Write, Write, Write, Write, Write, Write],
            File::Cells => &[Write, Read, Read, Write],
        }
    }

    /// What stands before its own text, where products read values in some form.
    fn shared(self, values: Values) -> &'static [&'static str] {
        match (self, values) {
            (File::Cache | File::Cells, _) => &[shader!("store")],
            (File::MatMul, Values::Ones) => &[shader!("matmul_x1"), shader!("matmul_f32"), shader!("matmul")],
            (File::MatMul, Values::Fours) => &[shader!("matmul_x4"), shader!("matmul_f32"), shader!("matmul")],
            (File::MatMul, Values::Codes) => &[shader!("matmul_i8"), shader!("matmul")],
            (File::Tiles, Values::Ones) => {
                &[shader!("matmul_x1"), shader!("matmul_f32"), shader!("matmul"), shader!("tile_f32")]
            }
            (File::Tiles, Values::Fours) => {
                &[shader!("matmul_x4"), shader!("matmul_f32"), shader!("matmul"), shader!("tile_f32")]
            }
            (File::Tiles, Values::Codes) => &[shader!("matmul_i8"), shader!("matmul"), shader!("tile_i8")],
            (
                File::Rows
                | File::Norm
                | File::Acts
                | File::Groups
                | File::Rope
                | File::Attention
                | File::Elementwise
                | File::Moe,
                _,
            ) => &[],
        }
    }
}

/// In which form products read values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// Number by number.
    Ones,
    /// By fours.
    Fours,
    /// As signed bytes.
    Codes,
}

/// A binding that rows of a type are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    binding: &'static str,
    dtype: DType,
    /// Whether every word of codes begins at a multiple of four bytes.
    whole: bool,
}

/// All that decides what a kernel is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Its file.
    pub file: File,
    /// Its entry point.
    pub entry: &'static str,
    /// Bindings that rows of a type are read from.
    pub read: Vec<Rows>,
    /// The type that it writes rows of a cache in.
    pub store: Option<DType>,
    /// Constants.
    pub constants: Vec<(&'static str, u32)>,
    /// How what is multiplied is read.
    pub values: Values,
}

impl Source {
    /// A kernel that knows single precision only.
    pub fn plain(file: File, entry: &'static str) -> Source {
        Source { file, entry, read: Vec::new(), store: None, constants: Vec::new(), values: Values::Ones }
    }

    /// The same for a binding of some type, whose rows begin at any even byte.
    pub fn reading(mut self, binding: &'static str, dtype: DType) -> Source {
        self.read.push(Rows { binding, dtype, whole: false });
        self
    }

    /// The same for rows that all begin at a multiple of four bytes.
    pub fn reading_whole(mut self, binding: &'static str, dtype: DType) -> Source {
        // Codes of other blocks lie two bytes off.
        let block = dtype.block();
        let whole = block.elements == 1 || block.bytes.is_multiple_of(4);
        self.read.push(Rows { binding, dtype, whole });
        self
    }

    /// The same with a constant.
    pub fn with(mut self, name: &'static str, value: u32) -> Source {
        self.constants.push((name, value));
        self
    }

    fn text(&self, gpu: &Gpu) -> String {
        let mut text = format!("const LANES: u32 = {}u;\n", gpu.lanes);
        for (name, value) in &self.constants {
            text += &format!("const {name}: u32 = {value}u;\n");
        }
        text += shader!("team");
        text += if gpu.caps.subgroups { shader!("team_subgroup") } else { shader!("team_shared") };
        text += shader!("bits");
        for &Rows { binding, dtype, whole } in &self.read {
            text += &shader!("types/read").replace("DATA", binding).replace("WHOLE", &whole.to_string());
            match (self.values, codes(dtype)) {
                (Values::Codes, Some(codes)) => text += &codes.text(),
                (Values::Ones | Values::Fours | Values::Codes, _) => {
                    text += &reader(dtype).unwrap_or_default().replace("DATA", binding);
                }
            }
        }
        self.file.shared(self.values).iter().for_each(|shared| text += shared);
        let store = self.store.unwrap_or(DType::F32);
        text += &self.file.text().replace("STORE", &format!("store_{}", store.name()));
        // Where the team is a subgroup, its members are numbered as that numbers them.
        let lane = if gpu.caps.subgroups { "subgroup_invocation_id" } else { "local_invocation_index" };
        text.replace("local_invocation_index) lane", &format!("{lane}) lane"))
    }
}

/// How rows of a type are read.
fn reader(dtype: DType) -> Option<&'static str> {
    use DType::*;
    Some(match dtype {
        F32 => shader!("types/f32"),
        F16 => shader!("types/f16"),
        Bf16 => shader!("types/bf16"),
        Q4_0 => shader!("types/q4_0"),
        Q4_1 => shader!("types/q4_1"),
        Q5_0 => shader!("types/q5_0"),
        Q5_1 => shader!("types/q5_1"),
        Q8_0 => shader!("types/q8_0"),
        Q2K => shader!("types/q2_k"),
        Q3K => shader!("types/q3_k"),
        Q4K => shader!("types/q4_k"),
        Q5K => shader!("types/q5_k"),
        Q6K => shader!("types/q6_k"),
        Iq4Nl => shader!("types/iq4_nl"),
        Iq4Xs => shader!("types/iq4_xs"),
        Mxfp4 => shader!("types/mxfp4"),
        Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0
        | Tq2_0 | Nvfp4 | Q1_0 => return None,
    })
}

/// How runs of a type are signed bytes under scales.
#[derive(Clone, Copy)]
struct Codes {
    texts: &'static [&'static str],
    /// Whether each half of a run has a scale of its own.
    halves: bool,
    /// Whether there are minima.
    minima: bool,
}

impl Codes {
    fn text(self) -> String {
        let texts = [shader!("codes/read")].into_iter().chain(self.texts.iter().copied());
        let consts = format!("const HALVES: bool = {};\nconst MINIMA: bool = {};\n", self.halves, self.minima);
        texts.fold(consts, |all, text| all + text)
    }
}

fn codes(dtype: DType) -> Option<Codes> {
    use DType::*;
    let (texts, halves, minima): (&[&str], bool, bool) = match dtype {
        Q4_0 => (&[shader!("codes/q4_0")], false, false),
        Q4_1 => (&[shader!("codes/q4_1")], false, true),
        Q5_0 => (&[shader!("codes/q5_0")], false, false),
        Q5_1 => (&[shader!("codes/q5_1")], false, true),
        Q8_0 => (&[shader!("codes/q8_0")], false, false),
        Q4K => (&[shader!("codes/k_scales"), shader!("codes/q4_k")], false, true),
        Q5K => (&[shader!("codes/k_scales"), shader!("codes/q5_k")], false, true),
        Q6K => (&[shader!("codes/q6_k")], true, false),
        F32 | F16 | Bf16 | Q2K | Q3K | Iq4Nl | Iq4Xs | Mxfp4 | Q8_1 | Q8K | Iq2Xxs | Iq2Xs | Iq3Xxs | Iq1S | Iq3S
        | Iq2S | I8 | I16 | I32 | I64 | F64 | Iq1M | Tq1_0 | Tq2_0 | Nvfp4 | Q1_0 => return None,
    };
    Some(Codes { texts, halves, minima })
}

/// Whether products with the type multiply bytes, on devices that do so.
pub fn multiplies_codes(dtype: DType) -> bool {
    codes(dtype).is_some()
}

/// Whether kernels read rows of the type.
pub fn can_read(dtype: DType) -> bool {
    reader(dtype).is_some()
}

/// A compiled kernel.
pub struct Kernel {
    /// What runs.
    pub pipeline: wgpu::ComputePipeline,
    /// What is bound for each dispatch.
    pub operands: wgpu::BindGroupLayout,
    /// The arguments of a step.
    pub arguments: wgpu::BindGroupLayout,
}

impl Kernel {
    /// Compiles, or takes what an earlier run did.
    pub fn made(gpu: &Gpu, source: &Source) -> Result<Kernel, String> {
        let text = source.text(gpu);
        let Some(kept) = &gpu.kept else { return gpu.guarded(|| Kernel::compile(gpu, source, text, None)) };
        let found = kept.find(&text);
        let cache = gpu.guarded(|| heaps::pipeline_cache(&gpu.device, found.as_deref())).ok();
        let kernel = gpu.guarded(|| Kernel::compile(gpu, source, text.clone(), cache.as_ref()))?;
        let made = cache.filter(|_| found.is_none()).and_then(|cache| cache.get_data());
        made.into_iter().for_each(|data| kept.keep(&text, &data));
        Ok(kernel)
    }

    /// Compiles; errors go to the device's scope.
    fn compile(gpu: &Gpu, source: &Source, text: String, cache: Option<&wgpu::PipelineCache>) -> Kernel {
        let device = &gpu.device;
        let text = wgpu::ShaderSource::Wgsl(text.into());
        let label = Some(source.entry);
        let module = heaps::module(device, wgpu::ShaderModuleDescriptor { label, source: text });
        let uniform = entry(0, wgpu::BufferBindingType::Uniform);
        let storage = |access: &Access| wgpu::BufferBindingType::Storage { read_only: *access == Access::Read };
        let bound = (1..).zip(source.file.bindings()).map(|(i, access)| entry(i, storage(access)));
        let entries: Vec<wgpu::BindGroupLayoutEntry> = [uniform].into_iter().chain(bound).collect();
        let operands = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let entries = [entry(0, wgpu::BufferBindingType::Storage { read_only: true })];
        let arguments = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&operands), Some(&arguments)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&layout),
            module: &module,
            entry_point: Some(source.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache,
        });
        Kernel { pipeline, operands, arguments }
    }
}

fn entry(binding: u32, ty: wgpu::BufferBindingType) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
