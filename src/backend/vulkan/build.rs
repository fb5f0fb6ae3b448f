//! The nodes of a split → drafts of dispatches, with every operand a window of its buffer.

use std::ops::Range;

use super::gpu::Gpu;
use super::kernel::{File, Source};
use super::memory::{Buffers, Window};
use super::program::{ALONE, Count, Draft, Drafts, Slot};
use crate::backend::frequencies::Frequencies;
use crate::backend::scratch::ScratchParts;
use crate::backend::{BackendError, SplitWork};
use crate::device::{AttentionParts, DeviceSpec};
use crate::graph::ops::{self, Activation, Elementwise, ExpertPart, Gating, Mask, Moe, Rope, RopeStyle, Values};
use crate::graph::{NodeId, Op, RowDim, StateId};
use crate::plan::Span;
use crate::tensor::DType;

/// Drafts the dispatches of a split.
///
/// # Errors
/// A node has no kernel, or something it needs is not bound or larger than a kernel can see; the arena is larger than a
/// buffer of the device.
pub fn drafts(gpu: &Gpu, spec: &DeviceSpec, buffers: &Buffers, work: &SplitWork<'_>) -> Result<Drafts, BackendError> {
    let device = &*spec.name;
    let refuse = |node: &str, why| BackendError::Prepare { device: device.into(), node: node.into(), why };
    let arena = buffers.get(device, work.bindings.arena)?;
    arena.written(gpu).map_err(|why| refuse("the arena", why))?;
    let mut builder = Builder {
        gpu,
        device,
        buffers,
        work,
        at: NodeId(0),
        drafts: Drafts::default(),
        scratch: ScratchParts::of(spec, work),
    };
    for &node in &work.split.nodes {
        builder.at = node;
        builder.node(node)?;
    }
    Ok(builder.drafts)
}

/// From so many columns on, a norm is work for more than a team.
const WIDE: u32 = 1024;

pub(super) struct Builder<'a> {
    pub gpu: &'a Gpu,
    pub device: &'a str,
    pub buffers: &'a Buffers,
    pub work: &'a SplitWork<'a>,
    /// The node that dispatches are added for.
    pub at: NodeId,
    pub drafts: Drafts,
    pub scratch: ScratchParts,
}

/// Something in an arena: what is bound, and the first of its words there.
#[derive(Clone)]
pub(super) struct Bound {
    pub slot: Slot,
    pub at: u32,
}

/// Rows of floats (or of choices) in the arena.
pub(super) struct Value {
    pub span: Span,
    pub dim: RowDim,
    pub cols: u32,
    /// Bytes of a row.
    pub row: u64,
}

/// Some rows of a weight's matrices, and where they are.
pub(super) struct WeightRows {
    pub window: Window,
    /// Rows of all its matrices, one after the other.
    pub rows: Range<u32>,
}

/// A weight matrix, or some of a stack.
pub(super) struct Matrix {
    pub dtype: DType,
    pub rows: u32,
    pub cols: u32,
    pub row_bytes: u32,
    pub windows: Vec<WeightRows>,
}

impl Matrix {
    /// A kernel of `file` that reads it as `w`.
    pub fn read_by(&self, file: File, entry: &'static str) -> Source {
        let leads = self.windows.iter().map(|part| part.window.lead);
        match leads.chain([self.row_bytes]).all(|at| at.is_multiple_of(4)) {
            true => Source::plain(file, entry).reading_whole("w", self.dtype),
            false => Source::plain(file, entry).reading("w", self.dtype),
        }
    }
}

/// A number of a dimension, as kernels know it.
pub(super) fn dim_word(dim: RowDim) -> u32 {
    match dim {
        RowDim::Tokens => 0,
        RowDim::Outputs => 1,
    }
}

