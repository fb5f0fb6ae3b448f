//! A machine → the same without one of its devices.

use super::{DeviceId, Link, Machine, MemoryId};
use crate::index::IndexVec;

impl Machine {
    /// The other devices, with the memories that they compute from and the links between these; none if there are no others.
    pub fn without(&self, device: DeviceId) -> Option<Machine> {
        let mut rest = Machine { buses: self.buses.clone(), ..Machine::default() };
        let used = |memory: MemoryId| self.devices.iter_ids().any(|(id, spec)| id != device && spec.memory == memory);
        let mut now: IndexVec<MemoryId, Option<MemoryId>> = IndexVec::new();
        for (id, memory) in self.memories.iter_ids() {
            now.push(used(id).then(|| rest.memories.push(memory.clone())));
        }
        let mut spec_of = |id: DeviceId| {
            let mut spec = self.devices[id].clone();
            spec.memory = now[spec.memory]?;
            Some(rest.devices.push(spec))
        };
        self.devices.ids().filter(|&id| id != device).for_each(|id| _ = spec_of(id));
        for link in self.links.iter() {
            if let (Some(a), Some(b)) = (now[link.a], now[link.b]) {
                rest.links.push(Link { a, b, ..link.clone() });
            }
        }
        (!rest.devices.is_empty()).then_some(rest)
    }
}
