//! Devices and wishes → homes: dealt by budgets, or by the number of layers that cards are to have, or those that `fit`
//! predicts to be fastest, in the layouts that the devices read.

use std::sync::Arc;

use super::{EngineError, ModelSource, Opened};
use crate::exec::{GraphSource, SessionLimits, Together, dealt_as, laid_out};
use crate::fit::{Request, fit, teams};
use crate::gguf::Gguf;
use crate::graph::{Batch, Graph};
use crate::plan::Policy;
use crate::residency::Residency;
use crate::units::{Tokens, Workload};

/// What homes are to be fastest at.
const WORKLOAD: Workload = Workload { prompt: Tokens(512), generate: Tokens(128) };

impl Opened {
    /// The graphs of the model, cut where devices work together, and the homes of what they have.
    pub(super) fn placed(
        &self,
        source: ModelSource,
        gguf: &Arc<Gguf>,
        policy: &Policy,
        limits: SessionLimits,
    ) -> Result<(Together, Residency), EngineError> {
        let Opened { machine, options, .. } = self;
        let teams = teams(machine, options.together as usize);
        let apart = machine.devices.iter().any(|device| device.is_accelerator())
            && machine.devices.iter().any(|device| !device.is_accelerator());
        if options.fitted && apart && teams.is_empty() {
            let graph = |batch: Batch| {
                let outputs = limits.outputs.min(batch.tokens);
                source.graph(Batch { outputs, ..batch }).map_err(|why| why.to_string())
            };
            let (ubatch, policy) = (limits.tokens, policy.clone());
            let request = Request { ubatch, workload: WORKLOAD, policy, wishes: Default::default() };
            let found = fit(&graph, machine, &request)?;
            let homes = laid_out(&found.graph, gguf, machine, options.keep_mapping, found.residency);
            return Ok(Together::new(Box::new(source), |_| homes, teams)?);
        }
        let home = |graph: &Graph| dealt_as(graph, gguf, machine, options.keep_mapping, options.gpu_layers);
        Ok(Together::new(Box::new(source), home, teams)?)
    }
}
