//! Machines as data: memories, devices and what each kind of device can run and needs beside its values.
//! No handles and no measuring: a described machine plans like a real one.

pub mod file;
mod scratch;
mod shipped;
mod support;
mod verify;
mod without;

use serde::{Deserialize, Serialize};

use crate::define_id;
use crate::index::IndexVec;
use crate::units::{Bytes, BytesPerSec, Nanos, OpsPerSec};

pub use file::MachineFileError;
pub(crate) use scratch::{
    ATTENTION_QUERIES, ATTENTION_TILE, AttentionParts, MATMUL_WORKER, ROUTE_FLOATS, acts_bytes, attention_floats,
};
pub use scratch::{Scratch, scratch};
pub use support::{Unsupported, reads_layout, supports};
pub use verify::MachineError;

define_id! {
    /// A device of a machine.
    pub DeviceId("d"),
    /// A memory of a machine.
    pub MemoryId("m"),
    /// A link of a machine.
    pub LinkId("l"),
    /// What several links share.
    pub BusId("u"),
}

/// What drives a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// Checks every span and event, computes nothing.
    Null,
    /// The processor.
    Cpu,
    /// An NVIDIA card.
    Cuda,
    /// A card driven through Vulkan.
    Vulkan,
}

impl BackendKind {
    /// The name that device names start with.
    pub const fn name(self) -> &'static str {
        match self {
            BackendKind::Null => "null",
            BackendKind::Cpu => "cpu",
            BackendKind::Cuda => "cuda",
            BackendKind::Vulkan => "vulkan",
        }
    }

    /// Whether such devices usually are accelerators; [`DeviceSpec::is_accelerator`] says it of one.
    pub const fn is_accelerator(self) -> bool {
        match self {
            BackendKind::Null | BackendKind::Cpu => false,
            BackendKind::Cuda | BackendKind::Vulkan => true,
        }
    }
}

/// A memory with one budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySpec {
    /// Unique name, such as `host` or `cuda:0`.
    pub name: String,
    /// All of it.
    pub total: Bytes,
    /// Bytes that nobody uses before a plan does.
    pub free: Bytes,
    /// Bytes of those that plans must leave alone.
    pub reserve: Bytes,
}

/// Rates that a device attains, not those of its data sheet where the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Reading its memory.
    pub read: BytesPerSec,
    /// Products of quantised weights, in operations (a multiply-add is two).
    pub int8: OpsPerSec,
    /// Products of half-precision weights.
    pub f16: OpsPerSec,
    /// Products of single-precision weights.
    pub f32: OpsPerSec,
    /// What a node costs beside its bytes and operations.
    pub node: Nanos,
    /// What a split costs: its submission, and noticing its end.
    pub split: Nanos,
    /// The share of the shorter of reading and computing that hides behind the longer: 1 where both overlap in full,
    /// 0 where their times add up.
    pub hides: f64,
}

/// Which weight types a device's kernels read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Types {
    /// Those that this crate has kernels for.
    #[default]
    Kernels,
    /// Every type that a model file may hold: a described device, perhaps driven by another engine.
    All,
}

/// A device: what a plan must know to use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Unique name, such as `cpu` or `cuda:0`.
    pub name: String,
    /// What stays the same when devices are listed in another order, such as a bus address; decides all ties.
    pub uid: String,
    /// What drives it.
    pub kind: BackendKind,
    /// The memory it computes from.
    pub memory: MemoryId,
    /// Workers that compute at the same time, each with scratch of its own.
    pub workers: u32,
    /// Alignment of every span in its arena; a power of two.
    pub alignment: u64,
    /// Bytes of its memory that its driver and libraries take once it is in use.
    pub overhead: Bytes,
    /// Weight types it can read.
    pub types: Types,
    /// How fast it is.
    pub rates: Rates,
    /// Whether it copies while it computes; one that does not pays for both.
    pub overlaps: bool,
    /// Whether weights may be streamed to it; where nothing is said, as its kind has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<bool>,
}

impl DeviceSpec {
    /// Whether weights may be streamed to it: it is no processor that computes from host memory, or stands for one that
    /// is not.
    pub fn is_accelerator(&self) -> bool {
        self.accelerator.unwrap_or(self.kind.is_accelerator())
    }
}

/// A path between two memories, in both directions at the same time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// One end.
    pub a: MemoryId,
    /// The other end.
    pub b: MemoryId,
    /// Rate a direction, from pinned memory where an end is the host.
    pub rate: BytesPerSec,
    /// Rate from and to host memory that is not pinned.
    pub pageable: BytesPerSec,
    /// From the request to the first byte.
    pub latency: Nanos,
    /// What it shares with other links.
    pub bus: Option<BusId>,
}

/// How bytes get from one memory to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Its rate.
    pub rate: BytesPerSec,
    /// From the request to the first byte.
    pub latency: Nanos,
}

impl Way {
    /// How long `bytes` take.
    pub fn time(self, bytes: Bytes) -> Nanos {
        self.latency + self.rate.time(bytes)
    }
}

/// What several links share: a switch, a root port, the host's memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bus {
    /// Unique name.
    pub name: String,
    /// What all its links carry together, a direction.
    pub rate: BytesPerSec,
}

/// The hardware that a plan is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its memories.
    pub memories: IndexVec<MemoryId, MemorySpec>,
    /// Its devices.
    pub devices: IndexVec<DeviceId, DeviceSpec>,
    /// Its links; two memories without one exchange bytes through the host.
    pub links: IndexVec<LinkId, Link>,
    /// What links share.
    pub buses: IndexVec<BusId, Bus>,
}

