//! Graphs, homes, machine, policy and a workload → how fast it runs there and what it waits for, in virtual time.
//! Pure: plans both phases, runs their timelines, measures and opens nothing.

mod calibrate;
mod causes;
mod homes;
mod memory;
mod rows;
mod trace;

use serde::Serialize;

use crate::device::{DeviceId, Machine, MemoryId};
use crate::graph::Graph;
use crate::index::IndexVec;
use crate::plan::{Plan, PlanError, Policy, Timeline, partition, plan, timeline};
use crate::residency::Residency;
use crate::units::{Bytes, Nanos, Tokens};

pub use calibrate::{CalibrateError, Row, Side, calibrate};
pub use causes::{Causes, causes};
pub use homes::{NoMemory, Wish, homes};
pub use memory::{Level, levels};
pub use rows::{Measurement, Named, Rows, RowsError, Rule};
pub use trace::trace;

/// What is to be run: a prompt, then tokens one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Tokens of the prompt.
    pub prompt: Tokens,
    /// Tokens that are generated behind it.
    pub generate: Tokens,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload { prompt: Tokens(512), generate: Tokens(128) }
    }
}

/// Whether devices copy while they compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// As their specs say.
    #[default]
    Spec,
    /// None does.
    Off,
}

/// Where and how it is run.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The homes, the same in both phases.
    pub residency: &'a Residency,
    /// The machine.
    pub machine: &'a Machine,
    /// What plans decide by; its context is replaced by that of each phase.
    pub policy: &'a Policy,
    /// Whether devices copy while they compute.
    pub overlap: Overlap,
}

/// One phase of a workload.
#[derive(Clone, Debug)]
pub struct Phase {
    /// The graph, cut along the homes of its experts.
    pub graph: Graph,
    /// What the plan was made by.
    pub policy: Policy,
    /// The plan of one step.
    pub plan: Plan,
    /// What happens when, in the first steps.
    pub timeline: Timeline,
    /// Tokens of the phase.
    pub tokens: Tokens,
    /// Steps of the phase.
    pub steps: u32,
    /// How long all of them take.
    pub time: Nanos,
}

impl Phase {
    /// Tokens a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.tokens.0) / self.time.seconds()
    }
}

/// Both phases; one without tokens is left out.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The prompt.
    pub prefill: Option<Phase>,
    /// The tokens behind it, one a step.
    pub decode: Option<Phase>,
}

impl Simulation {
    /// The phases with their names, in order.
    pub fn phases(&self) -> impl Iterator<Item = (&'static str, &Phase)> {
        let named = [("prefill", &self.prefill), ("decode", &self.decode)];
        named.into_iter().filter_map(|(name, phase)| Some((name, phase.as_ref()?)))
    }

    /// The most bytes of each memory that either plan allocates.
    pub fn peaks(&self, setting: &Setting<'_>) -> IndexVec<MemoryId, Bytes> {
        let uses = |m: MemoryId| self.phases().map(move |(_, phase)| phase.plan.memories[m].total());
        setting.machine.memories.ids().map(|m| uses(m).max().unwrap_or_default()).collect()
    }
}

/// Steps whose timelines are worked out; all later ones take as long as the last of them.
const STEPS: u32 = 8;

/// Runs `workload` in virtual time. `prefill` is the graph of the prompt's steps, `decode` that of one token; of a
/// prompt that is no whole number of steps the last one takes as long as the others. Attention is priced at the mean
/// number of cells that the phase sees.
///
/// # Errors
/// There is no plan for a phase.
pub fn simulate(
    prefill: &Graph,
    decode: &Graph,
    setting: &Setting<'_>,
    workload: Workload,
) -> Result<Simulation, PlanError> {
    let Workload { prompt, generate } = workload;
    let behind = Tokens(prompt.0.saturating_add(generate.0 / 2));
    Ok(Simulation {
        prefill: phase(prefill, setting, prompt, Tokens(prompt.0.div_ceil(2)))?,
        decode: phase(decode, setting, generate, behind)?,
    })
}

fn phase(graph: &Graph, setting: &Setting<'_>, tokens: Tokens, context: Tokens) -> Result<Option<Phase>, PlanError> {
    if tokens == Tokens(0) {
        return Ok(None);
    }
    let Setting { residency, machine, policy, overlap } = *setting;
    let machine = &as_allowed(machine, overlap);
    let graph = partition(graph, residency)?;
    let policy = Policy { context, ..policy.clone() };
    let plan = plan(&graph, residency, machine, &policy)?;
    let steps = tokens.0.div_ceil(graph.batch().tokens.0);
    let run = |steps| timeline(&graph, machine, &policy, &plan, steps);
    let timeline = run(steps.min(STEPS));
    let time = match steps.checked_sub(STEPS) {
        None | Some(0) => timeline.end(),
        Some(rest) => {
            let a_step = timeline.end().saturating_sub(run(STEPS - 1).end());
            timeline.end() + Nanos(a_step.0.saturating_mul(rest.into()))
        }
    };
    Ok(Some(Phase { graph, policy, plan, timeline, tokens, steps, time }))
}

/// The time of one step of `graph`.
///
/// # Errors
/// There is no plan.
pub fn step_time(graph: &Graph, setting: &Setting<'_>) -> Result<Nanos, PlanError> {
    let graph = partition(graph, setting.residency)?;
    let machine = &as_allowed(setting.machine, setting.overlap);
    let plan = plan(&graph, setting.residency, machine, setting.policy)?;
    Ok(timeline(&graph, machine, setting.policy, &plan, 1).end())
}

/// The machine as an engine that overlaps, or does not, sees it.
fn as_allowed(machine: &Machine, overlap: Overlap) -> Machine {
    let mut machine = machine.clone();
    let ids: Vec<DeviceId> = machine.devices.ids().collect();
    ids.into_iter().filter(|_| overlap == Overlap::Off).for_each(|id| machine.devices[id].overlaps = false);
    machine
}
