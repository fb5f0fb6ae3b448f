//! What a step must be before anything of it runs: rows, ids and outputs that the graph can take. Changes nothing.

use super::{ExecError, SessionLimits, StepInput};
use crate::graph::ops::Rows;
use crate::graph::{Graph, Op};

impl StepInput<'_> {
    /// Refuses rows beyond `limits`, and ids that are not below `vocab`.
    pub(super) fn admit(&self, limits: SessionLimits, vocab: u32) -> Result<(), ExecError> {
        let (tokens, outputs) = (self.ids.len(), self.output_rows.len());
        let SessionLimits { tokens: most_tokens, outputs: most_outputs } = limits;
        if tokens == 0 || tokens > most_tokens.index() || outputs > most_outputs.index() {
            let (most_tokens, most_outputs) = (most_tokens.0, most_outputs.0);
            return Err(ExecError::TooLarge { tokens, outputs, most_tokens, most_outputs });
        }
        if outputs > tokens {
            return Err(ExecError::Length { what: "output rows", needed: tokens, found: outputs });
        }
        if self.positions.len() != tokens {
            return Err(ExecError::Length { what: "positions", needed: tokens, found: self.positions.len() });
        }
        if let Some(&id) = self.ids.iter().find(|&&id| id >= vocab) {
            return Err(ExecError::TokenId { id, vocab });
        }
        if let Some(&row) = self.output_rows.iter().find(|&&row| row as usize >= tokens) {
            return Err(ExecError::OutputRow { row, tokens });
        }
        Ok(())
    }
}

/// Rows of the embedding; without one, no id is refused.
pub(super) fn vocab_of(graph: &Graph) -> u32 {
    let embedded = graph.nodes().find_map(|(_, node)| match &node.op {
        Op::Rows(Rows::Embed(op)) => Some(graph.weights()[op.weight].rows),
        Op::Rows(Rows::Select(_)) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rope(_) | Op::Cache(_) => {
            None
        }
        Op::Attention(_) | Op::Elementwise(_) | Op::Moe(_) => None,
    });
    embedded.unwrap_or(u32::MAX)
}
