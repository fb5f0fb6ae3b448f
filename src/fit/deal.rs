//! Parts and capacities → which memory has which layers, caches and experts.
//! Dense weights and caches are read for every token and go first: the last layers to accelerators, in runs, the others
//! to hosts, in runs. Experts fill what is left, to the last one (see `experts`).

use std::ops::Range;

use super::capacity::{Capacity, Cards, Place};
use super::experts;
use super::parts::{Layer, Parts};
use super::wishes::Wishes;
use super::{FitError, name};
use crate::device::{Machine, MemoryId};
use crate::residency::CacheHome;
use crate::units::Bytes;

/// How layers are dealt to places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The first is filled first.
    Fill,
    /// In proportion to what each can hold: devices take turns at a prompt.
    Share,
}

/// Between what runs of layers may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    /// Layers.
    Layers,
    /// A layer's attention and each weight behind it.
    Weights,
}

/// What a deal may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub order: Order,
    pub cards: Cards,
    pub cache: CacheHome,
    pub grain: Grain,
}

impl Choice {
    /// What is tried first.
    pub fn first(wishes: &Wishes) -> Choice {
        let cache = wishes.cache.unwrap_or_default();
        Choice { order: Order::Fill, cards: Cards::Fastest, cache, grain: Grain::Layers }
    }
}

/// A run of a layer's experts in one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub memory: MemoryId,
    pub count: u32,
}

/// Where everything goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    /// The memory of each layer's units of dense weights.
    pub layers: Vec<Vec<MemoryId>>,
    /// The memory of each layer's states.
    pub caches: Vec<MemoryId>,
    /// The runs of each layer's experts, in order; they cover it.
    pub experts: Vec<Vec<Run>>,
    /// The memory of the head.
    pub head: MemoryId,
    /// The memory of the embedding.
    pub embedding: MemoryId,
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
        let left = capacity.places().map(|place| place.room).collect();
        let mut dealer = Dealer { parts, machine, capacity, choice, wishes, left };
        let pieces = dealer.pieces();
        let first = dealer.first_on_cards(&pieces);
        let embedding = dealer.embedding();
        let nowhere = |layer: &Layer| layer.units.iter().map(|_| embedding).collect();
        let mut layers: Vec<Vec<MemoryId>> = parts.layers.iter().map(nowhere).collect();
        let mut caches = vec![embedding; parts.layers.len()];
        let mut head = embedding;
        if choice.cache == CacheHome::Accelerator {
            dealer.caches_of_host(&pieces[..first], &mut caches);
        }
        let (cards, hosts) = (0..capacity.cards.len(), capacity.cards.len()..dealer.left.len());
        for (range, places, on_cards) in [(first..pieces.len(), cards, true), (0..first, hosts, false)] {
            for (piece, place) in pieces[range.clone()].iter().zip(dealer.runs(&pieces[range], places, on_cards)) {
                let memory = dealer.place(place).memory;
                match layers.get_mut(piece.layer) {
                    Some(units) => units[piece.units.clone()].fill(memory),
                    None => head = memory,
                }
                if piece.has_cache && dealer.cache_follows(on_cards) {
                    caches[piece.layer] = memory;
                }
            }
        }
        dealer.respect(&layers, &caches)?;
        let experts = experts::deal(parts, capacity, &layers, wishes, &mut dealer.left);
        Ok(Assignment { layers, caches, experts, head, embedding })
    }
}

/// What is dealt at a time: a layer, a part of one, or the head.
struct Piece {
    /// Of the head, one past the last.
    layer: usize,
    units: Range<usize>,
    /// Whether the cache belongs to it.
    has_cache: bool,
    dense: Bytes,
    state: Bytes,
    experts: Bytes,
}

struct Dealer<'a> {
    parts: &'a Parts,
    machine: &'a Machine,
    capacity: &'a Capacity,
    choice: Choice,
    wishes: &'a Wishes,
    /// What each place has left.
    left: Vec<Bytes>,
}

