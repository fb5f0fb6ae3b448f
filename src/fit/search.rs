//! Choices that a deal leaves open → the fit that is fastest for the workload: one choice is changed at a time, by every
//! rule, and the best so far is kept. Bounded: each kind of choice is tried once.

use super::deal::{Capacity, Choice, Order};
use super::parts::Parts;
use super::{Fit, FitError, Study, fit_as};
use crate::residency::CacheHome;

/// The fastest fit that is found.
///
/// # Errors
/// Nothing fits: why the first choice did not.
pub(super) fn fastest(study: &Study<'_>, parts: &Parts) -> Result<Fit, FitError> {
    let mut search = Search { study, parts, choice: Choice::first(&study.request.wishes), best: None, failed: None };
    search.attempt(search.choice);
    for kind in Kind::ALL {
        if let Some(choice) = search.other(kind)? {
            search.attempt(choice);
        }
    }
    let Search { best, failed, .. } = search;
    best.ok_or_else(|| failed.unwrap_or(FitError::NoDevice))
}

/// What may be chosen otherwise.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Order,
    Cache,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Order, Kind::Cache];
}

struct Search<'a> {
    study: &'a Study<'a>,
    parts: &'a Parts,
    /// That of the best.
    choice: Choice,
    best: Option<Fit>,
    failed: Option<FitError>,
}

impl Search<'_> {
    /// Fits as chosen, by every rule.
    fn attempt(&mut self, choice: Choice) {
        let workload = self.study.request.workload;
        for rule in self.study.rules() {
            match fit_as(self.study, self.parts, choice, rule) {
                Ok(found) if self.best.as_ref().is_none_or(|b| found.time(workload) < b.time(workload)) => {
                    (self.best, self.choice) = (Some(found), choice);
                }
                Ok(_) => {}
                Err(why) => self.failed = self.failed.take().or(Some(why)),
            }
        }
    }

    /// The other choice of this kind, where it makes a difference.
    fn other(&self, kind: Kind) -> Result<Option<Choice>, FitError> {
        let machine = self.study.machine;
        let choice = match kind {
            // A model that fills every device leaves none.
            Kind::Order => {
                let room: u64 = Capacity::of(machine)?.bytes.iter().map(|b| b.0).sum();
                let need: u64 = self.parts.layers.iter().map(|l| l.bytes().0).sum();
                (need < room).then_some(Choice { order: Order::Share, ..self.choice })
            }
            Kind::Cache => {
                let on_host = |fit: &Fit| fit.residency.states.iter().any(|&m| machine.is_host(m));
                let open = self.study.request.wishes.cache.is_none() && !Capacity::of(machine)?.devices.is_empty();
                let pays = open && self.best.as_ref().is_none_or(on_host);
                pays.then_some(Choice { cache: CacheHome::Accelerator, ..self.choice })
            }
        };
        Ok(choice)
    }
}
