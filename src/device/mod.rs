//! Machines as data: memories, devices and what each kind of device can run and needs beside its values.
//! No handles and no measuring: a described machine plans like a real one.

mod scratch;
mod support;

use serde::{Deserialize, Serialize};

use crate::define_id;
use crate::index::IndexVec;
use crate::units::Bytes;

pub(crate) use scratch::{ATTENTION_QUERIES, ATTENTION_TILE, MATMUL_WORKER, attention_floats};
pub use scratch::{Scratch, scratch};
pub use support::{Unsupported, supports};

define_id! {
    /// A device of a machine.
    pub DeviceId("d"),
    /// A memory of a machine.
    pub MemoryId("m"),
}

/// What drives a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// Checks every span and event, computes nothing.
    Null,
    /// The processor.
    Cpu,
}

impl BackendKind {
    /// The name that device names start with.
    pub const fn name(self) -> &'static str {
        match self {
            BackendKind::Null => "null",
            BackendKind::Cpu => "cpu",
        }
    }
}

/// A memory with one budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySpec {
    /// Unique name, such as `host`.
    pub name: String,
    /// Bytes that plans may use.
    pub budget: Bytes,
}

/// A device: what a plan must know to use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Unique name, such as `cpu`.
    pub name: String,
    /// What drives it.
    pub kind: BackendKind,
    /// The memory it computes from.
    pub memory: MemoryId,
    /// Workers that compute at the same time, each with scratch of its own.
    pub workers: u32,
    /// Alignment of every span in its arena; a power of two.
    pub alignment: u64,
}

/// The hardware that a plan is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its memories.
    pub memories: IndexVec<MemoryId, MemorySpec>,
    /// Its devices.
    pub devices: IndexVec<DeviceId, DeviceSpec>,
}

impl Machine {
    /// One device of `kind` over one host memory.
    pub fn single(kind: BackendKind, workers: u32, budget: Bytes) -> Machine {
        let mut machine = Machine::default();
        let memory = machine.memories.push(MemorySpec { name: "host".into(), budget });
        machine.devices.push(DeviceSpec { name: kind.name().into(), kind, memory, workers, alignment: 64 });
        machine
    }

    /// The first device that computes from `memory`.
    pub fn device_of(&self, memory: MemoryId) -> Option<DeviceId> {
        self.devices.iter_ids().find(|(_, d)| d.memory == memory).map(|(id, _)| id)
    }
}
