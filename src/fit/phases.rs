//! A fit → homes for decode alone: the rings and the arena of the prompt's steps are given back behind the prompt, and
//! hold weights that the prompt left with the host. Their host copies stay, so nothing is to be brought back. Proposed
//! only where the workload takes less time with it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::capacity::Capacity;
use super::deal::{Assignment, Run};
use super::search::Found;
use super::{Bucket, Fit, FitError, Study, bucket, homes};
use crate::device::{Machine, MemoryId};
use crate::graph::Graph;
use crate::index::IndexVec;
use crate::plan::MemoryUse;
use crate::residency::{Residency, part_bytes};
use crate::units::{Bytes, Nanos, Tokens};

/// What decode has for itself. The executor does not change homes between phases yet: it runs the homes of the prompt
/// throughout.
#[derive(Clone, Debug)]
pub struct DecodePhase {
    /// Homes while tokens are generated; of what was brought, the host's copy is not named.
    pub residency: Residency,
    /// A step of one token.
    pub decode: Bucket,
    /// What is allocated in each memory; the host's copies of what was brought count.
    pub memories: IndexVec<MemoryId, MemoryUse>,
    /// Bytes of weights that each memory is brought behind the prompt.
    pub brought: IndexVec<MemoryId, Bytes>,
    /// How long that takes.
    pub bring_time: Nanos,
    /// Predicted time of one generated token.
    pub token_time: Nanos,
}

/// Rounds until what decode's own arenas need is known.
const ROUNDS: usize = 4;

/// The fit with homes for decode where the workload gets faster by them, or as it was.
///
/// # Errors
/// There is no plan.
pub(super) fn with_phases(study: &Study<'_>, found: &Found) -> Result<Fit, FitError> {
    let phase = decode_phase(study, found)?;
    let mut fit = found.fit.clone();
    let workload = study.request.workload;
    let plain = fit.time(workload);
    fit.decode_phase = phase;
    if fit.time(workload) >= plain {
        fit.decode_phase = None;
    }
    Ok(fit)
}

fn decode_phase(study: &Study<'_>, found: &Found) -> Result<Option<DecodePhase>, FitError> {
    if !study.teams.is_empty() {
        return Ok(None);
    }
    let (machine, fit) = (&study.machine, &found.fit);
    let capacity = Capacity::of(machine, found.choice.cards, &study.teams)?;
    let held = study.together(&[&fit.decode.plan]);
    let room = |memory| machine.budget(memory).saturating_sub(held[memory].total());
    let mut rooms: Vec<Bytes> = capacity.cards.iter().map(|card| room(card.memory)).collect();
    for _ in 0..ROUNDS {
        let more = More { study, capacity: &capacity }.deal(&found.assignment, rooms.clone());
        if study.request.workload.generate == Tokens(0) || more == found.assignment {
            return Ok(None);
        }
        let residency = homes::homes(&study.base, &study.parts, &more);
        let decode = bucket(study, &residency, Tokens(1), &[])?;
        let mut memories = study.together(&[&decode.plan]);
        for host in &capacity.hosts {
            memories[host.memory].weights = fit.memories[host.memory].weights;
        }
        if study.over(&memories).is_none() {
            let token_time = study.time(&decode, 1);
            let moves = moves(&study.base, &fit.residency, &residency);
            let to = |memory| moves.iter().filter(|(way, _)| way.1 == memory).map(|(_, &bytes)| bytes).sum();
            let brought = machine.memories.ids().map(to).collect();
            let bring_time = time(machine, &moves);
            return Ok(Some(DecodePhase { residency, decode, memories, brought, bring_time, token_time }));
        }
        for (room, card) in rooms.iter_mut().zip(&capacity.cards) {
            *room = room.saturating_sub(memories[card.memory].total().saturating_sub(machine.budget(card.memory)));
        }
    }
    Ok(None)
}

/// What may be brought: weights that hosts have, and no state.
struct More<'a> {
    study: &'a Study<'a>,
    capacity: &'a Capacity,
}

