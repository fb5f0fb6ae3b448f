//! Attention and the choice of experts → drafts of launches.

use std::ops::Range;

use super::build::Builder;
use super::kernels::File;
use super::operands::dim_word;
use super::program::{Axis, Count, Draft};
use crate::backend::BackendError;
use crate::device::AttentionParts;
use crate::graph::ops::{self, ExpertPart, Gating, Mask, Values};
use crate::graph::{NodeId, RowDim};

/// Threads of a block that adds parts.
const MERGE_THREADS: u32 = 128;

impl Builder<'_> {
    pub fn attention(&mut self, op: &ops::Attention, id: NodeId) -> Result<(), BackendError> {
        let (keys, key_rows) = self.state(op.keys)?;
        let (held, same) = match op.values {
            Values::State(values) => (values, false),
            Values::Prefix { prefix: _ } => (op.keys, true),
        };
        let (values, value_rows) = self.state(held)?;
        let states = self.work.graph.states();
        let (kept, value_type) = (&states[op.keys], states[held].dtype);
        let value_dim = op.values.head_dim(|id| &states[id]);
        let window = match op.mask {
            Mask::Causal => 0,
            Mask::Window(n) => n,
        };
        let (value, q) = (self.value(id)?, self.value(op.q)?);
        let cut = AttentionParts::of(self.work.graph, op);
        let all = self.rows(value.dim);
        let parts = self.scratch_part(self.scratch.parts, cut.bytes.times(cut.rows.min(all).into()))?;
        let few = if parts.is_some() { cut.rows } else { 0 };
        let group = op.heads / kept.heads.max(1);
        let rows = [key_rows.row, key_rows.head, value_rows.row, value_rows.head];
        let class = self.work.graph.class_of(op.keys).0;
        let numbers = [&[op.heads, group, window, op.scale.to_bits()][..], &rows, &[class, cut.span, cut.count]];
        let upper = |name: &str| name.to_ascii_uppercase();
        let drafted = Draft {
            defines: vec![
                format!("KEYS={}", upper(kept.dtype.name())),
                format!("VALUES={}", upper(value_type.name())),
                format!("KEY_DIM={}", kept.head_dim),
                format!("VALUE_DIM={value_dim}"),
                format!("SAME={}", u32::from(same)),
                format!("ROOM={}", self.room()),
            ],
            addresses: vec![keys, values, q.at, value.at, parts.unwrap_or(0)],
            numbers: numbers.concat(),
            ..Draft::plain(File::ATTENTION, "attention")
        };
        let [wide, wide_threads, wide_shared, groups, narrow, narrow_threads, narrow_shared, _] =
            self.size_of(&drafted, "attention_shape", 4)?;
        let heads = |vectors: u32| Axis::fixed(kept.heads * group.div_ceil(vectors.max(1)));
        let tiles = Axis::rows(1, (wide / group.max(1)).max(1));
        let (each, one) = (Axis::rows(1, 1), Axis::fixed(1));
        let (parts, whole) = (1..few + 1, few + 1..u32::MAX);
        let kinds = [
            ("attention_parts", narrow_threads, narrow_shared, &parts, [each, heads(narrow), Axis::fixed(cut.count)]),
            ("attention_merge", MERGE_THREADS, 0, &parts, [each, Axis::fixed(op.heads), one]),
            ("attention", wide_threads, wide_shared, &whole, [tiles, heads(wide), Axis::fixed(groups)]),
        ];
        for (entry, threads, shared, when, grid) in kinds {
            if !when.is_empty() && when.start <= all {
                let when = when.clone();
                self.drafts.push(Draft {
                    entry,
                    threads,
                    shared,
                    count: Count { dim: RowDim::Tokens, when, grid },
                    ..drafted.clone()
                });
            }
        }
        Ok(())
    }

    pub fn route(&mut self, op: &ops::Route, id: NodeId) -> Result<(), BackendError> {
        let (logits, value) = (self.value(op.logits)?, self.value(id)?);
        let gating = match op.gating {
            Gating::Softmax => 0,
            Gating::Sigmoid => 1,
        };
        let (groups, kept) = op.groups.map_or((0, 0), |g| (g.count, g.used));
        let shape = [dim_word(value.dim), logits.cols, op.used, gating, groups, kept, op.normalize.into()];
        self.drafts.push(Draft {
            defines: vec![format!("LANE_EXPERTS={}", logits.cols.div_ceil(32))],
            threads: 128,
            addresses: vec![self.vector_or_null(op.bias)?, logits.at, value.at, 0, 0, 0, 0],
            numbers: [&shape[..], &[op.scale.to_bits(), 0, 0, 0]].concat(),
            count: Count::line(value.dim, Axis::rows(1, 4)),
            ..Draft::plain(File::MOE, "route")
        });
        Ok(())
    }

    pub fn combine(&mut self, op: &ops::Combine, id: NodeId) -> Result<(), BackendError> {
        let (value, routing, x) = (self.value(id)?, self.value(op.routing)?, self.value(op.x)?);
        let Range { start, end } = op.part.map_or(0..u32::MAX, ExpertPart::range);
        let other = |id: Option<NodeId>| id.map_or(Ok(0), |id| self.value(id).map(|value| value.at));
        let (shared, residual) = (other(op.shared)?, other(op.residual)?);
        self.drafts.push(Draft {
            threads: 256,
            addresses: vec![0, 0, routing.at, x.at, shared, residual, value.at],
            numbers: vec![dim_word(value.dim), 0, routing.cols, 0, 0, 0, 0, 0, value.cols, start, end],
            count: Count::plane(value.dim, Axis::rows(1, 1), Axis::fixed(value.cols.div_ceil(256))),
            ..Draft::plain(File::MOE, "combine")
        });
        Ok(())
    }
}
