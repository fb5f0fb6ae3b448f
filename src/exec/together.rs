//! A model whose layers several devices work on together: its graphs, cut alike for every batch, and their homes.

use super::{ExecError, GraphSource};
use crate::graph::{Batch, Graph};
use crate::plan::{Member, PlanError, Sharded, shard};
use crate::residency::Residency;
use crate::units::Tokens;

/// Graphs of a model, cut over groups of devices.
pub struct Together {
    source: Box<dyn GraphSource>,
    /// Homes of the graphs before they are cut.
    homes: Residency,
    groups: Vec<Vec<Member>>,
}

impl Together {
    /// The graphs of `source` cut over `groups`, whose members' memories `homes` names, and the homes of what they are
    /// cut into.
    ///
    /// # Errors
    /// The model does not build, or cannot be cut so.
    pub fn new(
        source: Box<dyn GraphSource>,
        homes: impl FnOnce(&Graph) -> Residency,
        groups: Vec<Vec<Member>>,
    ) -> Result<(Together, Residency), ExecError> {
        let batch = Batch { tokens: Tokens(1), outputs: Tokens(1) };
        let graph = source.graph(batch).map_err(|why| ExecError::Graph { batch, why })?;
        let together = Together { homes: homes(&graph), source, groups };
        let residency = together.cut(&graph)?.residency;
        Ok((together, residency))
    }

    fn cut(&self, graph: &Graph) -> Result<Sharded, PlanError> {
        shard(graph, &self.homes, &self.groups)
    }
}

impl GraphSource for Together {
    fn graph(&self, batch: Batch) -> Result<Graph, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.cut(&self.source.graph(batch)?)?.graph)
    }
}
