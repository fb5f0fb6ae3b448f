//! The Vulkan adapters of this machine, as a plan's devices.

use super::{gpu, heaps};
use crate::device::{BackendKind, DeviceSpec, MemoryId, Rates, Types};
use crate::units::{Bytes, BytesPerSec, Nanos, OpsPerSec};

/// What is known of an adapter before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFacts {
    /// What devices are named by: `vulkan:0` and so on.
    pub device: String,
    /// As its driver says.
    pub name: String,
    /// The driver, with its version.
    pub driver: String,
    /// Its place on the bus, if it has one.
    pub bus: String,
    /// Whether it computes on the processor.
    pub software: bool,
    /// Whether its memory is the host's.
    pub shared: bool,
    /// The memory that it computes from, used by others or not.
    pub memory: Option<Bytes>,
    /// What is free of that now, if the driver tells.
    pub free: Option<Bytes>,
    /// What kernels may use there beside what all have, by name.
    pub features: Vec<&'static str>,
    /// Invocations of a subgroup, from and to.
    pub subgroup: (u32, u32),
    /// The most bytes of a buffer, and of the part of one that a kernel sees.
    pub buffer: Bytes,
    /// Of that part.
    pub binding: Bytes,
}

/// All of them; none where there is no driver or no loader.
pub fn adapters() -> Vec<AdapterFacts> {
    let facts = |(i, adapter): (usize, wgpu::Adapter)| {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let own = heaps::own_memory(&adapter);
        AdapterFacts {
            device: format!("{}:{i}", BackendKind::Vulkan.name()),
            name: info.name,
            driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
            memory: own.map(|own| own.all),
            free: own.and_then(|own| own.free),
            shared: matches!(info.device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu),
            bus: info.device_pci_bus_id,
            features: features(&adapter),
            software: info.device_type == wgpu::DeviceType::Cpu,
            subgroup: (info.subgroup_min_size, info.subgroup_max_size),
            buffer: Bytes(limits.max_buffer_size),
            binding: Bytes(limits.max_storage_buffer_binding_size),
        }
    };
    gpu::adapters().into_iter().enumerate().map(facts).collect()
}

/// The features that decide how fast kernels could be.
fn features(adapter: &wgpu::Adapter) -> Vec<&'static str> {
    let has = adapter.features();
    let bytes = heaps::multiplies_bytes(adapter).then_some("products of bytes");
    let named = [
        ("subgroups", wgpu::Features::SUBGROUP),
        ("f16", wgpu::Features::SHADER_F16),
        ("timestamps", wgpu::Features::TIMESTAMP_QUERY),
        ("pipeline cache", wgpu::Features::PIPELINE_CACHE),
    ];
    named.into_iter().filter(|(_, feature)| has.contains(*feature)).map(|(name, _)| name).chain(bytes).collect()
}

/// Rates of a small card, until somebody measures the real one.
const MODEST: Rates = Rates {
    read: BytesPerSec(100e9),
    int8: OpsPerSec(2e12),
    f16: OpsPerSec(2e12),
    f32: OpsPerSec(2e12),
    node: Nanos(10_000),
    split: Nanos(100_000),
    hides: 0.5,
};

/// Rates of a driver that computes on the processor: less than the processor's own kernels, whatever it is.
const SOFTWARE: Rates = Rates {
    read: BytesPerSec(2e9),
    int8: OpsPerSec(2e9),
    f16: OpsPerSec(2e9),
    f32: OpsPerSec(2e9),
    node: Nanos(30_000),
    split: Nanos(200_000),
    hides: 0.0,
};

/// What a driver of hardware takes for itself: its context, staging, arguments. An estimate.
const CONTEXT: Bytes = Bytes(384 << 20);

impl AdapterFacts {
    /// What may be taken of its memory where nobody says, if it says how much there is; `share` is what it may have of
    /// the host's.
    pub fn room(&self, share: Bytes) -> Option<Bytes> {
        match self.shared {
            true => Some(self.free.or(self.memory).map_or(share, |room| share.min(room))),
            // Where the driver does not tell what others use of a card's own memory, a sixteenth is left to them.
            false => self.free.or_else(|| self.memory.map(|all| Bytes(all.0 - all.0 / 16))),
        }
    }

    /// The device that it is for plans, over a memory of its own; `threads` load its weights.
    pub fn spec(&self, memory: MemoryId, threads: u32) -> DeviceSpec {
        let uid = if self.bus.is_empty() { &self.device } else { &self.bus };
        DeviceSpec {
            name: self.device.clone(),
            uid: uid.clone(),
            kind: BackendKind::Vulkan,
            memory,
            workers: threads,
            alignment: 256,
            overhead: if self.software { Bytes::ZERO } else { CONTEXT },
            types: Types::Kernels,
            rates: if self.software { SOFTWARE } else { MODEST },
            overlaps: false,
            accelerator: None,
        }
    }
}