impl More<'_> {
    /// The homes of decode, with as much as `rooms` hold: first dense weights, which every token reads.
    fn deal(&self, before: &Assignment, mut rooms: Vec<Bytes>) -> Assignment {
        let mut after = before.clone();
        if self.study.request.wishes.gpu_layers.is_none() {
            self.dense(&mut after, &mut rooms);
        }
        for own in [true, false] {
            for (card, room) in self.capacity.cards.iter().zip(&mut rooms) {
                self.experts(&mut after, card.memory, room, own);
            }
        }
        after
    }

    fn is_host(&self, memory: MemoryId) -> bool {
        self.capacity.hosts.iter().any(|host| host.memory == memory)
    }

    /// Units of dense weights, the last first; a layer's attention only to where its cache is.
    fn dense(&self, after: &mut Assignment, rooms: &mut [Bytes]) {
        for (l, layer) in self.study.parts.layers.iter().enumerate().rev() {
            for (u, unit) in layer.units.iter().enumerate().rev() {
                let bound = u == 0 && !layer.states.is_empty();
                let may = |memory| !bound || after.caches[l] == memory;
                let mut cards = self.capacity.cards.iter().zip(&mut *rooms);
                let card = cards.find(|(card, room)| may(card.memory) && **room >= unit.bytes);
                if let (Some((card, room)), true) = (card, self.is_host(after.layers[l][u])) {
                    *room = room.saturating_sub(unit.bytes);
                    after.layers[l][u] = card.memory;
                }
            }
        }
    }

    /// Experts for one card: of its own layers, or of the others.
    fn experts(&self, after: &mut Assignment, memory: MemoryId, room: &mut Bytes, own: bool) {
        for (l, layer) in self.study.parts.layers.iter().enumerate() {
            let here = (after.layers[l].last() == Some(&memory)) == own;
            let runs = &mut after.experts[l];
            let at = runs.iter().position(|run| self.is_host(run.memory));
            let Some(at) = at.filter(|_| here && self.study.request.wishes.experts_on_device(l)) else { continue };
            let count = layer.experts_in(*room, runs[at].count);
            if count > 0 {
                *room = room.saturating_sub(layer.experts_bytes(count));
                carve(runs, at, Run { memory, count });
            }
        }
    }
}

/// Gives `run` the first experts of the run `at`.
fn carve(runs: &mut Vec<Run>, at: usize, run: Run) {
    runs[at].count -= run.count;
    match at.checked_sub(1).and_then(|before| runs.get_mut(before)) {
        Some(before) if before.memory == run.memory => before.count += run.count,
        Some(_) | None => runs.insert(at, run),
    }
    runs.retain(|run| run.count > 0);
}

/// Bytes that go from one memory to another, so that what lives as in `before` lives as in `after`.
fn moves(graph: &Graph, before: &Residency, after: &Residency) -> BTreeMap<(MemoryId, MemoryId), Bytes> {
    let mut moves: BTreeMap<(MemoryId, MemoryId), Bytes> = BTreeMap::new();
    for (id, homes) in after.weights.iter_ids() {
        for home in homes {
            for source in before.weights[id].iter().filter(|source| source.memory != home.memory) {
                let (a, b) = (&home.slice.range, &source.slice.range);
                let shared: Range<u32> = a.start.max(b.start)..a.end.min(b.end);
                if !shared.is_empty() {
                    let bytes = part_bytes(&graph.weights()[id], &shared);
                    *moves.entry((source.memory, home.memory)).or_default() += bytes;
                }
            }
        }
    }
    moves
}

/// How long all moves take at a time: as long as the way, bus or host that is busy longest.
fn time(machine: &Machine, moves: &BTreeMap<(MemoryId, MemoryId), Bytes>) -> Nanos {
    let (mut buses, mut hosts, mut longest) = (BTreeMap::new(), BTreeMap::new(), Nanos::ZERO);
    for (&(from, to), &bytes) in moves {
        longest = longest.max(machine.way(from, to).map_or(Nanos(u64::MAX >> 1), |way| way.time(bytes)));
        let (first, second) = machine.legs(from, to).unzip();
        for link in first.into_iter().chain(second.flatten()) {
            if let Some(bus) = machine.links[link].bus.filter(|&id| machine.buses.get(id).is_some()) {
                *buses.entry(bus).or_insert(Bytes::ZERO) += bytes;
            }
        }
        *hosts.entry(from).or_insert(Bytes::ZERO) += bytes;
    }
    for (bus, bytes) in buses {
        longest = longest.max(machine.buses[bus].rate.time(bytes));
    }
    for (host, bytes) in hosts {
        let readers = machine.devices.iter().filter(|d| d.memory == host).map(|d| d.rates.read);
        longest = readers.map(|rate| rate.time(bytes)).min().map_or(longest, |time| longest.max(time));
    }
    longest
}
