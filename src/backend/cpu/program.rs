//! A split → stages of tasks with every operand resolved to memory. Allocates; running a program does not.
//! A task joins the last stage where no byte it touches is written there, so q, k and v need no barrier between them.

use std::ops::Range;

use super::kernels::attention::{Geometry, ValuePages};
use super::kernels::cache::PageLayout;
use super::kernels::moe::Choose;
use super::memory::Raw;
use super::simd::matmul::scratch_bytes;
use super::task::{
    Acts, Attention, Experts, Groups, Half, HeadMatMul, MatMul, Matrix, Rows, Slices, Stage, Task, Turn,
};
use crate::backend::frequencies::Frequencies;
use crate::backend::{ArgLimits, BackendError, BufferSpan, SplitWork, bound_slice, same_len};
use crate::device::{self, DeviceSpec, Scratch};
use crate::graph::ops::{self, Elementwise, ExpertPart, Moe, Rope, Values};
use crate::graph::{InputId, NodeId, Op, StateId, WeightId};
use crate::index::Id;
use crate::plan::Span;
use crate::residency::slice_bytes;
use crate::tensor::DType;
use crate::tensor::act::{ActFormat, act_format, act_row_bytes};
use crate::tensor::panel::{Layout, PANEL_ROWS};
use crate::units::Bytes;

// What planners reserve for a worker is enough for the kernels, whatever the weight.
const _: () = {
    let layouts = [Layout::Gguf, Layout::Panel16];
    let mut i = 0;
    while i < layouts.len() * DType::ALL.len() {
        let (dtype, layout) = (DType::ALL[i / layouts.len()], layouts[i % layouts.len()]);
        assert!(scratch_bytes(dtype, layout) as u64 <= device::MATMUL_WORKER.0);
        i += 1;
    }
};

/// A prepared split.
pub struct Program {
    /// What its arguments must fit.
    pub limits: ArgLimits,
    /// Run one after the other, with a barrier between.
    pub stages: Vec<Stage>,
    /// Each worker's own scratch.
    pub workers: Vec<Raw>,
}

/// Looks up a range of a buffer, for writing or not.
type Lookup<'a> = &'a dyn Fn(BufferSpan, bool) -> Result<Raw, BackendError>;

impl Program {
    /// Resolves and stages all nodes of a split.
    pub fn build(spec: &DeviceSpec, work: &SplitWork<'_>, raw: Lookup<'_>) -> Result<Program, BackendError> {
        let sizes = device::scratch(spec, work.graph, &work.split.nodes);
        let scratch = raw(BufferSpan { buffer: work.bindings.arena, span: work.split.scratch }, true)?;
        if scratch.len() as u64 != sizes.total().0 {
            let (device, needed, found) = (spec.name.clone(), sizes.total().0, scratch.len() as u64);
            return Err(BackendError::Argument { device, what: "bytes of split scratch", needed, found });
        }
        let regions = Regions::new(&scratch, sizes);
        let mut builder = Builder { spec, work, raw, at: NodeId(0), scratch, regions, stages: Vec::new() };
        for &node in &work.split.nodes {
            builder.at = node;
            builder.node(node)?;
        }
        let workers = builder.regions.workers;
        Ok(Program { limits: ArgLimits::of(work), stages: builder.stages, workers })
    }
}

/// The parts of the split's scratch, and what they hold as building goes on.
struct Regions {
    acts: Raw,
    angles: Raw,
    groups: Raw,
    workers: Vec<Raw>,
    /// The value, slices a row and format whose quantised form lies in `acts`.
    quantized: Option<(NodeId, usize, ActFormat)>,
    /// The positions, frequencies and factors whose table lies in `angles`.
    table: Option<(InputId, Frequencies, Option<WeightId>)>,
    /// The routing whose groups lie in `groups`.
    grouped: Option<(NodeId, Groups)>,
}

impl Regions {
    fn new(scratch: &Raw, sizes: Scratch) -> Regions {
        let mut at = 0;
        let mut next = |bytes: Bytes| {
            let part = scratch.part(at, bytes.index());
            at += bytes.index();
            part
        };
        let (acts, angles, groups) = (next(sizes.acts), next(sizes.angles), next(sizes.groups));
        let workers = (0..sizes.workers).map(|_| next(sizes.worker)).collect();
        Regions { acts, angles, groups, workers, quantized: None, table: None, grouped: None }
    }
}

