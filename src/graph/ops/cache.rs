//! Writes of K and V rows into the cache, by cell index (a run-time argument).

use serde::{Deserialize, Serialize};

use crate::graph::op::operands;
use crate::graph::{NodeId, Operand, StateId};

/// `keys[cell[t]] = k[t]` and `values[cell[t]] = v[t]`; its value has no columns and only orders readers behind it.
/// A latent cache has keys alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheWrite {
    /// Rotated K rows.
    pub k: NodeId,
    /// V rows, if there is a V cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<NodeId>,
    /// The layer's K cache.
    pub keys: StateId,
    /// The layer's V cache, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<StateId>,
}

impl CacheWrite {
    pub(in crate::graph) fn operands(&self) -> Vec<Operand> {
        let [k, v] = [Some(self.k), self.v].map(|n| n.map(Operand::from));
        let [keys, values] = [Some(self.keys), self.values].map(|s| s.map(Operand::from));
        operands([], &[k, v, keys, values])
    }
}
