//! What a prepared split consists of: one kernel over resolved ranges of memory a task, in stages.
//! Plain data; `program` makes it, `run` executes it.

use std::ops::Range;

use super::kernels::attention::Geometry;
use super::kernels::cache::PageLayout;
use super::kernels::moe::Choose;
use super::memory::Raw;
use crate::backend::frequencies::Frequencies;
use crate::graph::RowDim;
use crate::graph::ops::{Activation, RopeStyle};
use crate::tensor::DType;
use crate::tensor::act::ActFormat;
use crate::tensor::panel::Layout;

/// Tasks that may run at the same time: none writes what another touches.
#[derive(Default)]
pub struct Stage {
    /// In graph order.
    pub tasks: Vec<Task>,
}

/// Rows of floats (or of choices) in the arena.
#[derive(Clone)]
pub struct Rows {
    /// The memory.
    pub raw: Raw,
    /// What a row is.
    pub dim: RowDim,
    /// Elements in a row.
    pub cols: usize,
}

/// A weight matrix, or a run of a stack of them.
#[derive(Clone)]
pub struct Matrix {
    /// The memory, all matrices of the run one after the other.
    pub raw: Raw,
    /// Element type.
    pub dtype: DType,
    /// Arrangement of the rows.
    pub layout: Layout,
    /// The run's place in the stack.
    pub first: usize,
    /// Matrices of the run.
    pub count: usize,
    /// Rows of a matrix.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// A product's activations: the values themselves, or their quantised form in scratch.
#[derive(Clone)]
pub struct Acts {
    /// The memory.
    pub raw: Raw,
    /// Bytes of a row.
    pub row_bytes: usize,
}

/// The parts of a row that are quantised as rows of their own.
#[derive(Clone, Copy)]
pub struct Slices {
    /// How many.
    pub count: usize,
    /// Elements from the start of one to the next.
    pub stride: usize,
    /// Elements of each that are quantised.
    pub cols: usize,
    /// Whether the first of all rows come first, then the second of all, or all of a row together.
    pub apart: bool,
}

/// How rows are rotated.
#[derive(Clone, Copy)]
pub struct Turn {
    /// Pairs of a head.
    pub pairs: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a head before the rotated ones.
    pub offset: usize,
    /// Which elements form a pair.
    pub style: RopeStyle,
}

/// Rows and the half of the cache that they are written to.
#[derive(Clone)]
pub struct Half {
    /// The rows.
    pub x: Rows,
    /// All pages.
    pub state: Raw,
    /// Their arrangement.
    pub pages: PageLayout,
}

/// The groups of rows by expert, in scratch.
#[derive(Clone)]
pub struct Groups {
    /// First slot of each expert's group, and the end of the last.
    pub starts: Raw,
    /// Number of experts that have rows, then those experts, ascending.
    pub active: Raw,
    /// The slots of all groups.
    pub slots: Raw,
    /// The row of each of those slots.
    pub rows: Raw,
    /// Slots a row.
    pub used: usize,
}

/// Product with a weight, then bias, then residual.
pub struct MatMul {
    /// The weight.
    pub weight: Matrix,
    /// Its activations.
    pub acts: Acts,
    /// One number a column of the value.
    pub bias: Option<Raw>,
    /// Of the value's shape.
    pub residual: Option<Rows>,
    /// The value.
    pub out: Rows,
    /// Panels a chunk.
    pub panels: usize,
}

/// Product of every head with a weight of its own.
pub struct HeadMatMul {
    /// Rows of heads; what is not multiplied follows the product.
    pub x: Rows,
    /// One matrix a head.
    pub weight: Matrix,
    /// The first head of all rows, then the second of all, and so on.
    pub acts: Acts,
    /// Elements at the end of each head of `x` that are not multiplied.
    pub carried: usize,
    /// The value.
    pub out: Rows,
    /// Panels a chunk.
    pub panels: usize,
}

/// Attention over pages.
pub struct Attention {
    /// Rows of queries.
    pub q: Rows,
    /// The cache of keys.
    pub keys: Raw,
    /// The cache of values.
    pub values: Raw,
    /// Their class.
    pub class: usize,
    /// Heads, pages, scale and mask.
    pub geometry: Geometry,
    /// The value.
    pub out: Rows,
}

/// Products with the chosen experts.
pub struct Experts {
    /// One matrix an expert.
    pub weight: Matrix,
    /// Its activations.
    pub acts: Acts,
    /// Whether each slot has activations of its own.
    pub slotted: bool,
    /// The rows by expert.
    pub groups: Groups,
    /// The experts whose products are made.
    pub part: Range<usize>,
    /// One row an expert.
    pub bias: Option<Raw>,
    /// The value.
    pub out: Rows,
    /// Panels a chunk.
    pub panels: usize,
}

/// One kernel with all it needs but the run-time arguments.
pub enum Task {
    /// Rows of a weight by token id, times a factor.
    Embed { table: Matrix, ids: Raw, scale: f32, out: Rows },
    /// Rows of a value by index.
    Select { x: Rows, index: Raw, out: Rows },
    /// Root-mean-square norm.
    Norm { x: Rows, weight: Raw, eps: f32, carried: usize, out: Rows },
    /// Values → quantised activations in scratch.
    Quantize { x: Rows, slices: Slices, format: ActFormat, out: Acts },
    /// Product with a weight, then bias, then residual.
    MatMul(MatMul),
    /// Product of every head with a weight of its own.
    HeadMatMul(HeadMatMul),
    /// Cosines and sines of every row.
    Angles { positions: Raw, frequencies: Frequencies, factors: Option<Raw>, out: Raw },
    /// Rotation by the table.
    Rope { x: Rows, angles: Raw, turn: Turn, out: Rows },
    /// Rows into their pages: K, and V where it has pages of its own.
    CacheWrite { class: usize, halves: Vec<Half> },
    /// Attention over pages.
    Attention(Attention),
    /// Gated activation.
    Gated { gate: Rows, up: Rows, activation: Activation, out: Rows },
    /// Sum of two values.
    Add { a: Rows, b: Rows, out: Rows },
    /// Choice of experts.
    Route { logits: Rows, bias: Option<Raw>, choose: Choose, out: Rows },
    /// Grouping of the choices.
    Group { routing: Rows, groups: Groups },
    /// Products with the chosen experts.
    Experts(Experts),
    /// Weighted sum over those of the chosen experts that are in the part.
    Combine { x: Rows, routing: Rows, part: Range<u32>, others: [Option<Rows>; 2], out: Rows },
}

impl Task {
    /// What it reads, the workers' own scratch aside.
    pub fn reads(&self) -> Vec<&Raw> {
        match self {
            Task::Embed { table, ids, scale: _, out: _ } => vec![&table.raw, ids],
            Task::Select { x, index, out: _ } => vec![&x.raw, index],
            Task::Norm { x, weight, eps: _, carried: _, out: _ } => vec![&x.raw, weight],
            Task::Quantize { x, slices: _, format: _, out: _ } => vec![&x.raw],
            Task::MatMul(MatMul { weight, acts, bias, residual, out: _, panels: _ }) => {
                let residual = residual.as_ref().map(|r| &r.raw);
                [Some(&weight.raw), Some(&acts.raw), bias.as_ref(), residual].into_iter().flatten().collect()
            }
            Task::HeadMatMul(HeadMatMul { x, weight, acts, carried: _, out: _, panels: _ }) => {
                vec![&x.raw, &weight.raw, &acts.raw]
            }
            Task::Angles { positions, frequencies: _, factors, out: _ } => {
                [positions].into_iter().chain(factors).collect()
            }
            Task::Rope { x, angles, turn: _, out: _ } => vec![&x.raw, angles],
            Task::CacheWrite { class: _, halves } => halves.iter().map(|half| &half.x.raw).collect(),
            Task::Attention(Attention { q, keys, values, class: _, geometry: _, out: _ }) => vec![&q.raw, keys, values],
            Task::Gated { gate, up, activation: _, out: _ } => vec![&gate.raw, &up.raw],
            Task::Add { a, b, out: _ } => vec![&a.raw, &b.raw],
            Task::Route { logits, bias, choose: _, out: _ } => [&logits.raw].into_iter().chain(bias).collect(),
            Task::Group { routing, groups: _ } => vec![&routing.raw],
            Task::Experts(Experts { weight, acts, slotted: _, groups, part: _, bias, out: _, panels: _ }) => {
                let Groups { starts, active, slots, rows, used: _ } = groups;
                [&weight.raw, &acts.raw, starts, active, slots, rows].into_iter().chain(bias).collect()
            }
            Task::Combine { x, routing, part: _, others, out: _ } => {
                [&x.raw, &routing.raw].into_iter().chain(others.iter().flatten().map(|r| &r.raw)).collect()
            }
        }
    }