impl Builder<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), BackendError> {
        let graph = self.work.graph;
        match &graph.node(id).op {
            Op::Rows(ops::Rows::Embed(op)) => self.embed(op, id),
            Op::Rows(ops::Rows::Select(op)) => self.select(op, id),
            Op::Norm(op) => self.norm(op, id),
            Op::MatMul(op) => self.matmul(op, id),
            Op::HeadMatMul(op) => self.head_matmul(op, id),
            Op::Rope(op) => self.rope(op, id),
            Op::Cache(op) => {
                self.cache(op.k, op.keys)?;
                op.v.zip(op.values).map_or(Ok(()), |(v, values)| self.cache(v, values))
            }
            Op::Attention(op) => self.attention(op, id),
            Op::Elementwise(op) => self.elementwise(op, id),
            Op::Moe(Moe::Route(op)) => self.route(op, id),
            Op::Moe(Moe::Experts(op)) => self.experts(op, id),
            Op::Moe(Moe::Combine(op)) => self.combine(op, id),
        }
    }

    fn embed(&mut self, op: &ops::Embed, id: NodeId) -> Result<(), BackendError> {
        let vocab = self.work.graph.weights()[op.weight].rows;
        let table = self.matrix(op.weight, 0..1)?;
        let (index, value) = (self.input(op.ids)?, self.value(id)?);
        let out = self.bound(&value)?;
        let runs = u64::from(value.cols.div_ceil(32));
        let source = table.read_by(File::Rows, "embed");
        for part in table.windows {
            let Range { start, end } = part.rows;
            let (dim, at) = (dim_word(value.dim), [part.window.lead, index.at, 0, out.at]);
            let params =
                [&[dim, value.cols, start, end, table.row_bytes], &at[..], &[vocab, op.scale.to_bits()]].concat();
            let slots =
                vec![Slot::Window(part.window), index.slot.clone(), Slot::Window(self.spare()?), out.slot.clone()];
            let count = Count::each(value.dim, runs, ALONE);
            self.drafts.push(Draft { source: source.clone(), params, slots, count });
        }
        Ok(())
    }

    fn select(&mut self, op: &ops::Select, id: NodeId) -> Result<(), BackendError> {
        let (index, value) = (self.input(op.rows)?, self.value(id)?);
        let (x, out) = (self.bound(&self.value(op.x)?)?, self.bound(&value)?);
        let params = vec![dim_word(value.dim), value.cols, 0, 0, 0, 0, index.at, x.at, out.at, 0, 0];
        let slots = vec![Slot::Unused, index.slot, x.slot, out.slot];
        let source = Source::plain(File::Rows, "select_rows").reading("w", DType::F32);
        let count = Count::each(value.dim, value.cols.into(), ALONE);
        self.drafts.push(Draft { source, params, slots, count });
        Ok(())
    }

    fn norm(&mut self, op: &ops::Norm, id: NodeId) -> Result<(), BackendError> {
        let value = self.value(id)?;
        let (w, x, out) = (self.vector(op.weight)?, self.bound(&self.value(op.x)?)?, self.bound(&value)?);
        let cols = value.cols / op.heads.max(1) - op.carried;
        let params = vec![dim_word(value.dim), cols, op.carried, op.heads, op.eps.to_bits(), x.at, w.at, out.at];
        let slots = vec![w.slot, x.slot, out.slot];
        let count = Count::each(value.dim, op.heads.into(), 1);
        let entry = if cols < WIDE { "norm" } else { "norm_wide" };
        self.drafts.push(Draft { source: Source::plain(File::Norm, entry), params, slots, count });
        Ok(())
    }

    fn rope(&mut self, op: &Rope, id: NodeId) -> Result<(), BackendError> {
        let Frequencies { step, scale, keeps, magnitude } = Frequencies::new(op.rotary, op.base, &op.scaling);
        let keeps: Vec<u32> = keeps.iter().map(|keep| keep.to_bits()).collect();
        let pairs = keeps.len() as u32;
        let keeps = self.drafts.words(&keeps);
        let factors = op.factors.map(|f| self.vector(f)).transpose()?;
        let (has_factors, factors_at) = (u32::from(factors.is_some()), factors.as_ref().map_or(0, |f| f.at));
        let positions = self.input(op.positions)?;
        let value = self.value(id)?;
        let (x, out) = (self.bound(&self.value(op.x)?)?, self.bound(&value)?);
        let interleaved = u32::from(op.style == RopeStyle::Interleaved);
        let shape = [dim_word(value.dim), op.heads, op.head_dim, op.offset, pairs, interleaved];
        let numbers = [step, scale, magnitude].map(f32::to_bits);
        let at = [has_factors, 0, factors_at, positions.at, x.at, out.at];
        let params = [&shape[..], &numbers, &at].concat();
        let slots = vec![keeps, factors.map_or(Slot::Unused, |f| f.slot), positions.slot, x.slot, out.slot];
        let count = Count::each(value.dim, u64::from(op.head_dim - pairs), ALONE);
        self.drafts.push(Draft { source: Source::plain(File::Rope, "rope"), params, slots, count });
        Ok(())
    }

    fn cache(&mut self, x: NodeId, state: StateId) -> Result<(), BackendError> {
        let (bound, rows) = self.state(state)?;
        let class = self.work.graph.class_of(state);
        let state = &self.work.graph.states()[state];
        let value = self.value(x)?;
        let x = self.bound(&value)?;
        let params = vec![0, value.cols, rows.row, rows.run, x.at, bound.at, class.0];
        let source = Source { store: Some(state.dtype), ..Source::plain(File::Cache, "cache") };
        let count = Count::each(value.dim, value.cols.div_ceil(32).into(), ALONE);
        self.drafts.push(Draft { source, params, slots: vec![x.slot, bound.slot], count });
        Ok(())
    }

    fn attention(&mut self, op: &ops::Attention, id: NodeId) -> Result<(), BackendError> {
        let (keys, key_rows) = self.state(op.keys)?;
        let held = match op.values {
            Values::State(values) => values,
            Values::Prefix { prefix: _ } => op.keys,
        };
        let (values, value_rows) = self.state(held)?;
        let states = self.work.graph.states();
        let value_dim = op.values.head_dim(|id| &states[id]);
        let (key_state, value_type) = (&states[op.keys], states[held].dtype);
        let window = match op.mask {
            Mask::Causal => 0,
            Mask::Window(n) => n,
        };
        let value = self.value(id)?;
        let (q, out) = (self.bound(&self.value(op.q)?)?, self.bound(&value)?);
        let shape = [op.heads, op.heads / key_state.heads.max(1), key_state.head_dim, value_dim, window];
        let at = [key_rows.row, key_rows.head, keys.at, value_rows.row, value_rows.head, values.at, q.at, out.at];
        let class = self.work.graph.class_of(op.keys);
        let cut = AttentionParts::of(self.work.graph, op);
        let few = cut.rows.min(self.work.graph.rows(value.dim).0);
        let parts = self.scratch_part(self.scratch.parts, cut.bytes.times(few.into()))?.filter(|_| few > 0);
        let (parts_at, few) = parts.as_ref().map_or((0, 0), |parts| (parts.at, few));
        let params = [&shape[..], &[op.scale.to_bits()], &at, &[class.0, parts_at, cut.count]].concat();
        let spare = Slot::Window(self.spare()?);
        let slots = vec![keys.slot, values.slot, q.slot, out.slot, parts.map_or(spare, |parts| parts.slot)];
        let reach = if window == 0 { key_state.cells.0 } else { window.min(key_state.cells.0) };
        let bytes = u64::from(reach) * (u64::from(key_rows.head) + u64::from(value_rows.head));
        let (heads, tiles) = (u64::from(op.heads), u64::from(cut.count));
        let kinds = [
            ("attention_parts", 0..few + 1, heads * tiles, bytes / tiles),
            ("attention_merge", 0..few + 1, heads, 0),
            ("attention", few + 1..u32::MAX, heads, bytes),
        ];
        for (entry, when, units, bytes) in kinds {
            if when.end > 1 && when.start <= self.work.graph.rows(value.dim).0 {
                let source = Source::plain(File::Attention, entry)
                    .reading("keys", key_state.dtype)
                    .reading("values", value_type)
                    .with("VALUES", value_dim.div_ceil(self.gpu.lanes))
                    .with("SPAN", cut.span);
                let count = Count { when, ..Count::each(value.dim, units, 1).reading(bytes) };
                self.drafts.push(Draft { source, params: params.clone(), slots: slots.clone(), count });
            }
        }
        Ok(())
    }

    fn elementwise(&mut self, op: &Elementwise, id: NodeId) -> Result<(), BackendError> {
        let (entry, a, b, activation) = match *op {
            Elementwise::Gated { gate, up, activation: Activation::Silu } => ("gated", gate, up, 0),
            Elementwise::Gated { gate, up, activation: Activation::Gelu } => ("gated", gate, up, 1),
            Elementwise::Add { a, b } => ("add", a, b, 0),
        };
        let value = self.value(id)?;
        let (a, b, out) = (self.bound(&self.value(a)?)?, self.bound(&self.value(b)?)?, self.bound(&value)?);
        let params = vec![dim_word(value.dim), value.cols, activation, a.at, b.at, out.at];
        let slots = vec![a.slot, b.slot, out.slot];
        let count = Count::each(value.dim, value.cols.into(), ALONE);
        self.drafts.push(Draft { source: Source::plain(File::Elementwise, entry), params, slots, count });
        Ok(())
    }

    fn route(&mut self, op: &ops::Route, id: NodeId) -> Result<(), BackendError> {
        let (logits, value) = (self.value(op.logits)?, self.value(id)?);
        let experts = logits.cols;
        let bias = op.bias.map(|b| self.vector(b)).transpose()?;
        let (has_bias, bias_at) = (u32::from(bias.is_some()), bias.as_ref().map_or(0, |b| b.at));
        let (logits, routing) = (self.bound(&logits)?, self.bound(&value)?);
        let gating = match op.gating {
            Gating::Softmax => 0,
            Gating::Sigmoid => 1,
        };
        let (groups, kept) = op.groups.map_or((0, 0), |g| (g.count, g.used));
        let shape = [dim_word(value.dim), experts, op.used, gating, groups, kept, op.normalize.into()];
        let at = [op.scale.to_bits(), has_bias, bias_at, logits.at, routing.at];
        let params = [&shape[..], &at, &[0; 9]].concat();
        let source = Source::plain(File::Moe, "route").with("EXPERTS", experts.div_ceil(self.gpu.lanes));
        let spare = Slot::Window(self.spare()?);
        let (bias, spares) = (bias.map_or(Slot::Unused, |b| b.slot), vec![spare; 4]);
        let slots = [vec![bias, logits.slot, routing.slot], spares].concat();
        self.drafts.push(Draft { source, params, slots, count: Count::each(value.dim, 1, 1) });
        Ok(())
    }

    fn combine(&mut self, op: &ops::Combine, id: NodeId) -> Result<(), BackendError> {
        let value = self.value(id)?;
        let used = self.work.graph.node(op.routing).out.cols;
        let Range { start, end } = op.part.map_or(0..u32::MAX, ExpertPart::range);
        let routing = self.bound(&self.value(op.routing)?)?;
        let (x, out) = (self.bound(&self.value(op.x)?)?, self.bound(&value)?);
        let spare = Slot::Window(self.spare()?);
        let other = |id: Option<NodeId>| -> Result<(u32, Bound), BackendError> {
            match id {
                Some(id) => Ok((1, self.bound(&self.value(id)?)?)),
                None => Ok((0, Bound { slot: spare.clone(), at: 0 })),
            }
        };
        let ((has_shared, shared), (has_residual, residual)) = (other(op.shared)?, other(op.residual)?);
        let shape = [dim_word(value.dim), 0, used, 0, 0, 0, 0, 0, 0, 0, 0, routing.at, value.cols, start, end];
        let at = [x.at, has_shared, shared.at, has_residual, residual.at, out.at];
        let slots = vec![Slot::Unused, spare, routing.slot, x.slot, shared.slot, residual.slot, out.slot];
        let source = Source::plain(File::Moe, "combine").with("EXPERTS", 1);
        let count = Count::each(value.dim, value.cols.into(), ALONE);
        self.drafts.push(Draft { source, params: [&shape[..], &at].concat(), slots, count });
        Ok(())
    }
}
