//! What wgpu leaves to its callers to vouch for: how much memory of its own an adapter has and what of it is free,
//! asked of the driver itself, what it multiplies fast, kernels whose loops are not counted a second time, and kernels that were compiled before.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::ptr;

use crate::units::Bytes;

/// The bit of a heap that is the device's own (`VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`).
const DEVICE_LOCAL: u32 = 1;

/// Memory of an adapter's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnMemory {
    /// All of it.
    pub all: Bytes,
    /// What this process could still have of it, if the driver tells what others use.
    pub free: Option<Bytes>,
}

/// The largest heap of an adapter's own, if it has one: others may be windows into it.
pub fn own_memory(adapter: &wgpu::Adapter) -> Option<OwnMemory> {
    // SAFETY: the guard lives to the end of this function, and nothing that it leads to is destroyed or changed here.
    let raw = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = raw.shared_instance().raw_instance();
    // SAFETY: the physical device is of this instance, and both live as long as the adapter.
    let memory = unsafe { instance.get_physical_device_memory_properties(raw.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize).enumerate();
    let own = heaps.filter(|(_, heap)| heap.flags.as_raw() & DEVICE_LOCAL != 0 && heap.size > 0);
    let (index, heap) = own.max_by_key(|(_, heap)| heap.size)?;
    let free = budget(&raw).map(|found| Bytes(found.budget[index].saturating_sub(found.usage[index]).min(heap.size)));
    Some(OwnMemory { all: Bytes(heap.size), free })
}

/// `VkPhysicalDeviceMemoryBudgetPropertiesEXT`, an entry a heap.
#[repr(C)]
struct Budget {
    kind: u32,
    next: *mut c_void,
    /// What this process may have in all.
    budget: [u64; 16],
    /// What it has.
    usage: [u64; 16],
}

/// Its `VkStructureType`, and the extension that it comes with.
const BUDGET: (u32, &CStr) = (1_000_237_000, c"VK_EXT_memory_budget");

fn budget(raw: &wgpu::hal::vulkan::Adapter) -> Option<Budget> {
    let (kind, extension) = BUDGET;
    let instance = raw.shared_instance();
    if instance.instance_api_version() < version(1) || !raw.physical_device_capabilities().supports_extension(extension)
    {
        return None;
    }
    let mut known = Default::default();
    // SAFETY: the physical device is of this instance, which has Vulkan 1.1, and both live as long as the adapter.
    unsafe { instance.raw_instance().get_physical_device_memory_properties2(raw.raw_physical_device(), &mut known) };
    let mut found = Budget { kind, next: ptr::null_mut(), budget: [0; 16], usage: [0; 16] };
    known.p_next = ptr::from_mut(&mut found).cast();
    // SAFETY: as above; what is chained has the type and the length that a driver with this extension fills for its number,
    // and lives until the call returns.
    unsafe { instance.raw_instance().get_physical_device_memory_properties2(raw.raw_physical_device(), &mut known) };
    Some(found)
}

/// `VkPhysicalDeviceShaderIntegerDotProductProperties` (Vulkan 1.3).
#[repr(C)]
struct ByteProducts {
    kind: u32,
    next: *mut c_void,
    /// The fifth says whether sums of four products of packed signed bytes are.
    accelerated: [u32; 30],
}

/// Its `VkStructureType`.
const BYTE_PRODUCTS: u32 = 1_000_280_001;

/// A version of Vulkan, as drivers number them.
const fn version(minor: u32) -> u32 {
    1 << 22 | minor << 12
}

/// Whether the adapter has instructions for sums of four products of signed bytes.
pub fn multiplies_bytes(adapter: &wgpu::Adapter) -> bool {
    // SAFETY: the guard lives to the end of this function, and nothing that it leads to is destroyed or changed here.
    let Some(raw) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else { return false };
    let instance = raw.shared_instance();
    if instance.instance_api_version() < version(1) {
        return false;
    }
    let mut known = Default::default();
    // SAFETY: the physical device is of this instance, which has Vulkan 1.1, and both live as long as the adapter.
    unsafe { instance.raw_instance().get_physical_device_properties2(raw.raw_physical_device(), &mut known) };
    if known.properties.api_version < version(3) {
        return false;
    }
    let mut dots = ByteProducts { kind: BYTE_PRODUCTS, next: ptr::null_mut(), accelerated: [0; 30] };
    known.p_next = ptr::from_mut(&mut dots).cast();
    // SAFETY: as above; what is chained has the type and the length that a driver of Vulkan 1.3 fills for its number, and
    // lives until the call returns.
    unsafe { instance.raw_instance().get_physical_device_properties2(raw.raw_physical_device(), &mut known) };
    dots.accelerated[4] != 0
}

/// Kernels of this text. Their loops are not counted at run time, which keeps drivers from unrolling them; indices are
/// checked as in any other module.
pub fn module(device: &wgpu::Device, text: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
    // SAFETY: all texts are this program's own, and all their loops are `for` loops that count up to a constant, a
    // parameter or an argument of the step by steps that stay below 2^30 past it, as all that they count fits a binding.
    unsafe { device.create_shader_module_trusted(text, checks) }
}

/// What pipelines are compiled from and into: with what was kept of an earlier run, if the driver takes that.
pub fn pipeline_cache(device: &wgpu::Device, kept: Option<&[u8]>) -> wgpu::PipelineCache {
    let cache = wgpu::PipelineCacheDescriptor { label: None, data: kept, fallback: true };
    // SAFETY: what is kept was given by such a cache of the same adapter and driver; `kept` sums it, and wgpu compares what
    // stands at its head.
    unsafe { device.create_pipeline_cache(&cache) }
}
