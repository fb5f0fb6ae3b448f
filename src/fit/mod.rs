//! Machine, graphs and wishes → a home for every weight, run of experts and state, by planning and pricing until
//! everything fits every batch bucket to the byte.
//! Pure like the planner: nothing is measured, equal inputs give equal homes.

mod capacity;
mod deal;
mod emit;
mod experts;
mod flags;
mod groups;
mod homes;
mod overrides;
mod parts;
mod phases;
mod propose;
mod search;
mod sizes;
mod step;
mod wishes;

use thiserror::Error;

use crate::device::{Machine, MemoryId};
use crate::graph::{Batch, Graph};
use crate::index::IndexVec;
use crate::plan::{Member, MemoryUse, Offload, Plan, PlanError, Policy, Sharded, Whole};
use crate::plan::{STEPS, followed, plan_by_rule, shard, streamed_runs};
use crate::residency::Residency;
use crate::units::{Bytes, Nanos, Tokens, Workload};

use capacity::Capacity;
use deal::{Assignment, Choice};
use parts::Parts;
use search::Found;

pub use emit::{json, table};
pub use flags::flags;
pub use groups::{groups, teams};
pub use overrides::Override;
pub use phases::DecodePhase;
pub use propose::propose;
pub use sizes::{Chosen, Extent, GraphsOfContext, Sizes, fit_sizes};
pub use wishes::{WishError, Wishes};

/// What is to be fitted.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tokens of the largest step.
    pub ubatch: Tokens,
    /// What to be best at.
    pub workload: Workload,
    /// The rule for weights in host memory, and what prices assume.
    pub policy: Policy,
    /// What the user wants to be so.
    pub wishes: Wishes,
}

/// Makes the graph of a batch bucket; all have the same weights and states.
pub type Graphs<'a> = &'a dyn Fn(Batch) -> Result<Graph, String>;

/// A bucket, planned.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its graph, cut along the homes.
    pub graph: Graph,
    /// Its plan.
    pub plan: Plan,
    /// The rule that it was planned by.
    pub offload: Offload,
}

/// Homes that fit, and what they promise.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The graph whose weights and states have the homes; cut, where devices work on layers together.
    pub graph: Graph,
    /// The homes.
    pub residency: Residency,
    /// What such devices do not share, and why.
    pub whole: Vec<Whole>,
    /// The model's own graph and its homes; of devices that work together, the first stands for all.
    pub(crate) dealt: Dealt,
    /// The largest step.
    pub largest: Bucket,
    /// The step of the workload's prompt.
    pub prefill: Bucket,
    /// A step of one token.
    pub decode: Bucket,
    /// What is allocated in each memory, all buckets together.
    pub memories: IndexVec<MemoryId, MemoryUse>,
    /// Predicted time of the prompt.
    pub prompt_time: Nanos,
    /// Predicted time of one generated token in these homes.
    pub token_time: Nanos,
    /// Homes for decode alone, where the workload gets faster by them.
    pub decode_phase: Option<DecodePhase>,
}

/// The graph of the largest step as the model builds it, and homes of its weights and states.
#[derive(Clone, Debug)]
pub(crate) struct Dealt {
    pub graph: Graph,
    pub residency: Residency,
}

impl Fit {
    /// Tokens that the cache holds.
    pub fn context(&self) -> Tokens {
        self.graph.states().iter().map(|s| s.cells).max().unwrap_or(Tokens(0))
    }

    /// Tokens of the largest step.
    pub fn ubatch(&self) -> Tokens {
        self.largest.plan.batch.tokens
    }

    /// Predicted time of `workload`.
    pub fn time(&self, workload: Workload) -> Nanos {
        let (between, token) = match &self.decode_phase {
            Some(phase) => (phase.bring_time, phase.token_time),
            None => (Nanos::ZERO, self.token_time),
        };
        self.prompt_time + between + Nanos(token.0.saturating_mul(workload.generate.0.into()))
    }
}

/// Why nothing fits.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum FitError {
    #[error("no graph for {tokens}: {why}", tokens = batch.tokens)]
    Graph { batch: Batch, why: String },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error("{memory} lacks {missing}: it needs {need} and may use {budget}{because}")]
    Short { memory: String, need: Bytes, budget: Bytes, missing: Bytes, because: String },
    #[error("the machine has no device")]
    NoDevice,
}

/// Rounds of planning and shrinking until everything fits; every round learns what arenas and rings take.
const ROUNDS: usize = 12;

