//! A machine → the places that parts of a model are dealt to, in the order in which they are filled, and what each can
//! hold: its budget less what plans were seen to need beside weights and states.

use super::FitError;
use super::parts::Parts;
use crate::device::{Machine, MemoryId};
use crate::index::IndexVec;
use crate::plan::{Member, MemoryUse};
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
    /// The memory; of several whose devices work on layers together the first, which stands for all of them.
    pub memory: MemoryId,
    /// What weights and states may take of it, or of all of them in the proportion of their shares.
    pub room: Bytes,
    /// How fast it is read.
    pub read: f64,
    /// How fast bytes come from the nearest host, or for hosts, get to all accelerators.
    pub way: f64,
    seats: Vec<Seat>,
    /// Parts of the room that are left free, see [`Capacity::tighten`].
    given_up: u64,
}

/// One memory of a place.
#[derive(Clone, Debug, PartialEq)]
struct Seat {
    memory: MemoryId,
    /// Its share of what the place is dealt; all shares are 1 together.
    share: f64,
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

/// The part of a team's room that is given up at a time.
const TIGHTER: u64 = 256;

impl Capacity {
    /// The capacities of `machine` before anything is planned. Of a machine without a processor, one memory stands for
    /// the host's; the memories of a team are one place. Where teams have every host memory, the nearest of those is
    /// the host, without room of its own. Ties are decided by the order of teams and the devices' uids.
    pub fn of(machine: &Machine, order: Cards, teams: &[Vec<Member>]) -> Result<Capacity, FitError> {
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
        let is_member = |m: &MemoryId| teams.iter().flatten().any(|member| member.memory == *m);
        if hosts.is_empty() && !cards.is_empty() {
            hosts.push(cards.remove(cards.iter().position(|m| !is_member(m)).unwrap_or(0)));
        }
        let all_members = hosts.iter().all(is_member);
        let rate = |a, b| machine.way(a, b).map_or(0.0, |way| way.rate.0);
        let all_ways = |host: MemoryId| cards.iter().map(|&card| rate(host, card)).sum();
        let of_host = |&m: &MemoryId| Place::of(machine, m, all_ways(m));
        let mut hosts: Vec<Place> = hosts.iter().filter(|&m| all_members || !is_member(m)).map(of_host).collect();
        hosts.sort_by(|a, b| b.way.total_cmp(&a.way).then(b.read.total_cmp(&a.read)));
        if all_members {
            hosts.truncate(1);
            hosts.iter_mut().for_each(|host| host.seats.clear());
        }
        let nearest = hosts.first().ok_or(FitError::NoDevice)?.memory;
        let of_team = |team: &Vec<Member>| Place::together(machine, team, |m| rate(nearest, m));
        let single = cards.iter().filter(|m| !is_member(m)).map(|&m| Place::of(machine, m, rate(nearest, m)));
        let mut cards: Vec<Place> = teams.iter().map(of_team).chain(single).collect();
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

    /// Takes off a little of every team's room, since weights that are not cut evenly need more than their share; whether
    /// there are teams.
    pub fn tighten(&mut self) -> bool {
        let teams = self.cards.iter_mut().filter(|place| place.seats.len() > 1);
        let tighter = |place: &mut Place| {
            place.given_up += 1;
            place.room = place.room.saturating_sub(Bytes(place.room.0 / TIGHTER));
        };
        teams.map(tighter).count() > 0
    }

    /// Takes off what weights need that have a home already.
    pub fn without_pinned(mut self, machine: &Machine, parts: &Parts) -> Capacity {
        for place in self.cards.iter_mut().chain(&mut self.hosts) {
            place.measure(machine, parts);
        }
        self
    }

    /// Takes off what a plan's arenas and rings need; of one that did not fit, at least as much as before, and what it
    /// was too large by where that is not all.
    pub fn learn(&mut self, machine: &Machine, parts: &Parts, uses: &IndexVec<MemoryId, MemoryUse>, fits: bool) {
        for place in self.cards.iter_mut().chain(&mut self.hosts) {
            for seat in &mut place.seats {
                let used = uses[seat.memory];
                let (need, budget) = (used.arenas + used.rings, machine.budget(seat.memory));
                seat.taken = match (fits, need <= seat.taken) {
                    (true, _) | (false, false) => need,
                    (false, true) => seat.taken + used.total().saturating_sub(budget),
                };
            }
            place.measure(machine, parts);
        }
    }
}

impl Place {
    /// Its memories.
    pub fn memories(&self) -> impl Iterator<Item = MemoryId> {
        self.seats.iter().map(|seat| seat.memory)
    }

    /// `count` things over its memories, by their shares.
    pub fn spread(&self, count: u32) -> Vec<(MemoryId, u32)> {
        let (mut reached, mut given) = (0.0, 0);
        let part = |seat: &Seat| {
            reached += seat.share;
            let end = (f64::from(count) * reached).round().min(count.into()) as u32;
            let part = (seat.memory, end - given);
            given = end;
            part
        };
        self.seats.iter().map(part).filter(|part| part.1 > 0).collect()
    }

    /// What is left of each memory lets in its share alone.
    fn measure(&mut self, machine: &Machine, parts: &Parts) {
        let left = |seat: &Seat| {
            let left = machine.budget(seat.memory).saturating_sub(seat.taken);
            let left = left.saturating_sub(parts.pinned_bytes(seat.memory));
            if seat.share < 1.0 { Bytes((left.0 as f64 / seat.share) as u64) } else { left }
        };
        let room = self.seats.iter().map(left).min().unwrap_or_default();
        self.room = room.saturating_sub(Bytes(room.0 / TIGHTER * self.given_up));
    }

    /// The place of a team's memories.
    fn together(machine: &Machine, team: &[Member], way: impl Fn(MemoryId) -> f64) -> Place {
        let each = team.iter().map(|member| Place::of(machine, member.memory, way(member.memory)));
        let all: f64 = team.iter().map(|member| member.share).sum();
        let seat = |member: &Member| Seat { memory: member.memory, share: member.share / all, taken: Bytes::ZERO };
        let joined =
            each.reduce(|a, b| Place { read: a.read + b.read, way: a.way.min(b.way), room: a.room + b.room, ..a });
        let first = joined.unwrap_or_else(|| Place::of(machine, MemoryId(0), 0.0));
        Place { seats: team.iter().map(seat).collect(), ..first }
    }

    fn of(machine: &Machine, memory: MemoryId, way: f64) -> Place {
        let here = machine.devices.iter().filter(|d| d.memory == memory);
        let read = here.map(|d| d.rates.read.0).fold(0.0, f64::max);
        let seats = vec![Seat { memory, share: 1.0, taken: Bytes::ZERO }];
        Place { memory, room: machine.budget(memory), read, way, seats, given_up: 0 }
    }
}