    /// What it writes, the workers' own scratch aside.
    pub fn writes(&self) -> Vec<&Raw> {
        match self {
            Task::Embed { out, .. }
            | Task::Select { out, .. }
            | Task::Norm { out, .. }
            | Task::MatMul(MatMul { out, .. })
            | Task::HeadMatMul(HeadMatMul { out, .. })
            | Task::Rope { out, .. }
            | Task::Attention(Attention { out, .. })
            | Task::Gated { out, .. }
            | Task::Add { out, .. }
            | Task::Route { out, .. }
            | Task::Experts(Experts { out, .. })
            | Task::Combine { out, .. } => vec![&out.raw],
            Task::Quantize { out, .. } => vec![&out.raw],
            Task::Angles { out, .. } => vec![out],
            Task::CacheWrite { class: _, halves } => halves.iter().map(|half| &half.state).collect(),
            Task::Group { groups, .. } => vec![&groups.starts, &groups.active, &groups.slots, &groups.rows],
        }
    }

    /// Whether its chunks would write what others of them read or write.
    pub fn overwrites_itself(&self) -> bool {
        let writes = self.writes();
        let twice = writes.iter().enumerate().any(|(i, range)| meet(&[range], &writes[i + 1..]));
        twice || meet(&writes, &self.reads())
    }
}

fn meet(a: &[&Raw], b: &[&Raw]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.meets(b)))
}

impl Stage {
    /// Whether `task` may run at the same time as all tasks here.
    pub fn admits(&self, task: &Task) -> bool {
        self.tasks.iter().all(|other| {
            let (writes, others) = (task.writes(), other.writes());
            !meet(&writes, &others) && !meet(&writes, &other.reads()) && !meet(&task.reads(), &others)
        })
    }
}