/// Finds homes for the weights and states of `graphs` on `machine`.
///
/// # Errors
/// The graphs cannot be built or planned, or nothing fits: the memory and the bytes it lacks.
pub fn fit(graphs: Graphs<'_>, machine: &Machine, request: &Request) -> Result<Fit, FitError> {
    let study = Study::new(graphs, machine, request)?;
    phases::with_phases(&study, &search::fastest(&study)?)
}

fn fit_as(study: &Study<'_>, choice: Choice, rule: Offload) -> Result<Found, FitError> {
    let Study { machine, request, base, parts, .. } = study;
    let mut capacity = Capacity::of(machine, choice.cards, &study.teams)?.without_pinned(machine, parts);
    request.wishes.suit(machine, capacity.cards.len())?;
    let (mut best, mut last): (Option<(Bytes, Assignment, Residency, Bucket)>, _) = (None, None);
    let mut known = None;
    for _ in 0..ROUNDS {
        let assignment = Assignment::deal(parts, machine, &capacity, choice, &request.wishes)?;
        // What did not fit is dealt again with less room until something moves.
        if known.as_ref() == Some(&assignment) {
            if last.is_none() || !capacity.tighten() {
                break;
            }
            continue;
        }
        let residency = homes::homes(base, parts, &assignment);
        known = Some(assignment.clone());
        let largest = bucket_by(study, base, &study.homes(&residency)?, &residency, rule)?;
        let uses = study.together(&[&largest.plan]);
        let over = study.over(&uses);
        let held: Bytes = capacity.cards.iter().flat_map(|card| card.memories()).map(|m| uses[m].weights).sum();
        match over {
            Some(memory) => last = Some(short(machine, memory, &uses, &request.wishes)),
            None if best.as_ref().is_some_and(|(most, ..)| *most >= held) => break,
            None => (best, last) = (Some((held, assignment, residency, largest)), None),
        }
        capacity.learn(machine, parts, &uses, over.is_none());
    }
    let Some((_, assignment, residency, largest)) = best else { return Err(last.unwrap_or(FitError::NoDevice)) };
    let fit = planned(study, largest, residency)?;
    match study.over(&fit.memories) {
        Some(memory) => Err(short(machine, memory, &fit.memories, &request.wishes)),
        None => Ok(Found { fit, assignment, choice, rule }),
    }
}

fn short(machine: &Machine, memory: MemoryId, uses: &IndexVec<MemoryId, MemoryUse>, wishes: &Wishes) -> FitError {
    let (need, budget) = (uses[memory].total(), machine.budget(memory));
    let missing = Bytes(need.0.saturating_sub(budget.0));
    FitError::Short { memory: name(machine, memory).to_owned(), need, budget, missing, because: wishes.named() }
}

fn build(graphs: Graphs<'_>, tokens: Tokens) -> Result<Graph, FitError> {
    let batch = Batch { tokens, outputs: Tokens(1) };
    graphs(batch).map_err(|why| FitError::Graph { batch, why })
}

/// A bucket's graph, cut for one rule, and its plan; `homes` are those of [`Study::homes`].
fn bucket_by(
    study: &Study<'_>,
    graph: &Graph,
    homes: &Residency,
    residency: &Residency,
    offload: Offload,
) -> Result<Bucket, FitError> {
    let policy = Policy { offload, ..study.request.policy.clone() };
    let runs = streamed_runs(graph, residency, &study.endless, &policy);
    let graph = shard(graph, &runs, &study.teams)?.graph;
    let plan = plan_by_rule(&graph, homes, &study.endless, &policy)?;
    Ok(Bucket { graph, plan, offload })
}

/// The fastest of a bucket's plans that fits with those beside it, or if none does the fastest. Of `Auto`, its wholes are compared too.
fn bucket(study: &Study<'_>, residency: &Residency, tokens: Tokens, beside: &[&Plan]) -> Result<Bucket, FitError> {
    let graph = if tokens == study.request.ubatch { study.base.clone() } else { build(study.graphs, tokens)? };
    let homes = study.homes(residency)?;
    let mut found = Vec::new();
    for rule in study.rules() {
        found.push(bucket_by(study, &graph, &homes, residency, rule)?);
    }
    let fits = |b: &Bucket| study.over(&study.together(&[&[&b.plan], beside].concat())).is_none();
    let rank = |b: &Bucket| (!fits(b), study.time(b, 1));
    found.into_iter().min_by_key(rank).ok_or(FitError::NoDevice)
}

