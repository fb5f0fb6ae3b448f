//! A machine → the places that parts of a model are dealt to, in the order in which they are filled, and what each can
//! hold: its budget less what plans were seen to need beside weights and states.

use super::FitError;
use super::parts::Parts;
use crate::device::{Machine, MemoryId};
use crate::index::IndexVec;
use crate::plan::MemoryUse;
use crate::units::Bytes;

/// The order of accelerators; layers are dealt to them in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cards {
    /// The fastest memory first.
    Fastest,
    /// That with the fastest way from the host first.
    Nearest,
    /// That with the slowest way from the host first.
    Farthest,
}

/// A memory that parts are dealt to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// The memory.
    pub memory: MemoryId,
    /// What weights and states may take of it.
    pub room: Bytes,
    /// How fast it is read.
    pub read: f64,
    /// How fast bytes come from the nearest host, or for hosts, get to all accelerators.
    pub way: f64,
    /// What arenas and rings were seen to take.
    taken: Bytes,
}

/// All places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Capacity {
    /// Memories of accelerators, in order.
    pub cards: Vec<Place>,
    /// Memories of processors, the nearest first; at least one.
    pub hosts: Vec<Place>,
}

impl Capacity {
    /// The capacities of `machine` before anything is planned. Of a machine without a processor, one memory stands for
    /// the host's. Ties are decided by the devices' uids.
    pub fn of(machine: &Machine, order: Cards) -> Result<Capacity, FitError> {
        let mut known: Vec<(&str, MemoryId)> = Vec::new();
        let mut devices: Vec<_> = machine.devices.iter().map(|d| (d.uid.as_str(), d.memory)).collect();
        devices.sort_unstable();
        for (uid, memory) in devices {
            if known.iter().all(|(_, m)| *m != memory) {
                known.push((uid, memory));
            }
        }
        let (mut hosts, mut cards): (Vec<_>, Vec<_>) =
            known.into_iter().map(|k| k.1).partition(|&m| machine.is_host(m));
        if hosts.is_empty() && !cards.is_empty() {
            hosts.push(cards.remove(0));
        }
        let rate = |a, b| machine.way(a, b).map_or(0.0, |way| way.rate.0);
        let all_ways = |host: MemoryId| cards.iter().map(|&card| rate(host, card)).sum();
        let mut hosts: Vec<Place> = hosts.iter().map(|&m| Place::of(machine, m, all_ways(m))).collect();
        hosts.sort_by(|a, b| b.way.total_cmp(&a.way).then(b.read.total_cmp(&a.read)));
        let nearest = hosts.first().ok_or(FitError::NoDevice)?.memory;
        let mut cards: Vec<Place> = cards.iter().map(|&m| Place::of(machine, m, rate(nearest, m))).collect();
        cards.sort_by(|a, b| {
            let (faster, nearer) = (b.read.total_cmp(&a.read), b.way.total_cmp(&a.way));
            match order {
                Cards::Fastest => faster,
                Cards::Nearest => nearer.then(faster),
                Cards::Farthest => nearer.reverse().then(faster),
            }
        });
        Ok(Capacity { cards, hosts })
    }

    /// All places, accelerators first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.cards.iter().chain(&self.hosts)
    }

    /// Takes off what weights need that have a home already.
    pub fn without_pinned(mut self, machine: &Machine, parts: &Parts) -> Capacity {
        for place in self.cards.iter_mut().chain(&mut self.hosts) {
            place.room = machine.budget(place.memory).saturating_sub(parts.pinned_bytes(place.memory));
        }
        self
    }

    /// Takes off what a plan's arenas and rings need; of one that did not fit, at least as much as before, and what it
    /// was too large by where that is not all.
    pub fn learn(&mut self, machine: &Machine, parts: &Parts, uses: &IndexVec<MemoryId, MemoryUse>, fits: bool) {
        for place in self.cards.iter_mut().chain(&mut self.hosts) {
            let used = uses[place.memory];
            let (need, budget) = (used.arenas + used.rings, machine.budget(place.memory));
            place.taken = match (fits, need <= place.taken) {
                (true, _) | (false, false) => need,
                (false, true) => place.taken + used.total().saturating_sub(budget),
            };
            place.room = budget.saturating_sub(place.taken).saturating_sub(parts.pinned_bytes(place.memory));
        }
    }
}

impl Place {
    /// What arenas and rings were seen to take.
    pub fn taken(&self) -> Bytes {
        self.taken
    }

    fn of(machine: &Machine, memory: MemoryId, way: f64) -> Place {
        let here = machine.devices.iter().filter(|d| d.memory == memory);
        let read = here.map(|d| d.rates.read.0).fold(0.0, f64::max);
        Place { memory, room: machine.budget(memory), read, way, taken: Bytes::ZERO }
    }
}
