//! A running engine and a test → what the plans of its steps said before: time, memory, and a hash that tells plans apart.
//! Plans only; measures nothing.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::spread::rate;
use super::timing::Test;
use crate::engine::{Engine, EngineError};
use crate::exec::{ExecError, Session};
use crate::plan::{Plan, STEPS, followed, timeline};
use crate::units::Nanos;

/// What plans said of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foresight {
    /// Steps of one repetition.
    pub n_steps: u32,
    /// The time of all of them, those of a prompt each as soon as devices are free, each that of the bucket that serves it:
    /// a plan is for the next power of two of its tokens, and prices attention over
    /// [`Policy::context`](crate::plan::Policy::context) cells.
    pub predicted_ns: Option<u64>,
    /// XXH64 of the JSON bytes of the plans of the different steps, in the order in which they run.
    pub plan: Option<String>,
}

impl Foresight {
    /// Tokens a second, were the predicted time true.
    pub fn rate(&self, tokens: u32) -> Option<f64> {
        self.predicted_ns.map(|ns| rate(tokens, ns))
    }

    /// The predicted time of a step, on average.
    pub fn step(&self) -> Option<Nanos> {
        self.predicted_ns.map(|ns| Nanos(ns / u64::from(self.n_steps.max(1))))
    }
}

/// A memory while a row was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFacts {
    /// Its name.
    pub memory: String,
    /// What plans may take of it.
    pub budget: u64,
    /// Planned bytes of weights that are not used from the file mapping.
    pub weights: u64,
    /// Planned bytes of caches.
    pub states: u64,
    /// Planned bytes of arenas.
    pub arenas: u64,
    /// Planned bytes of rings.
    pub rings: u64,
    /// What the device that computes from it counts as allocated. All is allocated before the first step, and stays, so
    /// this is the most.
    pub allocated: Option<u64>,
}

impl MemoryFacts {
    /// All that was planned; what a file says may be past any sum.
    pub fn planned(&self) -> u64 {
        [self.weights, self.states, self.arenas, self.rings].into_iter().fold(0, u64::saturating_add)
    }
}

/// What the plans of a test's steps say.
///
/// # Errors
/// A step cannot be planned.
pub fn foresee(engine: &mut Engine, test: Test) -> Result<Foresight, EngineError> {
    let session = engine.session();
    let mut hash = XxHash64::with_seed(0);
    let mut time = Nanos(0);
    let mut n_steps = 0;
    for (tokens, count) in steps(session, test) {
        time += predicted(session, (tokens, count), test, &mut hash)?;
        n_steps += count;
    }
    let plan = format!("xxh64 {:016x}", hash.finish());
    Ok(Foresight { n_steps, predicted_ns: Some(time.0), plan: Some(plan) })
}

/// Tokens of a test's steps, each with how many there are.
fn steps(session: &Session, test: Test) -> Vec<(u32, u32)> {
    let most = session.limits().tokens.0.max(1);
    match test {
        Test::Generate(n) => vec![(1, n)],
        Test::Prompt(n) if n > most => {
            let whole = (n - 1) / most;
            vec![(most, whole), (n - whole * most, 1)]
        }
        Test::Prompt(n) => vec![(n, 1)],
    }
}

fn predicted(
    session: &mut Session,
    (tokens, count): (u32, u32),
    test: Test,
    hash: &mut XxHash64,
) -> Result<Nanos, ExecError> {
    let batch = session.serving(tokens as usize, 1)?;
    let (graph, plan) = session.planned(batch)?;
    hash.write(&bytes(&plan));
    let (machine, policy) = (session.machine(), session.policy());
    Ok(match test {
        Test::Prompt(_) => followed(&graph, machine, policy, &plan, count, STEPS).1,
        // A token is known when the step before has ended.
        Test::Generate(_) => {
            let step = timeline(&graph, machine, policy, &plan, 1).end();
            Nanos(step.0.saturating_mul(count.into()))
        }
    })
}

/// The plan as its file form has it.
fn bytes(plan: &Plan) -> Vec<u8> {
    serde_json::to_vec(plan).expect("a plan is numbers and names")
}

/// Every memory of a running engine.
pub fn memories(engine: &mut Engine) -> Vec<MemoryFacts> {
    let session = engine.session();
    let (allocated, machine) = (session.allocated(), session.machine());
    let facts = session.memories().iter_ids().map(|(id, used)| MemoryFacts {
        memory: machine.memories[id].name.clone(),
        budget: machine.budget(id).0,
        weights: used.weights.0,
        states: used.states.0,
        arenas: used.arenas.0,
        rings: used.rings.0,
        allocated: machine.device_of(id).map(|device| allocated[device].0),
    });
    facts.collect()
}
