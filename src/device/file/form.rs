//! What a machine file may say, field by field; no more than its syntax is checked here.

use serde::{Deserialize, Serialize, Serializer};

use crate::device::{BackendKind, Types};

/// A decimal; written without a fraction where it has none.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// Every whole number up to here is exact.
        const EXACT: f64 = (1u64 << 53) as f64;
        let Number(n) = *self;
        if n.fract() == 0.0 && (0.0..=EXACT).contains(&n) {
            serializer.serialize_u64(n as u64)
        } else {
            serializer.serialize_f64(n)
        }
    }
}

/// A machine file. Names have 1 to 64 visible ASCII characters, and no two memories, devices or buses the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineFile {
    /// The version of the form: 1.
    pub version: u32,
    /// What this machine is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// At least one, at most 256.
    pub memories: Vec<MemoryEntry>,
    /// At least one, at most 256.
    pub devices: Vec<DeviceEntry>,
    /// At most one between two memories. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkEntry>,
    /// At most 4096. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buses: Vec<BusEntry>,
}

/// A memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryEntry {
    /// Its name, such as `host` or `cuda:0`.
    pub name: String,
    /// All of it, in MiB: more than 0; all memories together have less than 2^63 bytes.
    pub total_mib: Number,
    /// What nobody uses before a plan does, in MiB, at most the total. Default: the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_mib: Option<Number>,
    /// What plans must leave alone, in MiB, at most the total. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_mib: Option<Number>,
    /// Where the numbers come from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEntry {
    /// Its name, such as `cpu` or `cuda:0`.
    pub name: String,
    /// What stays the same when devices are listed in another order; no two devices share one. Default: the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// `null`, `cpu`, `cuda` or `vulkan`.
    pub kind: BackendKind,
    /// The name of the memory it computes from.
    pub memory: String,
    /// Workers that compute at the same time, 1 to 65536. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Alignment of spans in its arena, a power of two up to 2^30. Default: 64, for accelerators 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<u64>,
    /// What driver and libraries take of its memory once it is in use, in MiB, at most that memory's total. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead_mib: Option<Number>,
    /// Weight types it reads: `kernels` (those this program has kernels for) or `all`. Default: `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub types: Option<Types>,
    /// Whether it copies while it computes. Default: for accelerators true, else false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlaps: Option<bool>,
    /// Whether weights may be streamed to it; missing, its kind decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<bool>,
    /// How fast it is.
    pub rates: RatesEntry,
}

/// Rates that a device attains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesEntry {
    /// Reading its memory, in 10^9 bytes a second: 0.000001 to 1000000.
    pub read_gb_s: Number,
    /// Products of quantised weights, in 10^12 operations a second, a multiply-add being two: 0.000001 to 1000000.
    pub int8_tops: Number,
    /// Products of half-precision weights, likewise.
    pub f16_tops: Number,
    /// Products of single-precision weights, likewise.
    pub f32_tops: Number,
    /// What a node costs beside bytes and operations, in microseconds: 0 to 10^9. Default: 2, for accelerators 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_us: Option<Number>,
    /// What a split costs, in microseconds: 0 to 10^9. Default: 5, for accelerators 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_us: Option<Number>,
    /// The share of the shorter of reading and computing that hides behind the longer: 0 to 1. Default: 0.5, for
    /// accelerators 0.8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hides: Option<Number>,
    /// Where the rates come from, and what share of a data sheet's they are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// A path between two memories, in both directions at the same time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkEntry {
    /// The name of the memory at one end.
    pub a: String,
    /// The name of another memory.
    pub b: String,
    /// Rate a direction, in 10^9 bytes a second: 0.000001 to 1000000. Needed, unless `rate_gib_s` is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_gb_s: Option<Number>,
    /// The same in 2^30 bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_gib_s: Option<Number>,
    /// Rate from and to host memory that is not pinned, in 10^9 bytes a second. Default: the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pageable_gb_s: Option<Number>,
    /// The same in 2^30 bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pageable_gib_s: Option<Number>,
    /// From the request to the first byte, in microseconds: 0 to 10^9. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Number>,
    /// The name of the bus that it shares with other links. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Where the rate comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// What several links share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusEntry {
    /// Its name.
    pub name: String,
    /// What all its links carry together, a direction, in 10^9 bytes a second. Needed, unless `rate_gib_s` is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_gb_s: Option<Number>,
    /// The same in 2^30 bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_gib_s: Option<Number>,
    /// Where the rate comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}
