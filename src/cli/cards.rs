//! Devices as commands name them, and the cards of this machine among them. A driver is asked only where a card of its kind
//! is named.

use std::fmt;

use super::Usage;
use crate::backend::cuda::{self, CardFacts};
use crate::backend::vulkan::{self, AdapterFacts};
use crate::bench::Adapter;
use crate::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use crate::units::Bytes;

/// A device that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceName {
    /// The processor, over a part of its memory.
    Cpu,
    /// An NVIDIA card, by its number.
    Cuda(usize),
    /// A Vulkan adapter, by its number.
    Vulkan(usize),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind().name();
        match self {
            DeviceName::Cpu => f.write_str(kind),
            DeviceName::Cuda(index) | DeviceName::Vulkan(index) => write!(f, "{kind}:{index}"),
        }
    }
}

impl DeviceName {
    /// What drives it.
    pub fn kind(self) -> BackendKind {
        match self {
            DeviceName::Cpu => BackendKind::Cpu,
            DeviceName::Cuda(_) => BackendKind::Cuda,
            DeviceName::Vulkan(_) => BackendKind::Vulkan,
        }
    }

    /// A name; a card's without a number is the first.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<DeviceName, String> {
        let (kind, number) = text.split_once(':').unwrap_or((text, "0"));
        let named = match (kind, number.parse()) {
            ("cpu", _) if kind == text => Some(DeviceName::Cpu),
            ("cuda", Ok(number)) => Some(DeviceName::Cuda(number)),
            ("vulkan", Ok(number)) => Some(DeviceName::Vulkan(number)),
            _ => None,
        };
        named.ok_or_else(|| "possible values: cpu, cuda:0, vulkan:0, vulkan:1 and so on".to_owned())
    }
}

/// The cards that drivers have.
pub(super) struct Cards {
    /// Or why there are none.
    cuda: Result<Vec<CardFacts>, String>,
    vulkan: Vec<AdapterFacts>,
}

/// What is said of a card.
pub(super) struct About<'a> {
    /// As its driver says.
    pub name: &'a str,
    /// The driver, with its version.
    pub driver: &'a str,
    /// Whether it computes on the processor.
    pub software: bool,
}

impl Cards {
    /// Those of the kinds that are named.
    pub fn of(devices: &[DeviceName]) -> Cards {
        let named = |kind| devices.iter().any(|device| device.kind() == kind);
        Cards {
            cuda: if named(BackendKind::Cuda) { cuda::cards() } else { Ok(Vec::new()) },
            vulkan: if named(BackendKind::Vulkan) { vulkan::adapters() } else { Vec::new() },
        }
    }

    /// All of them, for records.
    pub fn adapters(&self) -> Vec<Adapter> {
        let cuda = self.cuda.iter().flatten().map(|facts| (&facts.device, &facts.name, &facts.driver));
        let vulkan = self.vulkan.iter().map(|facts| (&facts.device, &facts.name, &facts.driver));
        let of = |(device, name, driver): (&String, &String, &String)| Adapter {
            device: device.clone(),
            name: name.clone(),
            driver: driver.clone(),
        };
        cuda.chain(vulkan).map(of).collect()
    }

    /// What is said of a card that is there.
    pub fn about(&self, device: DeviceName) -> Option<About<'_>> {
        match device {
            DeviceName::Cpu => None,
            DeviceName::Cuda(index) => {
                let found = self.cuda.as_ref().ok()?.get(index);
                found.map(|CardFacts { name, driver, .. }| About { name, driver, software: false })
            }
            DeviceName::Vulkan(index) => {
                let found = self.vulkan.get(index);
                found.map(|AdapterFacts { name, driver, software, .. }| About { name, driver, software: *software })
            }
        }
    }

    /// The device that a name stands for, with what it may take: what was `given`, or what it has, at most its `share` where
    /// that is the host's.
    ///
    /// # Errors
    /// There is no such card, it cannot be driven, or it does not say how much memory it has.
    pub fn device(
        &self,
        device: DeviceName,
        threads: u32,
        (given, share): (Option<Bytes>, Bytes),
    ) -> Result<(DeviceSpec, Bytes), Usage> {
        let missing = |count: usize, none: &str| {
            let why = match count {
                0 => none.to_owned(),
                n => format!("this machine has {kind}:0 to {kind}:{last}", kind = device.kind().name(), last = n - 1),
            };
            Usage(format!("--devices names {device}: {why}"))
        };
        match device {
            DeviceName::Cpu => Ok((processor(threads), given.unwrap_or(share))),
            DeviceName::Cuda(index) => {
                let all = self.cuda.as_ref().map_err(|why| missing(0, why))?;
                let facts = all.get(index).ok_or_else(|| missing(all.len(), "the CUDA driver has no card"))?;
                if let Some(why) = facts.refused() {
                    return Err(Usage(why));
                }
                let own = given.unwrap_or_else(|| facts.room(share));
                Ok((facts.spec(MemoryId(0), threads), own))
            }
            DeviceName::Vulkan(index) => {
                let none = "there is no Vulkan driver on this machine";
                let facts = self.vulkan.get(index).ok_or_else(|| missing(self.vulkan.len(), none))?;
                let own = given.or_else(|| facts.room(share));
                let unsaid = || Usage(format!("{device} does not say how much memory it has; name a --budget for it"));
                Ok((facts.spec(MemoryId(0), threads), own.ok_or_else(unsaid)?))
            }
        }
    }
}

/// The processor as a device.
pub(super) fn processor(threads: u32) -> DeviceSpec {
    Machine::single(BackendKind::Cpu, threads, Bytes::ZERO).devices[DeviceId(0)].clone()
}
