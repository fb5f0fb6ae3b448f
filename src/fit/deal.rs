//! Parts and capacities → which device has which layers, and how many experts of each layer are where.
//! Dense weights and caches are read for every token and go first; experts fill what is left, to the last one.

use super::parts::{Layer, Parts};
use super::wishes::Wishes;
use super::{FitError, name};
use crate::device::{DeviceId, Machine, MemoryId};
use crate::index::IndexVec;
use crate::plan::MemoryUse;
use crate::residency::CacheHome;
use crate::units::Bytes;

/// How layers are dealt to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The fastest memory is filled first: least time a token.
    Fastest,
    /// In proportion to what each can hold: devices take turns at a prompt.
    Share,
}

/// What a deal may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub order: Order,
    pub cache: CacheHome,
}

impl Choice {
    /// What is tried first.
    pub fn first(wishes: &Wishes) -> Choice {
        Choice { order: Order::Fastest, cache: wishes.cache.unwrap_or_default() }
    }
}

/// What devices can hold: the budget less what arenas and rings were seen to take.
#[derive(Clone, Debug)]
pub(super) struct Capacity {
    /// Devices that weights go to, fastest memory first, then by uid.
    pub devices: Vec<DeviceId>,
    /// Bytes of each.
    pub bytes: Vec<Bytes>,
    /// Where the rest lives.
    pub host: MemoryId,
    taken: IndexVec<MemoryId, Bytes>,
}

impl Capacity {
    /// The capacities of `machine` before anything is planned.
    pub fn of(machine: &Machine) -> Result<Capacity, FitError> {
        let first_host = machine.memories.ids().find(|&m| machine.is_host(m));
        let host = first_host.or_else(|| machine.memories.ids().next()).ok_or(FitError::NoDevice)?;
        let separate = machine.devices.iter_ids().filter(|(_, d)| d.memory != host);
        let mut devices: Vec<DeviceId> = separate.map(|(id, _)| id).collect();
        devices.sort_by(|&a, &b| {
            let (x, y) = (&machine.devices[a], &machine.devices[b]);
            y.rates.read.0.total_cmp(&x.rates.read.0).then_with(|| x.uid.cmp(&y.uid))
        });
        let bytes = devices.iter().map(|&d| machine.budget(machine.devices[d].memory)).collect();
        let taken = machine.memories.ids().map(|_| Bytes::ZERO).collect();
        Ok(Capacity { devices, bytes, host, taken })
    }

    /// Takes off what a plan's arenas and rings need; of one that did not fit, at least as much as before, and what it
    /// was too large by where that is not all.
    pub fn learn(&mut self, machine: &Machine, uses: &IndexVec<MemoryId, MemoryUse>, fits: bool) {
        for (i, &device) in self.devices.iter().enumerate() {
            let memory = machine.devices[device].memory;
            let (need, budget) = (uses[memory].arenas + uses[memory].rings, machine.budget(memory));
            let known = self.taken[memory];
            let over = Bytes(uses[memory].total().0.saturating_sub(budget.0));
            self.taken[memory] = match (fits, need <= known) {
                (true, _) => need,
                (false, true) => known + over,
                (false, false) => need,
            };
            self.bytes[i] = Bytes(budget.0.saturating_sub(self.taken[memory].0));
        }
    }
}

/// A run of a layer's experts in one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub memory: MemoryId,
    pub count: u32,
}

/// Where everything goes.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    /// The memory of each layer's dense weights.
    pub layers: Vec<MemoryId>,
    /// The memory of each layer's states.
    pub caches: Vec<MemoryId>,
    /// The runs of each layer's experts, in order; they cover it.
    pub experts: Vec<Vec<Run>>,
    /// The memory of the head.
    pub head: MemoryId,
    /// The memory of the embedding.
    pub host: MemoryId,
}