/// Rates of a processor of two cores, until somebody measures the real one.
const MODEST: Rates = Rates {
    read: BytesPerSec(40e9),
    int8: OpsPerSec(600e9),
    f16: OpsPerSec(150e9),
    f32: OpsPerSec(150e9),
    node: Nanos(2_000),
    split: Nanos(5_000),
    hides: 0.5,
};

impl Machine {
    /// One device of `kind` over one host memory.
    pub fn single(kind: BackendKind, workers: u32, budget: Bytes) -> Machine {
        let mut machine = Machine::default();
        machine.push_isolated(kind.name(), kind, workers, budget);
        machine.memories[MemoryId(0)].name = "host".into();
        machine
    }

    /// `count` devices of `kind`, each over a memory of its own with `budget`, linked each to each: they stand for
    /// several cards where there is none.
    pub fn isolated(kind: BackendKind, count: u32, workers: u32, budget: Bytes) -> Machine {
        let mut machine = Machine::default();
        for i in 0..count {
            let name = format!("{}:{i}", kind.name());
            machine.push_isolated(&name, kind, workers, budget);
        }
        machine.link_all();
        machine
    }

    /// These devices, each over a memory of its own that has its name and so many bytes, linked each to each.
    pub fn linked(devices: impl IntoIterator<Item = (DeviceSpec, Bytes)>) -> Machine {
        let mut machine = Machine::default();
        for (spec, budget) in devices {
            let held = MemorySpec { name: spec.name.clone(), total: budget, free: budget, reserve: Bytes::ZERO };
            let memory = machine.memories.push(held);
            machine.devices.push(DeviceSpec { memory, ..spec });
        }
        machine.link_all();
        machine
    }

    fn link_all(&mut self) {
        let ids: Vec<MemoryId> = self.memories.ids().collect();
        for (i, &a) in ids.iter().enumerate() {
            for &b in &ids[i + 1..] {
                let rate = MODEST.read;
                self.links.push(Link { a, b, rate, pageable: rate, latency: MODEST.split, bus: None });
            }
        }
    }

    fn push_isolated(&mut self, name: &str, kind: BackendKind, workers: u32, budget: Bytes) {
        let spec = MemorySpec { name: name.into(), total: budget, free: budget, reserve: Bytes::ZERO };
        let memory = self.memories.push(spec);
        self.devices.push(DeviceSpec {
            name: name.into(),
            uid: name.into(),
            kind,
            memory,
            workers,
            alignment: 64,
            overhead: Bytes::ZERO,
            types: Types::Kernels,
            rates: MODEST,
            overlaps: false,
            accelerator: None,
        });
    }

    /// What plans may use of `memory`: the free bytes less the reserve and what drivers take.
    pub fn budget(&self, memory: MemoryId) -> Bytes {
        let spec = &self.memories[memory];
        let taken = |d: &&DeviceSpec| d.memory == memory;
        let overhead: u64 = self.devices.iter().filter(taken).map(|d| d.overhead.0).fold(0, u64::saturating_add);
        Bytes(spec.free.0.saturating_sub(spec.reserve.0).saturating_sub(overhead))
    }

    /// The device that runs what lives in `memory` and need not move: a processor before an accelerator that shares
    /// its memory, then the first.
    pub fn device_of(&self, memory: MemoryId) -> Option<DeviceId> {
        let here = || self.devices.iter_ids().filter(move |(_, d)| d.memory == memory);
        here().find(|(_, d)| !d.is_accelerator()).or_else(|| here().next()).map(|(id, _)| id)
    }

    /// Whether `memory` is a processor's: weights there may be streamed to accelerators.
    pub fn is_host(&self, memory: MemoryId) -> bool {
        self.devices.iter().any(|d| d.memory == memory && !d.is_accelerator())
    }

    /// The way between two memories: their link, or through the host memory that makes it fastest.
    pub fn way(&self, a: MemoryId, b: MemoryId) -> Option<Way> {
        let (first, second) = self.legs(a, b)?;
        let first = &self.links[first];
        let Some(second) = second.map(|second| &self.links[second]) else {
            return Some(Way { rate: first.rate, latency: first.latency });
        };
        Some(Way { rate: in_turn(first.rate, second.rate), latency: first.latency + second.latency })
    }

    /// The links of that way, in the order in which bytes take them.
    pub fn legs(&self, a: MemoryId, b: MemoryId) -> Option<(LinkId, Option<LinkId>)> {
        if a == b {
            return None;
        }
        if let Some(direct) = self.link_id(a, b) {
            return Some((direct, None));
        }
        let hosts = self.memories.ids().filter(|&m| self.is_host(m));
        let pairs = hosts.filter_map(|host| Some((self.link_id(a, host)?, self.link_id(host, b)?)));
        let rate = |&(first, second): &(LinkId, LinkId)| in_turn(self.links[first].rate, self.links[second].rate).0;
        let fastest = pairs.max_by(|x, y| rate(x).total_cmp(&rate(y)))?;
        Some((fastest.0, Some(fastest.1)))
    }

    /// The link between two memories.
    pub fn link(&self, a: MemoryId, b: MemoryId) -> Option<&Link> {
        self.link_id(a, b).map(|id| &self.links[id])
    }

    fn link_id(&self, a: MemoryId, b: MemoryId) -> Option<LinkId> {
        let joins = |l: &Link| (l.a, l.b) == (a, b) || (l.a, l.b) == (b, a);
        self.links.iter_ids().find(|(_, l)| joins(l)).map(|(id, _)| id)
    }
}

/// The rate of two copies that follow each other.
fn in_turn(first: BytesPerSec, second: BytesPerSec) -> BytesPerSec {
    BytesPerSec(1.0 / (1.0 / first.0 + 1.0 / second.0))
}