fn planned(study: &Study<'_>, largest: Bucket, residency: Residency) -> Result<Fit, FitError> {
    let Request { ubatch, workload, .. } = study.request;
    let step = workload.prompt.min(*ubatch).max(Tokens(1));
    let prefill = if step == *ubatch { largest.clone() } else { bucket(study, &residency, step, &[&largest.plan])? };
    let decode = bucket(study, &residency, Tokens(1), &[&largest.plan, &prefill.plan])?;
    let steps = workload.prompt.0.div_ceil(step.0).max(1);
    let (prompt_time, token_time) = (study.time(&prefill, steps), study.time(&decode, 1));
    let memories = study.together(&[&largest.plan, &prefill.plan, &decode.plan]);
    let dealt = Dealt { graph: study.base.clone(), residency };
    let Sharded { graph, residency, whole } = shard(&study.base, &dealt.residency, &study.teams)?;
    let graph = if study.teams.is_empty() { dealt.graph.clone() } else { graph };
    Ok(Fit {
        graph,
        residency,
        whole,
        dealt,
        largest,
        prefill,
        decode,
        memories,
        prompt_time,
        token_time,
        decode_phase: None,
    })
}

/// What one fit is about.
struct Study<'a> {
    graphs: Graphs<'a>,
    machine: Machine,
    /// The machine without limits: plans that are too large say by how much.
    endless: Machine,
    request: &'a Request,
    /// The graph of the largest step.
    base: Graph,
    parts: Parts,
    /// Devices that work on layers together.
    teams: Vec<Vec<Member>>,
}

impl<'a> Study<'a> {
    fn new(graphs: Graphs<'a>, machine: &Machine, request: &'a Request) -> Result<Study<'a>, FitError> {
        let machine = request.wishes.with_margins(machine)?;
        let base = build(graphs, request.ubatch)?;
        let pins = overrides::pins(&base, &machine, &request.wishes.overrides)?;
        let parts = Parts::of(&base, &pins);
        let mut endless = machine.clone();
        for memory in machine.memories.ids() {
            endless.memories[memory].free = Bytes(u64::MAX >> 2);
        }
        let teams = teams(&machine, request.wishes.together as usize);
        if let Some(pin) = parts.pinned.iter().find(|pin| !teams.is_empty() && base.weights()[pin.weight].count == 1) {
            let wish = format!("-ot of {}", base.weights()[pin.weight].name);
            return Err(WishError::Together { wish }.into());
        }
        Ok(Study { graphs, machine, endless, request, base, parts, teams })
    }

    /// The homes of what the graph is cut into, alike for every batch and however streaming cuts experts.
    fn homes(&self, residency: &Residency) -> Result<Residency, FitError> {
        if self.teams.is_empty() {
            return Ok(residency.clone());
        }
        Ok(shard(&self.base, residency, &self.teams)?.residency)
    }

    /// The rules to plan by: of `Auto` its prices, nothing moved, and everything moved.
    fn rules(&self) -> impl Iterator<Item = Offload> + use<> {
        let told = self.request.policy.offload;
        let others = if told == Offload::Auto { &Offload::WHOLES[..] } else { &[] };
        std::iter::once(told).chain(others.iter().copied())
    }

    fn time(&self, bucket: &Bucket, steps: u32) -> Nanos {
        followed(&bucket.graph, &self.endless, &self.request.policy, &bucket.plan, steps, STEPS).1
    }

    /// The first memory that is too small.
    fn over(&self, uses: &IndexVec<MemoryId, MemoryUse>) -> Option<MemoryId> {
        self.machine.memories.ids().find(|&m| uses[m].total() > self.machine.budget(m))
    }

    /// What several buckets' plans need at a time: weights and states once, of arenas and rings each device's largest.
    fn together(&self, plans: &[&Plan]) -> IndexVec<MemoryId, MemoryUse> {
        let mut uses: IndexVec<MemoryId, MemoryUse> = plans[0].memories.iter().copied().collect();
        for memory in self.machine.memories.ids() {
            (uses[memory].arenas, uses[memory].rings) = (Bytes::ZERO, Bytes::ZERO);
        }
        for (device, spec) in self.machine.devices.iter_ids() {
            let most = |of: &dyn Fn(&Plan) -> Bytes| plans.iter().map(|p| of(p)).max().unwrap_or_default();
            uses[spec.memory].arenas += most(&|p| p.arenas[device].bytes);
            uses[spec.memory].rings += most(&|p| p.rings[device]);
        }
        uses
    }
}

/// A memory's name, for messages.
fn name(machine: &Machine, memory: MemoryId) -> &str {
    machine.memories.get(memory).map_or("?", |m| m.name.as_str())
}