impl Assignment {
    /// Deals the parts.
    ///
    /// # Errors
    /// A wish cannot be met; which, and by how many bytes.
    pub fn deal(
        parts: &Parts,
        machine: &Machine,
        capacity: &Capacity,
        choice: Choice,
        wishes: &Wishes,
    ) -> Result<Assignment, FitError> {
        let mut dealer = Dealer { parts, machine, capacity, choice, wishes, left: capacity.bytes.clone() };
        let count = parts.layers.len();
        let on_devices = dealer.layers_on_devices();
        let head = if on_devices > 0 || count == 0 { dealer.head() } else { capacity.host };
        let mut layers = vec![capacity.host; count];
        let mut caches = vec![capacity.host; count];
        if choice.cache == CacheHome::Accelerator {
            dealer.caches_of_host(&mut caches[..count - on_devices]);
        }
        for (layer, device) in dealer.runs(count - on_devices).into_iter().enumerate() {
            layers[count - on_devices + layer] = machine.devices[device].memory;
        }
        if choice.cache != CacheHome::Host {
            caches[count - on_devices..].copy_from_slice(&layers[count - on_devices..]);
        }
        dealer.respect(&layers, &caches)?;
        let experts = dealer.experts(&layers);
        Ok(Assignment { layers, caches, experts, head, host: capacity.host })
    }
}

struct Dealer<'a> {
    parts: &'a Parts,
    machine: &'a Machine,
    capacity: &'a Capacity,
    choice: Choice,
    wishes: &'a Wishes,
    /// What each device has left.
    left: Vec<Bytes>,
}

