//! A machine that was read from elsewhere → the same, all ids in it naming something.

use thiserror::Error;

use super::Machine;

/// What is wrong with a machine.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum MachineError {
    #[error("the machine has no {0}, needed one at least")]
    None(&'static str),
    #[error("{what} names {found}, which the machine has not")]
    Id { what: String, found: String },
    #[error("device {device} has {workers} workers and alignment {alignment}, needed one and a power of two at least")]
    Device { device: String, workers: u32, alignment: u64 },
}

impl Machine {
    /// Whether every id names something and every device can be planned for.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(&self) -> Result<(), MachineError> {
        if self.devices.is_empty() {
            return Err(MachineError::None("device"));
        }
        for device in self.devices.iter() {
            self.known(&device.name, device.memory)?;
            if device.workers == 0 || !device.alignment.is_power_of_two() {
                let (device, workers, alignment) = (device.name.clone(), device.workers, device.alignment);
                return Err(MachineError::Device { device, workers, alignment });
            }
        }
        for (id, link) in self.links.iter_ids() {
            self.known(&id.to_string(), link.a)?;
            self.known(&id.to_string(), link.b)?;
            if let Some(bus) = link.bus.filter(|&bus| self.buses.get(bus).is_none()) {
                return Err(MachineError::Id { what: id.to_string(), found: bus.to_string() });
            }
        }
        Ok(())
    }

    fn known(&self, what: &str, memory: super::MemoryId) -> Result<(), MachineError> {
        let known = self.memories.get(memory).is_some();
        if known { Ok(()) } else { Err(MachineError::Id { what: what.into(), found: memory.to_string() }) }
    }
}
