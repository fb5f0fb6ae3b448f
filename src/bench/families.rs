//! One step of a model on one device, a node at a time → time by family of ops. Every node is submitted alone and waited
//! for, which costs a launch: families compare with each other and over devices, their sum is more than a step takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::spread::Spread;
use super::timing::tokens;
use crate::backend::CellTable;
use crate::device::DeviceSpec;
use crate::exec::{ExecError, Nodes, Open, StepInput};
use crate::gguf::Gguf;
use crate::graph::{Batch, Family};
use crate::models::{CacheSpec, Model, ModelError};
use crate::tensor::DType;
use crate::units::{Bytes, Tokens};

/// What is timed.
pub struct FamilyTrial<'a> {
    /// The model.
    pub gguf: &'a Arc<Gguf>,
    /// The device, with what it may take.
    pub device: (DeviceSpec, Bytes),
    /// What opens it.
    pub open: Open<'a>,
    /// Tokens of the step, into an empty cache; one has logits.
    pub tokens: Tokens,
    /// Types of cached keys and values.
    pub cache: (DType, DType),
    /// Whether weights stay in the file mapping where the device can use them there.
    pub keep_mapping: bool,
    /// Runs of a node that are timed, behind one that is not.
    pub repetitions: u32,
}

/// Time of a step on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTime {
    /// The device's name.
    pub device: String,
    /// Tokens of the step.
    pub tokens: u32,
    /// In order of families.
    pub families: Vec<FamilyNanos>,
}

/// The nodes of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyNanos {
    /// The family.
    pub family: Family,
    /// Nodes of the graph.
    pub nodes: u32,
    /// Medians of the repetitions of each node, summed.
    pub nanoseconds: u64,
}

/// Why nothing was timed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum FamilyError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// Times the nodes of a step; `loading` is called with bytes of weights.
///
/// # Errors
/// The model does not build, or the device lacks memory or fails.
pub fn time_families(
    trial: &FamilyTrial<'_>,
    loading: &(dyn Fn(Bytes, Bytes) + Sync),
) -> Result<DeviceTime, FamilyError> {
    let (keys, values) = trial.cache;
    let cache = CacheSpec { cells: trial.tokens, keys, values, sliding: None };
    let model = Model::from_gguf(trial.gguf)?;
    let graph = model.graph(Batch { tokens: trial.tokens, outputs: Tokens(1) }, cache)?;
    let device = trial.device.clone();
    let nodes = Nodes::open(graph, trial.gguf, device, trial.open, trial.keep_mapping, loading)?;
    let ids: Vec<u32> = tokens(model.hparams().vocab).take(trial.tokens.index()).collect();
    let positions: Vec<u32> = (0..trial.tokens.0).collect();
    let pages: Vec<u32> = (0..trial.tokens.pages()).collect();
    let tables = [CellTable::single(&positions, trial.tokens, &pages)];
    let last = [trial.tokens.0.saturating_sub(1)];
    let step = StepInput { ids: &ids, positions: &positions, output_rows: &last, tables: &tables };
    let families = sums(&nodes, &step, trial.repetitions)?;
    Ok(DeviceTime { device: trial.device.0.name.clone(), tokens: trial.tokens.0, families })
}

fn sums(nodes: &Nodes, step: &StepInput<'_>, repetitions: u32) -> Result<Vec<FamilyNanos>, ExecError> {
    let mut sums: BTreeMap<Family, (u32, u64)> = BTreeMap::new();
    nodes.begin(step)?;
    for id in nodes.graph().node_ids() {
        let times: Vec<u64> = nodes.run(id, step, repetitions)?.into_iter().map(|time| time.0).collect();
        let (count, sum) = sums.entry(nodes.graph().node(id).op.family()).or_default();
        *count += 1;
        *sum += Spread::of(&times).map_or(0, |spread| spread.median);
    }
    let families = sums.into_iter().map(|(family, (nodes, nanoseconds))| FamilyNanos { family, nodes, nanoseconds });
    Ok(families.collect())
}
