//! The nodes of a split → drafts of launches, with the address of every operand.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::buffers::Buffers;
use super::driver::{DeviceBytes, Trouble};
use super::kernels::{File, Kernels, Source};
use super::operands::{Value, dim_word};
use super::program::{Axis, Count, Draft};
use crate::backend::frequencies::Frequencies;
use crate::backend::scratch::ScratchParts;
use crate::backend::{BackendError, SplitWork, compile};
use crate::device::DeviceSpec;
use crate::graph::ops::{self, Activation, Elementwise, Moe, Rope, RopeStyle};
use crate::graph::{NodeId, Op, RowDim, StateId};
use crate::tensor::DType;
use crate::units::Bytes;

/// Drafts the launches of a split, and the words that they read beside what is bound.
///
/// # Errors
/// A node has no kernel, or something it needs is not bound; the card lacks memory for those words.
pub fn drafts(
    spec: &DeviceSpec,
    kernels: &Kernels,
    buffers: &Buffers,
    work: &SplitWork<'_>,
) -> Result<(Vec<Draft>, Arc<DeviceBytes>), BackendError> {
    let device = &*spec.name;
    let words = constants(work);
    let need = Bytes::of_len(4 * words.len());
    let refuse = |why: Trouble| refused(device, need, "the split".into(), why);
    let constants =
        DeviceBytes::holding(kernels.context(), bytemuck::cast_slice(&words)).map_err(|why| refuse(why.into()))?;
    let built = |surveys| {
        let (constants, scratch) = (constants.address(0), ScratchParts::of(spec, work));
        let mut builder = Builder {
            device,
            kernels,
            buffers,
            work,
            surveys,
            constants,
            used: 0,
            drafts: Vec::new(),
            last: None,
            rotations: BTreeMap::new(),
            scratch,
        };
        for &node in &work.split.nodes {
            builder.node(node)?;
            builder.last = Some(node);
        }
        Ok::<_, BackendError>(builder.drafts)
    };
    // What a launch needs is known when its kernel is compiled: all are, together, before any is asked.
    let surveyed: HashSet<Source> = built(true)?.iter().map(Draft::source).collect();
    let surveyed: Vec<Source> = surveyed.into_iter().collect();
    compile::all(&surveyed, |source| kernels.module(source).map(|_| ())).map_err(refuse)?;
    Ok((built(false)?, Arc::new(constants)))
}

/// Why something cannot be prepared; a device that is full or lost is that.
pub(super) fn refused(device: &str, need: Bytes, node: String, why: Trouble) -> BackendError {
    why.error(device, need, |why| BackendError::Prepare { device: device.into(), node, why })
}

/// The shares of angles that are not scaled, of every rotation in turn.
fn constants(work: &SplitWork<'_>) -> Vec<f32> {
    let rotations = work.split.nodes.iter().filter_map(|&node| match &work.graph.node(node).op {
        Op::Rope(op) => Some(Frequencies::new(op.rotary, op.base, &op.scaling).keeps),
        Op::Rows(_) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Cache(_) | Op::Attention(_) => None,
        Op::Elementwise(_) | Op::Moe(_) => None,
    });
    rotations.flatten().collect()
}

pub(super) struct Builder<'a> {
    pub device: &'a str,
    kernels: &'a Kernels,
    pub buffers: &'a Buffers,
    pub work: &'a SplitWork<'a>,
    /// Whether nothing is asked of kernels yet.
    surveys: bool,
    /// Where the constants are, and how many of them are taken.
    constants: u64,
    used: u64,
    pub drafts: Vec<Draft>,
    /// The node whose launches are the last, and where those of rotations are.
    pub last: Option<NodeId>,
    pub rotations: BTreeMap<NodeId, usize>,
    pub scratch: ScratchParts,
}

/// What a file is compiled for, where that is the type of rows.
pub(super) fn typed(name: &'static str, dtype: DType) -> Vec<String> {
    vec![format!("{name}={}", dtype.name())]
}

