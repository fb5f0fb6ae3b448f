//! What the user wants to be so, in the words of llama.cpp's flags. A wish is kept or refused with the bytes that are
//! missing, never dropped.

use thiserror::Error;

use super::overrides::Override;
use crate::device::{DeviceSpec, Machine};
use crate::residency::CacheHome;
use crate::units::Bytes;

/// Constraints on homes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// `-ngl`: layers on devices, counted from the last; one more than there are puts the head there too.
    pub gpu_layers: Option<u32>,
    /// `-ts`: proportions of the layers, a device each, in order of speed.
    pub tensor_split: Option<Vec<f64>>,
    /// `--max-gpu`: devices that work on a layer together; with 0 or 1, each has layers of its own.
    pub together: u32,
    /// `--n-cpu-moe`: layers, from the first, whose experts stay in host memory.
    pub host_moe_layers: u32,
    /// `--kv`: where caches live; not said, on accelerators also for layers that stay with the host where that is faster.
    pub cache: Option<CacheHome>,
    /// `-ot`: weights that live with a device of one's choice, before all other wishes.
    pub overrides: Vec<Override>,
    /// `--fit-margin`: bytes left free of each device, by name; one without a name is for all.
    pub margins: Vec<(Option<String>, Bytes)>,
}

/// Why a wish makes no sense.
#[derive(Debug, Error, PartialEq)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum WishError {
    #[error("--fit-margin names {found}, needed one of {}", names.join(", "))]
    Device { found: String, names: Vec<String> },
    #[error("-ot {found}: {why}")]
    Pattern { found: String, why: String },
    #[error("-ot {pattern}: no tensor's name matches; there are {}", names.join(", "))]
    NoTensor { pattern: String, names: Vec<String> },
    #[error("-ot names {found}, needed CPU or one of {}", names.join(", "))]
    NoHome { found: String, names: Vec<String> },
    #[error("{wish}: no accelerator of this machine has a memory of its own")]
    NoAccelerator { wish: String },
    #[error(
        "{wish}: with --split-mode tensor all devices of a group have a part of each layer; needed --split-mode layer"
    )]
    Together { wish: String },
    #[error("-ts {found:?}: needed 1 to {devices} proportions, not all 0, for as many devices")]
    Proportions { devices: usize, found: Vec<f64> },
}

impl Wishes {
    /// Whether the wishes can be met on `machine`, of whose accelerators `own` have memories of their own.
    pub(super) fn suit(&self, machine: &Machine, own: usize) -> Result<(), WishError> {
        let none = |wish: &str| Err(WishError::NoAccelerator { wish: wish.to_owned() });
        if self.cache == Some(CacheHome::Accelerator) && own == 0 {
            return none("--kv accelerator");
        }
        let accelerated = machine.devices.iter().any(DeviceSpec::is_accelerator);
        if let Some(layers @ 1..) = self.gpu_layers.filter(|_| !accelerated) {
            return none(&format!("-ngl {layers}"));
        }
        match &self.tensor_split {
            Some(_) if self.together > 1 => Err(WishError::Together { wish: "-ts".to_owned() }),
            Some(_) if own == 0 => none("-ts"),
            Some(found) if found.len() > own || found.iter().all(|&n| n <= 0.0) => {
                Err(WishError::Proportions { devices: own, found: found.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The machine with the margins as reserves.
    pub(super) fn with_margins(&self, machine: &Machine) -> Result<Machine, WishError> {
        let mut machine = machine.clone();
        for (device, margin) in &self.margins {
            let named = |d: &&DeviceSpec| match device {
                Some(name) => d.name == *name,
                None => d.is_accelerator(),
            };
            let memories: Vec<_> = machine.devices.iter().filter(named).map(|d| d.memory).collect();
            if let (Some(found), true) = (device, memories.is_empty()) {
                let names = machine.devices.iter().map(|d| d.name.clone()).collect();
                return Err(WishError::Device { found: found.clone(), names });
            }
            memories.into_iter().for_each(|m| machine.memories[m].reserve = *margin);
        }
        Ok(machine)
    }

    /// Whether experts of `layer` may leave host memory.
    pub(super) fn experts_on_device(&self, layer: usize) -> bool {
        layer >= self.host_moe_layers as usize && self.gpu_layers != Some(0)
    }

    /// Whether the head may leave host memory in a model of `layers` layers.
    pub(super) fn head_on_device(&self, layers: usize) -> bool {
        self.gpu_layers.is_none_or(|asked| asked as usize > layers)
    }

    /// The wishes in force, for messages.
    pub(super) fn named(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.gpu_layers.map(|n| format!("-ngl {n}")));
        parts.extend(self.tensor_split.as_ref().map(|_| "-ts".to_owned()));
        if self.host_moe_layers > 0 {
            parts.push(format!("--n-cpu-moe {}", self.host_moe_layers));
        }
        parts.extend(self.cache.map(|home| match home {
            CacheHome::Layer => "--kv layer".to_owned(),
            CacheHome::Accelerator => "--kv accelerator".to_owned(),
            CacheHome::Host => "--kv host".to_owned(),
        }));
        parts.extend(self.overrides.iter().map(|o| format!("-ot {}={}", o.pattern, o.device)));
        if parts.is_empty() { String::new() } else { format!(", with {}", parts.join(" ")) }
    }
}