impl Dealer<'_> {
    fn place(&self, index: usize) -> &Place {
        let cards = self.capacity.cards.len();
        self.capacity.cards.get(index).unwrap_or_else(|| &self.capacity.hosts[index - cards])
    }

    /// The model in order: the cache stands with the first piece of its layer, experts with the last. A head that must
    /// not leave the host is none of them.
    fn pieces(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (l, layer) in self.parts.layers.iter().enumerate() {
            let last = layer.units.len();
            let ranges: Vec<Range<usize>> = match self.choice.grain {
                Grain::Layers => std::iter::once(0..last).collect(),
                Grain::Weights => (0..last).map(|unit| unit..unit + 1).collect(),
            };
            pieces.extend(ranges.into_iter().map(|units| Piece {
                layer: l,
                has_cache: units.start == 0,
                dense: layer.units[units.clone()].iter().map(|u| u.bytes).sum(),
                state: if units.start == 0 { layer.state_bytes } else { Bytes::ZERO },
                experts: if units.end == last { layer.experts_bytes(layer.experts) } else { Bytes::ZERO },
                units,
            }));
        }
        let (layer, nearest) = (self.parts.layers.len(), self.capacity.cards.len());
        let (dense, none) = (self.parts.head_bytes, Bytes::ZERO);
        match self.wishes.head_on_device(layer) {
            true => pieces.push(Piece { layer, units: 0..0, has_cache: false, dense, state: none, experts: none }),
            false => self.left[nearest] = self.left[nearest].saturating_sub(dense),
        }
        pieces
    }

    /// The first piece that goes to accelerators: as asked for, or so that as many as fit do.
    fn first_on_cards(&self, pieces: &[Piece]) -> usize {
        if self.capacity.cards.is_empty() {
            return pieces.len();
        }
        if let Some(asked) = self.wishes.gpu_layers {
            let first = self.parts.layers.len().saturating_sub(asked as usize);
            return pieces.iter().position(|p| p.layer >= first).unwrap_or(pieces.len());
        }
        let total: u64 = self.left[..self.capacity.cards.len()].iter().map(|b| b.0).sum();
        let caches = match self.choice.cache {
            CacheHome::Layer | CacheHome::Host => 0,
            CacheHome::Accelerator => self.parts.layers.iter().map(|l| l.state_bytes.0).sum(),
        };
        let mut used = caches;
        let fits = |piece: &&Piece| {
            used += match self.choice.cache {
                CacheHome::Layer => piece.dense.0 + piece.state.0,
                CacheHome::Accelerator | CacheHome::Host => piece.dense.0,
            };
            used <= total
        };
        pieces.len() - pieces.iter().rev().take_while(fits).count()
    }

    /// Whether a cache stands with its layer.
    fn cache_follows(&self, on_cards: bool) -> bool {
        match self.choice.cache {
            CacheHome::Layer => true,
            CacheHome::Accelerator => on_cards,
            CacheHome::Host => !on_cards,
        }
    }

    /// Bytes that a piece has with its place beside experts.
    fn fixed(&self, piece: &Piece, on_cards: bool) -> Bytes {
        if self.cache_follows(on_cards) { piece.dense + piece.state } else { piece.dense }
    }

    fn embedding(&mut self) -> MemoryId {
        let nearest = self.capacity.cards.len();
        self.left[nearest] = self.left[nearest].saturating_sub(self.parts.embedding_bytes);
        self.place(nearest).memory
    }

    /// Deals the caches of layers whose weights stay with the host to accelerators: in runs as long as the links are
    /// fast, since that is how these weights would come.
    fn caches_of_host(&mut self, pieces: &[Piece], caches: &mut [MemoryId]) {
        let rates: Vec<f64> = self.capacity.cards.iter().map(|card| card.way).collect();
        let with_cache: Vec<&Piece> = pieces.iter().filter(|p| p.has_cache).collect();
        let (total, count) = (rates.iter().sum::<f64>(), with_cache.len() as f64);
        let (mut card, mut end) = (0, rates.first().copied().unwrap_or_default());
        for (i, piece) in with_cache.into_iter().enumerate() {
            let place = (i as f64 + 0.5) / count * total;
            while card + 1 < rates.len() && (place >= end || self.left[card] < piece.state) {
                card += 1;
                end += rates[card];
            }
            self.left[card] = self.left[card].saturating_sub(piece.state);
            caches[piece.layer] = self.capacity.cards[card].memory;
        }
    }

    /// The place of every piece: contiguous runs in order of `places`.
    fn runs(&mut self, pieces: &[Piece], places: Range<usize>, on_cards: bool) -> Vec<usize> {
        if pieces.is_empty() {
            return Vec::new();
        }
        let targets = self.targets(pieces, places.clone(), on_cards);
        let share = self.share_of_experts(pieces, places.clone(), on_cards);
        let (mut found, mut place, mut dealt) = (Vec::with_capacity(pieces.len()), 0, 0.0);
        for piece in pieces {
            let fixed = self.fixed(piece, on_cards);
            let weight = fixed.0 as f64 + share * piece.experts.0 as f64;
            // A piece goes where most of it falls; its fixed part must fit there.
            while place + 1 < targets.len() && dealt + weight / 2.0 > targets[place] {
                (place, dealt) = (place + 1, 0.0);
            }
            while place + 1 < targets.len() && self.left[places.start + place] < fixed {
                (place, dealt) = (place + 1, 0.0);
            }
            dealt += weight;
            let left = &mut self.left[places.start + place];
            *left = left.saturating_sub(fixed);
            found.push(places.start + place);
        }
        found
    }

    /// The bytes of pieces that each place is to get.
    fn targets(&self, pieces: &[Piece], places: Range<usize>, on_cards: bool) -> Vec<f64> {
        let capacity: Vec<f64> = self.left[places].iter().map(|b| b.0 as f64).collect();
        let total: f64 = pieces.iter().map(|p| (self.fixed(p, on_cards) + p.experts).0 as f64).sum();
        let room: f64 = capacity.iter().sum();
        if let Some(shares) = self.wishes.tensor_split.as_ref().filter(|_| on_cards) {
            let sum: f64 = shares.iter().sum();
            let share = |i: usize| shares.get(i).copied().unwrap_or(0.0) / sum;
            return (0..capacity.len()).map(|i| total.min(room) * share(i)).collect();
        }
        match self.choice.order {
            Order::Share if total < room => capacity.iter().map(|c| c * total / room).collect(),
            Order::Fill | Order::Share => capacity,
        }
    }

    /// The share of all experts that places have room for beside the fixed parts.
    fn share_of_experts(&self, pieces: &[Piece], places: Range<usize>, on_cards: bool) -> f64 {
        let fixed: f64 = pieces.iter().map(|p| self.fixed(p, on_cards).0 as f64).sum();
        let experts: f64 = pieces.iter().map(|p| p.experts.0 as f64).sum();
        let room = self.left[places].iter().map(|b| b.0 as f64).sum::<f64>() - fixed;
        if experts > 0.0 { (room / experts).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// What was asked for must fit the accelerators.
    fn respect(&self, layers: &[Vec<MemoryId>], caches: &[MemoryId]) -> Result<(), FitError> {
        let Wishes { gpu_layers, cache, overrides, .. } = self.wishes;
        if gpu_layers.is_none() && cache.is_none() && overrides.is_empty() {
            return Ok(());
        }
        for card in &self.capacity.cards {
            let units = self.parts.layers.iter().zip(layers).flat_map(|(layer, homes)| layer.units.iter().zip(homes));
            let dense: Bytes = units.filter(|(_, m)| **m == card.memory).map(|(u, _)| u.bytes).sum();
            let states = self.parts.layers.iter().zip(caches).filter(|(_, m)| **m == card.memory);
            let pinned = self.parts.pinned_bytes(card.memory);
            let need = dense + states.map(|(l, _)| l.state_bytes).sum() + pinned;
            let budget = card.room + pinned;
            if need > budget {
                let (memory, because) = (name(self.machine, card.memory).to_owned(), self.wishes.named());
                return Err(FitError::Short { memory, need, budget, missing: need.saturating_sub(budget), because });
            }
        }
        Ok(())
    }
}