struct Builder<'a> {
    spec: &'a DeviceSpec,
    work: &'a SplitWork<'a>,
    raw: Lookup<'a>,
    /// The node that tasks are added for.
    at: NodeId,
    /// All of the split's scratch.
    scratch: Raw,
    regions: Regions,
    stages: Vec<Stage>,
}

impl Builder<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), BackendError> {
        let out = self.value(id)?;
        let graph = self.work.graph;
        match &graph.node(id).op {
            Op::Rows(op) => self.rows(op, out),
            Op::Norm(op) => {
                let (x, weight, carried) = (self.value(op.x)?, self.vector(op.weight)?, op.carried as usize);
                self.push(Task::Norm { x, weight, eps: op.eps, carried, out })
            }
            Op::MatMul(op) => self.matmul(op, out),
            Op::HeadMatMul(op) => self.head_matmul(op, out),
            Op::Rope(op) => self.rope(op, out),
            Op::Cache(op) => self.cache(op),
            Op::Attention(op) => self.attention(op, out),
            Op::Elementwise(op) => self.elementwise(op, out),
            Op::Moe(Moe::Route(op)) => self.route(op, out),
            Op::Moe(Moe::Experts(op)) => self.experts(op, out),
            Op::Moe(Moe::Combine(op)) => {
                let other = |id: Option<NodeId>| id.map(|id| self.value(id)).transpose();
                let others = [other(op.shared)?, other(op.residual)?];
                let part = op.part.map_or(0..u32::MAX, ExpertPart::range);
                let (x, routing) = (self.value(op.x)?, self.value(op.routing)?);
                self.push(Task::Combine { x, routing, part, others, out })
            }
        }
    }

    /// Adds a task to the last stage, or to a new one where it must wait.
    fn push(&mut self, task: Task) -> Result<(), BackendError> {
        if task.overwrites_itself() {
            return Err(self.refuse(self.at, "has operands and a value that overlap".into()));
        }
        match self.stages.last_mut() {
            Some(last) if last.admits(&task) => last.tasks.push(task),
            Some(_) | None => self.stages.push(Stage { tasks: vec![task] }),
        }
        Ok(())
    }

    fn rows(&mut self, op: &ops::Rows, out: Rows) -> Result<(), BackendError> {
        let task = match op {
            ops::Rows::Embed(op) => {
                Task::Embed { table: self.matrix(op.weight)?, ids: self.input(op.ids)?, scale: op.scale, out }
            }
            ops::Rows::Select(op) => Task::Select { x: self.value(op.x)?, index: self.input(op.rows)?, out },
        };
        self.push(task)
    }

    fn matmul(&mut self, op: &ops::MatMul, out: Rows) -> Result<(), BackendError> {
        let weight = self.matrix(op.weight)?;
        let acts = self.acts(op.x, 1, &weight)?;
        let bias = op.bias.map(|b| self.vector(b)).transpose()?;
        let residual = op.residual.map(|r| self.value(r)).transpose()?;
        let panels = self.panels_a_chunk(&weight, 1);
        self.push(Task::MatMul(MatMul { weight, acts, bias, residual, out, panels }))
    }

    /// Every head's activations lie together, row after row, so that each is a product like any other.
    fn head_matmul(&mut self, op: &ops::HeadMatMul, out: Rows) -> Result<(), BackendError> {
        let weight = self.matrix(op.weight)?;
        let (x, carried, heads) = (self.value(op.x)?, op.carried as usize, weight.count);
        let format = self.format(op.x, &weight)?;
        let row_bytes = act_row_bytes(format, weight.cols);
        let rows = self.work.graph.rows(x.dim).index() * heads;
        let acts = Acts { raw: self.regions.acts.part(0, rows * row_bytes), row_bytes };
        self.regions.quantized = None;
        let slices = Slices { count: heads, stride: weight.cols + carried, cols: weight.cols, apart: true };
        self.push(Task::Quantize { x: x.clone(), slices, format, out: acts.clone() })?;
        let panels = self.panels_a_chunk(&weight, heads);
        self.push(Task::HeadMatMul(HeadMatMul { x, weight, acts, carried, out, panels }))
    }

    fn format(&self, x: NodeId, weight: &Matrix) -> Result<ActFormat, BackendError> {
        let refuse = || self.refuse(x, format!("is multiplied with {}, which has no kernel", weight.dtype));
        act_format(weight.dtype).ok_or_else(refuse)
    }

    /// The activations of a product with `weight`: quantised first, unless that form is in scratch already.
    fn acts(&mut self, x: NodeId, slices: usize, weight: &Matrix) -> Result<Acts, BackendError> {
        let format = self.format(x, weight)?;
        let row_bytes = act_row_bytes(format, weight.cols);
        let x_rows = self.value(x)?;
        if format == ActFormat::F32 {
            return Ok(Acts { raw: x_rows.raw, row_bytes });
        }
        let rows = self.work.graph.rows(x_rows.dim).index() * slices;
        let acts = Acts { raw: self.regions.acts.part(0, rows * row_bytes), row_bytes };
        if self.regions.quantized != Some((x, slices, format)) {
            self.regions.quantized = Some((x, slices, format));
            let slices = Slices { count: slices, stride: weight.cols, cols: weight.cols, apart: false };
            self.push(Task::Quantize { x: x_rows, slices, format, out: acts.clone() })?;
        }
        Ok(acts)
    }

    /// Panels that a worker takes at a time: enough chunks for stealing, enough work in each.
    fn panels_a_chunk(&self, weight: &Matrix, matrices: usize) -> usize {
        let panels = weight.rows.div_ceil(PANEL_ROWS) * matrices;
        (panels / (self.spec.workers as usize * 8)).clamp(1, 8)
    }

    fn rope(&mut self, op: &Rope, out: Rows) -> Result<(), BackendError> {
        let frequencies = Frequencies::new(op.rotary, op.base, &op.scaling);
        let rows = self.work.graph.batch().tokens.index();
        let angles = self.regions.angles.part(0, rows * op.rotary as usize * 4);
        let key = (op.positions, frequencies.clone(), op.factors);
        if self.regions.table.as_ref() != Some(&key) {
            self.regions.table = Some(key);
            let (positions, factors) = (self.input(op.positions)?, op.factors.map(|f| self.vector(f)).transpose()?);
            self.push(Task::Angles { positions, frequencies, factors, out: angles.clone() })?;
        }
        let x = self.value(op.x)?;
        let (pairs, head_dim, offset) = (op.rotary as usize / 2, op.head_dim as usize, op.offset as usize);
        self.push(Task::Rope { x, angles, turn: Turn { pairs, head_dim, offset, style: op.style }, out })
    }

    fn cache(&mut self, op: &ops::CacheWrite) -> Result<(), BackendError> {
        let mut halves = Vec::new();
        for (x, state) in [(op.k, op.keys)].into_iter().chain(op.v.zip(op.values)) {
            let (state, pages) = self.state(state)?;
            halves.push(Half { x: self.value(x)?, state, pages });
        }
        self.push(Task::CacheWrite { class: self.work.graph.class_of(op.keys).index(), halves })
    }

    fn attention(&mut self, op: &ops::Attention, out: Rows) -> Result<(), BackendError> {
        let (keys, key_pages) = self.state(op.keys)?;
        let (values, value_pages) = match op.values {
            Values::State(values) => self.state(values).map(|(raw, pages)| (raw, ValuePages::Own(pages)))?,
            Values::Prefix { prefix } => (keys.clone(), ValuePages::Prefix(prefix as usize)),
        };
        let group = op.heads as usize / key_pages.heads;
        let geometry = Geometry { keys: key_pages, values: value_pages, group, scale: op.scale, mask: op.mask };
        let q = self.value(op.q)?;
        let class = self.work.graph.class_of(op.keys).index();
        self.push(Task::Attention(Attention { q, keys, values, class, geometry, out }))
    }

    fn elementwise(&mut self, op: &Elementwise, out: Rows) -> Result<(), BackendError> {
        let task = match *op {
            Elementwise::Gated { gate, up, activation } => {
                Task::Gated { gate: self.value(gate)?, up: self.value(up)?, activation, out }
            }
            Elementwise::Add { a, b } => Task::Add { a: self.value(a)?, b: self.value(b)?, out },
        };
        self.push(task)
    }

    fn route(&mut self, op: &ops::Route, out: Rows) -> Result<(), BackendError> {
        let logits = self.value(op.logits)?;
        let bias = op.bias.map(|b| self.vector(b)).transpose()?;
        let choose = Choose { gating: op.gating, groups: op.groups, normalize: op.normalize, scale: op.scale };
        self.push(Task::Route { logits, bias, choose, out })
    }

    /// The rows grouped by the choices of `routing`: grouped first, unless that is in scratch already.
    fn groups(&mut self, routing: NodeId) -> Result<Groups, BackendError> {
        if let Some((grouped, groups)) = &self.regions.grouped
            && *grouped == routing
        {
            return Ok(groups.clone());
        }
        let choices = self.value(routing)?;
        let (experts, used) = (self.work.graph.experts(routing) as usize, choices.cols);
        let rows = self.work.graph.rows(choices.dim).index();
        let mut at = 0;
        let mut next = |entries: usize| {
            let part = self.regions.groups.part(at, entries * 4);
            at += entries * 4;
            part
        };
        let (starts, active) = (next(experts + 1), next(experts + 1));
        let groups = Groups { starts, active, slots: next(rows * used), rows: next(rows * used), used };
        self.regions.grouped = Some((routing, groups.clone()));
        self.push(Task::Group { routing: choices, groups: groups.clone() })?;
        Ok(groups)
    }

    fn experts(&mut self, op: &ops::Experts, out: Rows) -> Result<(), BackendError> {
        let groups = self.groups(op.routing)?;
        let range = op.matrices(self.work.graph.weights()[op.weight].count);
        let weight = self.matrices(op.weight, range.clone())?;
        let acts = self.acts(op.x, if op.slotted { groups.used } else { 1 }, &weight)?;
        let bias = op.bias.map(|b| self.vector(b)).transpose()?;
        let panels = self.panels_a_chunk(&weight, 1);
        let (part, slotted) = (range.start as usize..range.end as usize, op.slotted);
        self.push(Task::Experts(Experts { weight, acts, slotted, groups, part, bias, out, panels }))
    }

    fn value(&self, id: NodeId) -> Result<Rows, BackendError> {
        let out = self.work.graph.node(id).out;
        let raw = self.in_arena(self.work.values[id], self.work.graph.value_bytes(id))?;
        Ok(Rows { raw, dim: out.rows, cols: out.cols as usize })
    }

    fn input(&self, id: InputId) -> Result<Raw, BackendError> {
        let rows = self.work.graph.rows(self.work.graph.inputs()[id].rows());
        self.in_arena(self.work.inputs[id], Bytes(4 * u64::from(rows.0)))
    }

    fn in_arena(&self, span: Span, needed: Bytes) -> Result<Raw, BackendError> {
        same_len(&self.spec.name, needed, span.len.index())?;
        self.bound(BufferSpan { buffer: self.work.bindings.arena, span }, true)
    }

    /// A range that the graph names; the kernels' own scratch is none of it.
    fn bound(&self, at: BufferSpan, write: bool) -> Result<Raw, BackendError> {
        let raw = (self.raw)(at, write)?;
        if raw.meets(&self.scratch) {
            let (device, node) = (self.spec.name.clone(), format!("{:?} of {}", at.span, at.buffer));
            return Err(BackendError::Prepare { device, node, why: "lies on the split's scratch".into() });
        }
        Ok(raw)
    }

    /// A weight of f32 elements that is no matrix.
    fn vector(&self, id: WeightId) -> Result<Raw, BackendError> {
        Ok(self.matrix(id)?.raw)
    }

    fn matrix(&self, id: WeightId) -> Result<Matrix, BackendError> {
        self.matrices(id, 0..self.work.graph.weights()[id].count)
    }

    /// The bound run of a weight that holds all matrices in `range`.
    fn matrices(&self, id: WeightId, range: Range<u32>) -> Result<Matrix, BackendError> {
        let weight = &self.work.graph.weights()[id];
        let bound = bound_slice(&self.spec.name, self.work, id, &range)?;
        let Range { start, end } = bound.slice.range;
        same_len(&self.spec.name, slice_bytes(weight, &bound.slice.range, bound.layout), bound.at.span.len.index())?;
        Ok(Matrix {
            raw: self.bound(bound.at, false)?,
            dtype: weight.dtype,
            layout: bound.layout,
            first: start as usize,
            count: (end - start) as usize,
            rows: weight.rows as usize,
            cols: weight.cols as usize,
        })
    }

    fn state(&self, id: StateId) -> Result<(Raw, PageLayout), BackendError> {
        let state = &self.work.graph.states()[id];
        let refuse = |why: &str| {
            let (device, node) = (self.spec.name.clone(), format!("state {}", state.name));
            BackendError::Prepare { device, node, why: why.into() }
        };
        let pages =
            PageLayout::of(state).ok_or_else(|| refuse("has a type that this device cannot keep a cache in"))?;
        let at = self.work.bindings.states.get(id).copied().flatten().ok_or_else(|| refuse("is not bound"))?;
        same_len(&self.spec.name, state.bytes(), at.span.len.index())?;
        Ok((self.bound(at, true)?, pages))
    }

    fn refuse(&self, node: NodeId, why: String) -> BackendError {
        let node = self.work.graph.node(node).name.clone();
        BackendError::Prepare { device: self.spec.name.clone(), node, why }
    }
}