impl Dealer<'_> {
    /// Layers whose fixed part goes to devices: what was asked for, or the last ones, as many as fit.
    fn layers_on_devices(&self) -> usize {
        let count = self.parts.layers.len();
        if self.capacity.devices.is_empty() {
            return 0;
        }
        if let Some(asked) = self.wishes.gpu_layers {
            return (asked as usize).min(count);
        }
        let total: u64 = self.left.iter().map(|b| b.0).sum();
        let caches = match self.choice.cache {
            CacheHome::Layer | CacheHome::Host => 0,
            CacheHome::Accelerator => self.parts.layers.iter().map(|l| l.state_bytes.0).sum(),
        };
        let mut used = self.parts.head_bytes.0 + caches;
        let fits = |layer: &&Layer| {
            used += match self.choice.cache {
                CacheHome::Layer => self.fixed(layer).0,
                CacheHome::Accelerator | CacheHome::Host => layer.dense_bytes.0,
            };
            used <= total
        };
        self.parts.layers.iter().rev().take_while(fits).count()
    }

    /// Bytes that a layer on a device has there beside experts.
    fn fixed(&self, layer: &Layer) -> Bytes {
        match self.choice.cache {
            CacheHome::Layer | CacheHome::Accelerator => layer.dense_bytes + layer.state_bytes,
            CacheHome::Host => layer.dense_bytes,
        }
    }

    /// Deals the caches of the first layers, whose weights stay with the host: in runs as long as the links are fast,
    /// since that is how these weights would come.
    fn caches_of_host(&mut self, caches: &mut [MemoryId]) {
        let memory = |i: usize| self.machine.devices[self.capacity.devices[i]].memory;
        let rate = |i| self.machine.way(self.capacity.host, memory(i)).map_or(0.0, |way| way.rate.0);
        let rates: Vec<f64> = (0..self.left.len()).map(rate).collect();
        let (total, count) = (rates.iter().sum::<f64>(), caches.len() as f64);
        let (mut device, mut end) = (0, rates.first().copied().unwrap_or_default());
        for (l, cache) in caches.iter_mut().enumerate() {
            let (place, bytes) = ((l as f64 + 0.5) / count * total, self.parts.layers[l].state_bytes);
            while device + 1 < rates.len() && (place >= end || self.left[device] < bytes) {
                device += 1;
                end += rates[device];
            }
            self.left[device] = self.left[device].saturating_sub(bytes);
            *cache = memory(device);
        }
    }

    /// Puts the head with the last layer's device: the last one that has room for it.
    fn head(&mut self) -> MemoryId {
        let room = self.left.iter().rposition(|&b| b >= self.parts.head_bytes);
        match room.filter(|_| self.wishes.head_on_device(self.parts.layers.len())) {
            Some(i) => {
                self.left[i] = self.left[i] - self.parts.head_bytes;
                self.machine.devices[self.capacity.devices[i]].memory
            }
            None => self.capacity.host,
        }
    }

    /// The device of every layer from `first` on: contiguous runs in order of devices.
    fn runs(&mut self, first: usize) -> Vec<DeviceId> {
        let layers = &self.parts.layers[first..];
        let targets = self.targets(layers);
        let share = self.share_of_experts(layers);
        let (mut found, mut device, mut dealt) = (Vec::with_capacity(layers.len()), 0, 0.0);
        for layer in layers {
            let fixed = self.fixed(layer);
            let weight = fixed.0 as f64 + share * layer.experts_bytes(layer.experts).0 as f64;
            // A layer goes where most of it falls; its fixed part must fit there.
            while device + 1 < targets.len() && dealt + weight / 2.0 > targets[device] {
                (device, dealt) = (device + 1, 0.0);
            }
            while device + 1 < targets.len() && self.left[device] < fixed {
                (device, dealt) = (device + 1, 0.0);
            }
            dealt += weight;
            self.left[device] = self.left[device].saturating_sub(fixed);
            found.push(self.capacity.devices[device]);
        }
        found
    }

    /// The bytes of layers that each device is to get.
    fn targets(&self, layers: &[Layer]) -> Vec<f64> {
        let capacity: Vec<f64> = self.left.iter().map(|b| b.0 as f64).collect();
        let total: f64 = layers.iter().map(|l| (self.fixed(l) + l.experts_bytes(l.experts)).0 as f64).sum();
        let room: f64 = capacity.iter().sum();
        if let Some(shares) = &self.wishes.tensor_split {
            let sum: f64 = shares.iter().sum();
            return (0..capacity.len())
                .map(|i| total.min(room) * shares.get(i).copied().unwrap_or(0.0) / sum)
                .collect();
        }
        match self.choice.order {
            Order::Share if total < room => capacity.iter().map(|c| c * total / room).collect(),
            Order::Fastest | Order::Share => capacity,
        }
    }

    /// The share of all experts that devices have room for beside the fixed parts.
    fn share_of_experts(&self, layers: &[Layer]) -> f64 {
        let sum = |of: &dyn Fn(&Layer) -> Bytes| layers.iter().map(|l| of(l).0 as f64).sum::<f64>();
        let (fixed, experts) = (sum(&|l| self.fixed(l)), sum(&|l| l.experts_bytes(l.experts)));
        let room = self.left.iter().map(|b| b.0 as f64).sum::<f64>() - fixed;
        if experts > 0.0 { (room / experts).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Layers and caches that were asked for must fit.
    fn respect(&self, layers: &[MemoryId], caches: &[MemoryId]) -> Result<(), FitError> {
        if self.wishes.gpu_layers.is_none() && self.wishes.cache.is_none() {
            return Ok(());
        }
        for (i, &device) in self.capacity.devices.iter().enumerate() {
            let memory = self.machine.devices[device].memory;
            let here = |homes: &[MemoryId], of: fn(&Layer) -> Bytes| -> Bytes {
                self.parts.layers.iter().zip(homes).filter(|(_, m)| **m == memory).map(|(l, _)| of(l)).sum()
            };
            let need = here(layers, |l| l.dense_bytes) + here(caches, |l| l.state_bytes);
            let budget = self.capacity.bytes[i];
            if need > budget {
                let (memory, because) = (name(self.machine, device).to_owned(), self.wishes.named());
                return Err(FitError::Short { memory, need, budget, missing: need - budget, because });
            }
        }
        Ok(())
    }

    /// Fills devices with experts: of their own layers first, then of the layers that still have some in host memory.
    fn experts(&mut self, layers: &[MemoryId]) -> Vec<Vec<Run>> {
        let mut runs: Vec<Vec<Run>> = self.parts.layers.iter().map(|_| Vec::new()).collect();
        for own in [true, false] {
            for i in 0..self.capacity.devices.len() {
                let memory = self.machine.devices[self.capacity.devices[i]].memory;
                for (l, layer) in self.parts.layers.iter().enumerate() {
                    let allowed = self.wishes.experts_on_device(l) && layer.experts > 0;
                    if allowed && (layers[l] == memory) == own {
                        self.take(i, memory, layer, &mut runs[l]);
                    }
                }
            }
        }
        for (layer, runs) in self.parts.layers.iter().zip(&mut runs) {
            let dealt: u32 = runs.iter().map(|r| r.count).sum();
            if dealt < layer.experts {
                runs.push(Run { memory: self.capacity.host, count: layer.experts - dealt });
            }
        }
        runs
    }

    fn take(&mut self, device: usize, memory: MemoryId, layer: &Layer, runs: &mut Vec<Run>) {
        let dealt: u32 = runs.iter().map(|r| r.count).sum();
        let count = layer.experts_in(self.left[device], layer.experts - dealt);
        if count > 0 {
            self.left[device] = self.left[device] - layer.experts_bytes(count);
            runs.push(Run { memory, count });
        }
    }
}
