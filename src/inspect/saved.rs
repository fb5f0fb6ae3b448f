//! A document that [`json`](super::json) wrote → a plan and all that it was made of, proven again by the checker.

use serde::Deserialize;
use thiserror::Error;

use super::Planned;
use crate::device::{Machine, MachineError};
use crate::graph::{Batch, Graph, GraphFileError};
use crate::index::{Id, IndexVec};
use crate::plan::{Plan, Policy, Reason, Violation, check};
use crate::residency::Residency;

/// Why a saved plan is none.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum SavedError {
    #[error("this is no saved plan, as --format json writes one: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the saved plan's machine: {0}")]
    Machine(#[from] MachineError),
    #[error("the saved plan's graph: {0}")]
    Graph(#[from] GraphFileError),
    #[error("the saved plan's {what} names {found}, of which there are {most}")]
    Id { what: &'static str, found: u32, most: usize },
    #[error("the saved plan has homes for {found} {what}, its graph has {needed}")]
    Homes { what: &'static str, needed: usize, found: usize },
    #[error("the saved plan is for a step of {found:?}, its graph for {needed:?}")]
    Batch { needed: Batch, found: Batch },
    #[error("the saved plan cannot be executed: {0}")]
    Violation(#[from] Violation),
}

/// A plan that stands for itself, whatever this program would plan today.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The graph.
    pub graph: Graph,
    /// Where weights and states live.
    pub homes: Residency,
    /// The machine.
    pub machine: Machine,
    /// What the plan was made by.
    pub policy: Policy,
    /// The plan.
    pub plan: Plan,
}

/// The parts of a report that are read; all others are passed over.
#[derive(Deserialize)]
struct Document {
    machine: Machine,
    graph: serde_json::Value,
    homes: Residency,
    policy: Policy,
    plan: Plan,
}

impl Saved {
    /// Reads the text that [`json`](super::json) made of a report with a plan.
    ///
    /// # Errors
    /// The text has another form, an id in it names nothing, or the plan does not pass [`check`].
    pub fn parse(text: &str) -> Result<Saved, SavedError> {
        let Document { machine, graph, homes, policy, plan } = serde_json::from_str(text)?;
        machine.verify()?;
        let graph = Graph::from_json(&graph.to_string())?;
        let saved = Saved { graph, homes, machine, policy, plan };
        saved.homes_name_things()?;
        saved.plan_names_things()?;
        check(&saved.graph, &saved.homes, &saved.machine, &saved.plan)?;
        Ok(saved)
    }

    /// For comparing and showing.
    pub fn planned(&self) -> Planned<'_> {
        let Saved { graph, homes, machine, policy, plan } = self;
        Planned { graph, homes, machine, policy, plan }
    }

    fn homes_name_things(&self) -> Result<(), SavedError> {
        let count = |what, needed, found| match needed == found {
            true => Ok(()),
            false => Err(SavedError::Homes { what, needed, found }),
        };
        count("weights", self.graph.weights().len(), self.homes.weights.len())?;
        count("states", self.graph.states().len(), self.homes.states.len())?;
        for (weight, homes) in self.homes.weights.iter_ids() {
            for home in homes {
                within("homes", home.memory, &self.machine.memories)?;
                within("homes", home.slice.weight, self.graph.weights())?;
                let (end, most) = (home.slice.range.end, self.graph.weights()[weight].count);
                if end > most {
                    return Err(SavedError::Id { what: "homes", found: end, most: most as usize });
                }
            }
        }
        let mut memories = self.homes.states.iter().chain(self.homes.lanes.iter());
        memories.try_for_each(|&memory| within("homes", memory, &self.machine.memories))
    }

    fn plan_names_things(&self) -> Result<(), SavedError> {
        let Saved { graph, machine, plan, .. } = self;
        let nodes = &plan.placements;
        let (needed, found) = (graph.batch(), plan.batch);
        if needed != found {
            return Err(SavedError::Batch { needed, found });
        }
        for placed in plan.placements.iter() {
            within("placements", placed.device, &machine.devices)?;
            match placed.reason {
                Reason::WeightHome(w) | Reason::Offloaded { weight: w, rule: _ } => {
                    within("reasons", w, graph.weights())?;
                }
                Reason::Stays { weight, accelerator, rule: _ } => {
                    within("reasons", weight, graph.weights())?;
                    within("reasons", accelerator, &machine.devices)?;
                }
                Reason::StateHome(s) => within("reasons", s, graph.states())?,
                Reason::Lane(lane) => within("reasons", lane, &self.homes.lanes)?,
                Reason::FollowsInput(n) | Reason::FollowsUser(n) => within("reasons", n, nodes)?,
                Reason::FirstDevice => {}
            }
        }
        plan.splits.iter().try_for_each(|split| within("splits", split.device, &machine.devices))?;
        plan.inputs.iter().try_for_each(|input| within("inputs", input.device, &machine.devices))?;
        for transfer in plan.transfers.iter() {
            within("transfers", transfer.value, nodes)?;
            within("transfers", transfer.after, &plan.splits)?;
            within("transfers", transfer.to, &machine.devices)?;
        }
        for upload in plan.uploads.iter() {
            within("uploads", upload.slice.weight, graph.weights())?;
            within("uploads", upload.from, &machine.memories)?;
            within("uploads", upload.to, &machine.devices)?;
            within("uploads", upload.split, &plan.splits)?;
            upload.after.map_or(Ok(()), |split| within("uploads", split, &plan.splits))?;
            upload.chosen_by.map_or(Ok(()), |routing| within("uploads", routing, nodes))?;
        }
        Ok(())
    }
}

fn within<I: Id, T>(what: &'static str, id: I, of: &IndexVec<I, T>) -> Result<(), SavedError> {
    match of.get(id) {
        Some(_) => Ok(()),
        None => Err(SavedError::Id { what, found: id.index() as u32, most: of.len() }),
    }
}