impl Builder<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), BackendError> {
        match &self.work.graph.node(id).op {
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

    /// What a kernel of the file of a draft says of the others' sizes; `out` is the place of the address that it writes to.
    pub fn size_of(&self, draft: &Draft, entry: &'static str, out: usize) -> Result<[u32; 8], BackendError> {
        if self.surveys {
            return Ok([1; 8]);
        }
        let first = self.work.graph.node(self.work.split.nodes[0]).name.clone();
        let refuse = |why| refused(self.device, Bytes::ZERO, first, why);
        self.kernels.sizes(&draft.source(), entry, draft.params(), 1 + out).map_err(refuse)
    }

    /// Bytes that threads of a block may share.
    pub fn room(&self) -> u32 {
        self.kernels.room()
    }

    /// Whether kernels multiply in tensor cores: see `machine.cuh`.
    pub fn has_tensor_cores(&self) -> bool {
        self.kernels.architecture() >= 80
    }

    /// The most rows of a dimension.
    pub fn rows(&self, dim: RowDim) -> u32 {
        self.work.graph.rows(dim).0
    }

    fn embed(&mut self, op: &ops::Embed, id: NodeId) -> Result<(), BackendError> {
        let vocab = self.work.graph.weights()[op.weight].rows;
        let table = self.matrix(op.weight, &(0..1))?;
        let (index, value) = (self.input(op.ids)?, self.value(id)?);
        let runs = value.cols.div_ceil(32);
        self.drafts.push(Draft {
            defines: typed("TYPE", table.dtype),
            threads: 128,
            addresses: vec![table.at, index, 0, value.at],
            numbers: vec![dim_word(value.dim), value.cols, table.row_bytes, vocab, op.scale.to_bits()],
            count: Count::plane(value.dim, Axis::rows(1, 1), Axis::fixed(runs.div_ceil(128))),
            ..Draft::plain(File::ROWS, "embed")
        });
        Ok(())
    }

    fn select(&mut self, op: &ops::Select, id: NodeId) -> Result<(), BackendError> {
        let (index, value, x) = (self.input(op.rows)?, self.value(id)?, self.value(op.x)?);
        self.drafts.push(Draft {
            threads: 256,
            addresses: vec![0, index, x.at, value.at],
            numbers: vec![dim_word(value.dim), value.cols, 0, 0, 0],
            count: Count::plane(value.dim, Axis::rows(1, 1), Axis::fixed(value.cols.div_ceil(1024))),
            ..Draft::plain(File::ROWS, "select_rows")
        });
        Ok(())
    }

    fn norm(&mut self, op: &ops::Norm, id: NodeId) -> Result<(), BackendError> {
        let (value, x, weight) = (self.value(id)?, self.value(op.x)?, self.vector(op.weight)?);
        let cols = value.cols / op.heads.max(1) - op.carried;
        // Of one slice a row codes are often wanted, too, which has the bits of the kernel for wide ones.
        let wide = cols > 1024 || (op.heads == 1 && op.carried == 0);
        let (entry, threads, slices) = if wide { ("norm_wide", 512, 1) } else { ("norm_narrow", 256, 8) };
        self.drafts.push(Draft {
            threads,
            addresses: vec![x.at, weight, value.at, 0, 0],
            numbers: vec![dim_word(value.dim), cols, op.carried, op.heads, op.eps.to_bits()],
            count: Count::line(value.dim, Axis::rows(op.heads, slices)),
            ..Draft::plain(File::NORM, entry)
        });
        Ok(())
    }

    fn rope(&mut self, op: &Rope, id: NodeId) -> Result<(), BackendError> {
        let Frequencies { step, scale, keeps, magnitude } = Frequencies::new(op.rotary, op.base, &op.scaling);
        let pairs = keeps.len() as u32;
        let keeps = self.constants + 4 * self.used;
        self.used += u64::from(pairs);
        let (factors, positions) = (self.vector_or_null(op.factors)?, self.input(op.positions)?);
        let (value, x) = (self.value(id)?, self.value(op.x)?);
        let interleaved = u32::from(op.style == RopeStyle::Interleaved);
        let shape = [dim_word(value.dim), op.heads, op.head_dim, op.offset, pairs, interleaved];
        let numbers = [step, scale, magnitude].map(f32::to_bits);
        self.rotations.insert(id, self.drafts.len());
        self.drafts.push(Draft {
            threads: 256,
            shared: 8 * pairs,
            addresses: vec![keeps, factors, positions, x.at, value.at, 0],
            numbers: [&shape[..], &numbers, &[0, 0]].concat(),
            count: Count::plane(value.dim, Axis::rows(1, 1), Axis::fixed(op.heads.div_ceil(8))),
            ..Draft::plain(File::ROPE, "rope")
        });
        Ok(())
    }

    fn cache(&mut self, x: NodeId, state: StateId) -> Result<(), BackendError> {
        let (at, rows) = self.state(state)?;
        let graph = self.work.graph;
        let (class, kept) = (graph.class_of(state), &graph.states()[state]);
        if self.writes_keys(x, (kept, at, rows), class.0) {
            return Ok(());
        }
        let dtype = kept.dtype;
        let Value { at: x, dim, cols } = self.value(x)?;
        self.drafts.push(Draft {
            defines: typed("STATE", dtype),
            threads: 256,
            addresses: vec![x, at],
            numbers: vec![cols, rows.row, class.0],
            count: Count::plane(dim, Axis::rows(1, 1), Axis::fixed(cols.div_ceil(256))),
            ..Draft::plain(File::CACHE, "cache")
        });
        Ok(())
    }

    fn elementwise(&mut self, op: &Elementwise, id: NodeId) -> Result<(), BackendError> {
        let (entry, a, b, activation) = match *op {
            Elementwise::Gated { gate, up, activation: Activation::Silu } => ("gated", gate, up, 0),
            Elementwise::Gated { gate, up, activation: Activation::Gelu } => ("gated", gate, up, 1),
            Elementwise::Add { a, b } => ("add", a, b, 0),
        };
        let (value, a, b) = (self.value(id)?, self.value(a)?, self.value(b)?);
        self.drafts.push(Draft {
            threads: 256,
            addresses: vec![a.at, b.at, value.at],
            numbers: vec![dim_word(value.dim), value.cols, activation],
            count: Count::line(value.dim, Axis::rows(value.cols, 1024)),
            ..Draft::plain(File::ELEMENTWISE, entry)
        });
        Ok(())
    }
}
