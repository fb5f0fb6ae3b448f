//! Plans of a workload's phases → how fast it runs and what it waits for, in virtual time.
//! Pure: runs timelines, measures and opens nothing.

mod calibrate;
mod causes;
mod memory;
mod rows;
mod trace;

use serde::Serialize;

use crate::device::{DeviceId, Machine};
use crate::fit::Bucket;
use crate::graph::Graph;
use crate::plan::{Plan, PlanError, Policy, STEPS, Timeline, followed, partition, plan, timeline};
use crate::residency::Residency;
use crate::units::{Nanos, Tokens, Workload};

pub use calibrate::{CalibrateError, Row, Side, calibrate};
pub use causes::{Causes, causes};
pub use memory::{Level, levels};
pub use rows::{Flags, Measurement, Named, Rows, RowsError, Rule};
pub use trace::{Planned, measured, trace, trace_document};

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

impl Overlap {
    /// The machine as an engine that overlaps, or does not, sees it.
    pub fn of(self, machine: &Machine) -> Machine {
        let mut machine = machine.clone();
        let ids: Vec<DeviceId> = machine.devices.ids().collect();
        ids.into_iter().filter(|_| self == Overlap::Off).for_each(|id| machine.devices[id].overlaps = false);
        machine
    }
}

/// Where and how a step is run.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The homes.
    pub residency: &'a Residency,
    /// The machine.
    pub machine: &'a Machine,
    /// What its plan decides by.
    pub policy: &'a Policy,
    /// Whether devices copy while they compute.
    pub overlap: Overlap,
}

/// One phase of a workload.
#[derive(Clone, Debug)]
pub struct Phase {
    /// The graph, cut along the homes of its experts.
    pub graph: Graph,
    /// What times assume.
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
}

/// Runs `workload` in virtual time on `machine`. `prefill` is a step of the prompt, `decode` one of one token; of a prompt
/// that is no whole number of steps the last one takes as long as the others. Steps of the prompt follow each other as
/// soon as devices are free, a token only when the one before it is done. Times assume what `policy` says, but attention
/// is priced at the mean number of cells that the phase sees.
pub fn simulate(
    prefill: &Bucket,
    decode: &Bucket,
    machine: &Machine,
    policy: &Policy,
    workload: Workload,
) -> Simulation {
    let Workload { prompt, generate } = workload;
    let seeing = |context| Policy { context, ..policy.clone() };
    let behind = Tokens(prompt.0.saturating_add(generate.0 / 2));
    Simulation {
        prefill: phase(prefill, machine, seeing(Tokens(prompt.0.div_ceil(2))), prompt, STEPS),
        decode: phase(decode, machine, seeing(behind), generate, 1),
    }
}

/// A phase of `tokens` tokens, of whose steps at most `together` are under way.
fn phase(step: &Bucket, machine: &Machine, policy: Policy, tokens: Tokens, together: u32) -> Option<Phase> {
    if tokens == Tokens(0) {
        return None;
    }
    let Bucket { graph, plan, .. } = step.clone();
    let steps = tokens.0.div_ceil(graph.batch().tokens.0);
    let (timeline, time) = followed(&graph, machine, &policy, &plan, steps, together);
    Some(Phase { graph, policy, plan, timeline, tokens, steps, time })
}

/// The time of one step of `graph`.
///
/// # Errors
/// There is no plan.
pub fn step_time(graph: &Graph, setting: &Setting<'_>) -> Result<Nanos, PlanError> {
    let graph = partition(graph, setting.residency)?;
    let machine = &setting.overlap.of(setting.machine);
    let plan = plan(&graph, setting.residency, machine, setting.policy)?;
    Ok(timeline(&graph, machine, setting.policy, &plan, 1).end())
}
