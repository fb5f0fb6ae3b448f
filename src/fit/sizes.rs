//! A context or a largest step that is left open → the one to fit for.
//!
//! The largest step is the power of two with which the workload takes least time. The context is the largest, in steps
//! of 256 tokens, with which accelerators still hold as much of the weights as with the least one worth having.

use super::search::{Found, fastest};
use super::{Fit, FitError, Request, Study, fit_as, phases};
use crate::device::Machine;
use crate::graph::{Batch, Graph};
use crate::units::{Bytes, Nanos, Tokens};

/// A size, or `None` where it is to be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens that the cache holds.
    pub context: Option<Tokens>,
    /// Tokens of the largest step.
    pub ubatch: Option<Tokens>,
    /// The longest context of the model.
    pub most: Tokens,
}

/// A fit and the sizes that were told or chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The fit.
    pub fit: Fit,
    /// Tokens that the cache holds.
    pub context: Tokens,
    /// Tokens of the largest step.
    pub ubatch: Tokens,
}

/// Makes the graph of a batch bucket for a context.
pub type GraphsOfContext<'a> = &'a dyn Fn(Batch, Extent) -> Result<Graph, String>;

/// What caches are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Tokens of a whole sequence.
    pub context: Tokens,
    /// The largest step.
    pub ubatch: Tokens,
}

/// Contexts that are chosen are multiples of this.
const STEP: u32 = 256;

/// The contexts that a chosen one is no shorter than: of these the first that fits, or the model's.
const LEAST: [u32; 2] = [4096, STEP];

/// Largest steps to choose from.
const UBATCHES: [u32; 7] = [64, 128, 256, 512, 1024, 2048, 4096];

/// As [`fit`](super::fit), choosing what `sizes` leave open; the request's step is not read.
///
/// # Errors
/// As for [`fit`](super::fit), for the least sizes.
pub fn fit_sizes(
    graphs: GraphsOfContext<'_>,
    machine: &Machine,
    request: &Request,
    sizes: Sizes,
) -> Result<Chosen, FitError> {
    let chooser = Chooser { graphs, machine, request };
    match sizes.context {
        Some(context) => Ok(chooser.fitted(context, sizes.ubatch)?.0),
        None => {
            let least = |tokens: u32| chooser.fitted(Tokens(tokens).min(sizes.most), sizes.ubatch);
            let (fitted, found) = least(LEAST[0]).or_else(|_| least(LEAST[1]))?;
            chooser.longest(fitted, &found, sizes.most)
        }
    }
}

struct Chooser<'a> {
    graphs: GraphsOfContext<'a>,
    machine: &'a Machine,
    request: &'a Request,
}

impl Chooser<'_> {
    /// A fit for `context`, by the given step or the best.
    fn fitted(&self, context: Tokens, ubatch: Option<Tokens>) -> Result<(Chosen, Found), FitError> {
        let prompt = self.request.workload.prompt.0.max(1).next_power_of_two();
        let all = UBATCHES.into_iter().filter(|&n| n <= prompt.max(UBATCHES[0])).map(Tokens);
        let (mut best, mut failed): (Option<(Chosen, Found)>, _) = (None, None);
        for ubatch in ubatch.map_or_else(|| all.collect(), |told| vec![told]) {
            match self.by_step(context, ubatch) {
                Ok(found) if best.as_ref().is_none_or(|b| self.time(&found.0) < self.time(&b.0)) => best = Some(found),
                Ok(_) => {}
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        best.ok_or_else(|| failed.unwrap_or(FitError::NoDevice))
    }

    fn by_step(&self, context: Tokens, ubatch: Tokens) -> Result<(Chosen, Found), FitError> {
        let graphs = |batch: Batch| (self.graphs)(batch, Extent { context, ubatch });
        let request = Request { ubatch, ..self.request.clone() };
        let study = Study::new(&graphs, self.machine, &request)?;
        let found = fastest(&study)?;
        let fit = phases::with_phases(&study, &found)?;
        Ok((Chosen { fit, context, ubatch }, found))
    }

    fn time(&self, fitted: &Chosen) -> Nanos {
        fitted.fit.time(self.request.workload)
    }

    /// The fit for the longest context that takes no weights from accelerators, dealt as `found` is: that context is
    /// bisected, since a longer one never leaves more room.
    fn longest(&self, least: Chosen, found: &Found, most: Tokens) -> Result<Chosen, FitError> {
        let held = self.held(&least.fit);
        let keeps = |steps: u32| {
            let longer = self.dealt_alike(Tokens(steps * STEP), least.ubatch, found);
            longer.ok().filter(|longer| self.held(&longer.fit) >= held)
        };
        let (mut low, mut high) = (least.context.0 / STEP, most.0 / STEP + 1);
        let mut best = least.clone();
        while low + 1 < high {
            let middle = if high == most.0 / STEP + 1 { high - 1 } else { low.midpoint(high) };
            match keeps(middle) {
                Some(longer) => (best, low) = (longer, middle),
                None => high = middle,
            }
        }
        Ok(best)
    }

    fn dealt_alike(&self, context: Tokens, ubatch: Tokens, found: &Found) -> Result<Chosen, FitError> {
        let graphs = |batch: Batch| (self.graphs)(batch, Extent { context, ubatch });
        let request = Request { ubatch, ..self.request.clone() };
        let study = Study::new(&graphs, self.machine, &request)?;
        let found = fit_as(&study, found.choice, found.rule)?;
        let fit = phases::with_phases(&study, &found)?;
        Ok(Chosen { fit, context, ubatch })
    }

    /// Bytes of weights that accelerators have in their own memories.
    fn held(&self, fit: &Fit) -> Bytes {
        let cards = fit.memories.iter_ids().filter(|&(memory, _)| !self.machine.is_host(memory));
        cards.map(|(_, used)| used.weights).sum()
    }
}
