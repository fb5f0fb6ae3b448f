//! Writes of K and V rows into the cache, by cell index (a run-time argument).

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand, StateId};

/// `keys[cell[t]] = k[t]` and `values[cell[t]] = v[t]`; its value has no columns and only orders readers behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheWrite {
    /// Rotated K rows.
    pub k: NodeId,
    /// V rows.
    pub v: NodeId,
    /// The layer's K cache.
    pub keys: StateId,
    /// The layer's V cache.
    pub values: StateId,
}

impl CacheWrite {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        operands([self.k.into(), self.v.into(), self.keys.into(), self.values.into()], &[])
    }
}
