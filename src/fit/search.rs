//! Choices that a deal leaves open → the fit that is fastest for the workload: one choice is changed at a time, by every
//! rule, and the best so far is kept. Bounded: each kind of choice is tried once.

use super::capacity::{Capacity, Cards};
use super::deal::{Assignment, Choice, Grain, Order};
use super::parts::Layer;
use super::{Fit, FitError, Study, fit_as};
use crate::plan::Offload;
use crate::residency::CacheHome;
use crate::units::Bytes;

/// The fastest fit that is found.
///
/// # Errors
/// Nothing fits: why the first choice did not.
pub(super) fn fastest(study: &Study<'_>) -> Result<Found, FitError> {
    let choice = Choice::first(&study.request.wishes);
    let capacity = Capacity::of(&study.machine, choice.cards, &study.teams)?;
    let mut search = Search { study, capacity, choice, best: None, failed: None };
    search.attempt(choice);
    for kind in Kind::ALL {
        if let Some(choice) = search.other(kind)? {
            search.attempt(choice);
        }
    }
    let Search { best, failed, .. } = search;
    best.ok_or_else(|| failed.unwrap_or(FitError::NoDevice))
}

/// A fit and how it came about.
pub(super) struct Found {
    pub fit: Fit,
    pub assignment: Assignment,
    pub choice: Choice,
    pub rule: Offload,
}

/// What may be chosen otherwise.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Order,
    Cache,
    Cards(Cards),
    Grain,
}

impl Kind {
    const ALL: [Kind; 5] =
        [Kind::Order, Kind::Cache, Kind::Cards(Cards::Nearest), Kind::Cards(Cards::Farthest), Kind::Grain];
}

struct Search<'a> {
    study: &'a Study<'a>,
    /// The machine before anything is planned.
    capacity: Capacity,
    /// That of the best.
    choice: Choice,
    best: Option<Found>,
    failed: Option<FitError>,
}

impl Search<'_> {
    /// Fits as chosen, by every rule.
    fn attempt(&mut self, choice: Choice) {
        let workload = self.study.request.workload;
        for rule in self.study.rules() {
            match fit_as(self.study, choice, rule) {
                Ok(found) if self.best.as_ref().is_none_or(|b| found.fit.time(workload) < b.fit.time(workload)) => {
                    (self.best, self.choice) = (Some(found), choice);
                }
                Ok(_) => {}
                Err(why) => self.failed = self.failed.take().or(Some(why)),
            }
        }
    }

    /// The other choice of this kind, where it makes a difference.
    fn other(&self, kind: Kind) -> Result<Option<Choice>, FitError> {
        let (wishes, chosen) = (&self.study.request.wishes, self.choice);
        let choice = match kind {
            Kind::Order => self.leaves_room().then_some(Choice { order: Order::Share, ..chosen }),
            Kind::Cache => {
                let open = wishes.cache.is_none() && !self.capacity.cards.is_empty();
                (open && self.host_has(Part::Caches)).then_some(Choice { cache: CacheHome::Accelerator, ..chosen })
            }
            Kind::Cards(cards) => {
                let other = Capacity::of(&self.study.machine, cards, &self.study.teams)? != self.capacity;
                (other && wishes.tensor_split.is_none()).then_some(Choice { cards, ..chosen })
            }
            Kind::Grain => {
                let parts = self.study.parts.layers.iter().any(|layer| layer.units.len() > 1);
                let pays = parts && !self.capacity.cards.is_empty() && self.host_has(Part::Dense);
                pays.then_some(Choice { grain: Grain::Weights, ..chosen })
            }
        };
        Ok(choice)
    }

    /// Whether several places have more room than the model needs.
    fn leaves_room(&self) -> bool {
        let Capacity { cards, hosts } = &self.capacity;
        let places = if cards.is_empty() { hosts } else { cards };
        let need: Bytes = self.study.parts.layers.iter().map(Layer::bytes).sum();
        places.len() > 1 && need < places.iter().map(|p| p.room).sum()
    }

    /// Whether the best leaves such parts with hosts, or nothing fits.
    fn host_has(&self, part: Part) -> bool {
        let Some(best) = &self.best else { return true };
        let host = |memory| self.capacity.hosts.iter().any(|h| h.memory == memory);
        let mut layers = self.study.parts.layers.iter();
        let weight = |&id: &_| best.fit.dealt.residency.weights[id].iter().any(|home| host(home.memory));
        match part {
            Part::Dense => layers.any(|l| l.units.iter().flat_map(|u| &u.weights).any(weight)),
            Part::Caches => best.fit.dealt.residency.states.iter().any(|&memory| host(memory)),
        }
    }
}

/// Parts of layers.
#[derive(Clone, Copy, Debug)]
enum Part {
    Dense,
    Caches,
}
