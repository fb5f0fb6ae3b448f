//! Room that is left → runs of experts: those of an accelerator's own layers first, then of the layers that still have
//! some without a home, to the last one that fits. What remains is dealt to hosts.

use super::capacity::Capacity;
use super::deal::Run;
use super::parts::{Layer, Parts};
use super::wishes::Wishes;
use crate::device::MemoryId;
use crate::units::Bytes;

/// The runs of every layer's experts, where `layers` says where its other weights are and `left` what each place has
/// left, which is taken off.
pub(super) fn deal(
    parts: &Parts,
    capacity: &Capacity,
    layers: &[Vec<MemoryId>],
    wishes: &Wishes,
    left: &mut [Bytes],
) -> Vec<Vec<Run>> {
    let mut runs: Vec<Vec<Run>> = parts.layers.iter().map(|_| Vec::new()).collect();
    for own in [true, false] {
        for (card, left) in capacity.cards.iter().zip(&mut *left) {
            for (l, layer) in parts.layers.iter().enumerate() {
                if wishes.experts_on_device(l) && (layers[l].last() == Some(&card.memory)) == own {
                    take(card.memory, layer, left, &mut runs[l]);
                }
            }
        }
    }
    let left = &mut left[capacity.cards.len()..];
    for (l, layer) in parts.layers.iter().enumerate() {
        to_hosts(capacity, layer, layers[l].last().copied(), left, &mut runs[l]);
        if runs[l].len() > 1 {
            runs[l] = runs[l].iter().flat_map(|&run| spread(capacity, run)).collect();
        }
    }
    runs
}

/// A run of a place over its memories: experts of a layer that has some elsewhere are not cut.
fn spread(capacity: &Capacity, run: Run) -> Vec<Run> {
    let place = capacity.places().find(|place| place.memory == run.memory);
    place.map_or(vec![run], |place| {
        place.spread(run.count).into_iter().map(|(memory, count)| Run { memory, count }).collect()
    })
}

/// Deals what remains to the host of the layer, then to the nearest with room; the last takes all.
fn to_hosts(capacity: &Capacity, layer: &Layer, own: Option<MemoryId>, left: &mut [Bytes], runs: &mut Vec<Run>) {
    let first = capacity.hosts.iter().position(|host| Some(host.memory) == own).unwrap_or(0);
    let others = (0..capacity.hosts.len()).filter(|&i| i != first);
    for i in std::iter::once(first).chain(others) {
        take(capacity.hosts[i].memory, layer, &mut left[i], runs);
    }
    let rest = layer.experts - dealt(runs);
    if let (Some(last), true) = (capacity.hosts.last(), rest > 0) {
        add(runs, Run { memory: last.memory, count: rest });
    }
}

/// Puts as many of a layer's remaining experts into `memory` as have room there.
fn take(memory: MemoryId, layer: &Layer, left: &mut Bytes, runs: &mut Vec<Run>) {
    let count = layer.experts_in(*left, layer.experts - dealt(runs));
    if count > 0 {
        *left = left.saturating_sub(layer.experts_bytes(count));
        add(runs, Run { memory, count });
    }
}

/// Runs of one memory that follow each other are one.
fn add(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.memory == run.memory => last.count += run.count,
        Some(_) | None => runs.push(run),
    }
}

fn dealt(runs: &[Run]) -> u32 {
    runs.iter().map(|r| r.count).sum()
}
