//! The routing of a step → the runs of experts that it chose, of an upload that brings nothing else. A routing is read
//! once, from the device that it was brought or made for, and kept for the other uploads of its layer. Never allocates
//! once its room is made.

use std::ops::Range;

use super::StepInput;
use crate::backend::BackendError;
use crate::graph::{Batch, Graph, NodeId, RowDim};
use crate::plan::{Plan, Span, SplitId, TransferId, Upload, View, brings_chosen};
use crate::units::{Bytes, Tokens};

/// What knows which experts an upload must bring.
pub(super) struct Routed {
    /// The routing.
    value: NodeId,
    /// With what it is on the device.
    pub came: Came,
    /// Its rows.
    dim: RowDim,
    /// Bytes of a row.
    row: Bytes,
    /// Choices of a row.
    used: u32,
    /// Where its first row lies in the device's arena.
    at: Bytes,
    /// Experts of the layer.
    experts: u32,
    /// Those of the upload.
    range: Range<u32>,
}

/// How a value got to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A split of the device made it.
    Made(SplitId),
    /// Another device did.
    Taken(TransferId),
}

impl Routed {
    /// That of an upload, where the plan has one before the upload's split; `view` is of the upload's device.
    pub fn of(graph: &Graph, plan: &Plan, view: &View, upload: &Upload) -> Option<Routed> {
        let value = upload.chosen_by?;
        let came = match plan.placements[value].device == upload.to {
            true => Came::Made(plan.splits.iter_ids().find(|(_, split)| split.nodes.contains(&value))?.0),
            false => Came::Taken(plan.transfers.iter_ids().find(|(_, t)| t.value == value && t.to == upload.to)?.0),
        };
        let behind = match came {
            Came::Made(split) => split,
            Came::Taken(transfer) => plan.transfers[transfer].after,
        };
        let out = graph.node(value).out;
        let routed = Routed {
            value,
            came,
            dim: out.rows,
            row: out.element.bytes_of(out.cols.into()),
            used: out.cols,
            at: view.values[value].offset,
            experts: graph.weights()[upload.slice.weight].count,
            range: upload.slice.range.clone(),
        };
        (behind < upload.split).then_some(routed)
    }

    /// Whether so few rows choose that only what they chose is brought.
    pub fn decides(&self, input: &StepInput<'_>) -> bool {
        brings_chosen(self.experts, self.used, input.rows(self.dim))
    }

    /// The choices of so many rows.
    fn span(&self, rows: Tokens) -> Span {
        Span { offset: self.at, len: self.row.times(rows.0.into()) }
    }
}

/// The experts that one routing of a step chose.
#[derive(Default)]
pub(super) struct Chosen {
    of: Option<NodeId>,
    choices: Vec<u8>,
    experts: Vec<bool>,
}

impl Chosen {
    /// Makes room for a routing.
    pub fn reserve(&mut self, routed: &Routed, batch: Batch) {
        let choices = routed.span(batch.rows(routed.dim)).len.index();
        self.choices.resize(choices.max(self.choices.len()), 0);
        self.experts.resize(self.experts.len().max(routed.experts as usize), false);
    }

    /// Knows none, at the end of a step.
    pub fn forget(&mut self) {
        self.of = None;
    }

    /// Knows what `routed` chose in this step: `read` fills in the choices at a place of the arena, if they are not known.
    pub fn know(
        &mut self,
        routed: &Routed,
        input: &StepInput<'_>,
        read: impl FnOnce(Span, &mut [u8]) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        if self.of == Some(routed.value) {
            return Ok(());
        }
        self.of = None;
        let span = routed.span(input.rows(routed.dim));
        let choices = &mut self.choices[..span.len.index()];
        if !choices.is_empty() {
            read(span, choices)?;
        }
        self.experts.fill(false);
        let choice = (routed.row.index() / routed.used.max(1) as usize).max(1);
        for choice in choices.chunks_exact(choice) {
            // A choice begins with the expert.
            let expert = choice.first_chunk().map(|expert| u32::from_le_bytes(*expert) as usize);
            if let Some(chosen) = expert.and_then(|expert| self.experts.get_mut(expert)) {
                *chosen = true;
            }
        }
        self.of = Some(routed.value);
        Ok(())
    }

    /// The first run of chosen experts from the upload's matrix `from` on, by their places in the upload.
    pub fn run(&self, routed: &Routed, from: u32) -> Option<Range<u32>> {
        let own = &self.experts[routed.range.start as usize..routed.range.end as usize];
        let rest = own.get(from as usize..)?;
        let start = from + rest.iter().position(|&chosen| chosen)? as u32;
        let len = own[start as usize..].iter().take_while(|&&chosen| chosen).count() as u32;
        Some(start..start + len)
    }
}
