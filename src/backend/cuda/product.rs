//! Matrix products of a split → drafts of launches: values as codes first where blocks are multiplied as bytes, then
//! kernels by the number of rows. All sum in one order, so a row has the same bits in each.

use std::ops::Range;

use super::build::Builder;
use super::fused::Wanted;
use super::kernels::File;
use super::operands::{Matrix, Value, dim_word};
use super::program::{Axis, Count, Draft};
use crate::backend::{BackendError, BufferSpan};
use crate::device::acts_bytes;
use crate::graph::{NodeId, RowDim, ops};
use crate::plan::Span;
use crate::tensor::DType;
use crate::tensor::act::{ActFormat, act_format};
use crate::units::Bytes;

/// Threads of a block, where they do not depend on columns.
const THREADS: u32 = 256;

/// Rows of a step that a block of each takes at most.
const FEW: [u32; 2] = [1, 8];
const MANY: [u32; 3] = [16, 32, 64];

/// How a product walks through memory, in numbers.
#[derive(Clone, Copy, Default)]
struct Shape {
    /// From a row of x to the next, and from a head to the next.
    x: (u32, u32),
    /// The same of the value.
    out: (u32, u32),
    heads: u32,
    carried: u32,
    /// Experts a row, the first of the weight's and their end, whether x has slots.
    used: u32,
    experts: (u32, u32),
    slotted: bool,
}

/// A kernel: its file, its entry, and rows of a step that a block takes at most.
type Kernel = (File, &'static str, u32);

/// Addresses of what a product reads beside its weight; 0 where there is nothing.
#[derive(Clone, Copy, Default)]
struct Operands {
    bias: u64,
    x: u64,
    scales: u64,
    residual: u64,
    routing: u64,
    out: u64,
}

/// What is multiplied: a value, cut into so many parts a row.
#[derive(Clone, Copy)]
struct Multiplied<'a> {
    id: NodeId,
    value: &'a Value,
    heads: u32,
    /// Numbers from a row to the next, and from a part to the next.
    stride: (u32, u32),
}

impl Builder<'_> {
    pub fn matmul(&mut self, op: &ops::MatMul, id: NodeId) -> Result<(), BackendError> {
        let weight = self.matrix(op.weight, &(0..1))?;
        let (x, value) = (self.value(op.x)?, self.value(id)?);
        let shape = Shape { x: (x.cols, 0), out: (value.cols, 0), heads: 1, ..Shape::default() };
        let (codes, scales) = self.codes(&weight, Multiplied { id: op.x, value: &x, heads: 1, stride: shape.x })?;
        let residual = op.residual.map_or(Ok(0), |r| self.value(r).map(|r| r.at))?;
        let bias = self.vector_or_null(op.bias)?;
        let operands = Operands { bias, x: codes, scales, residual, out: value.at, routing: 0 };
        self.products(&weight, value.dim, shape, &operands)
    }

    pub fn head_matmul(&mut self, op: &ops::HeadMatMul, id: NodeId) -> Result<(), BackendError> {
        let heads = self.work.graph.weights()[op.weight].count;
        let weight = self.matrix(op.weight, &(0..heads))?;
        let (x, value) = (self.value(op.x)?, self.value(id)?);
        let stride = (x.cols, weight.cols + op.carried);
        let out = (value.cols, weight.rows + op.carried);
        let shape = Shape { x: stride, out, heads, carried: op.carried, ..Shape::default() };
        let (codes, scales) = self.codes(&weight, Multiplied { id: op.x, value: &x, heads, stride })?;
        let own = if scales == 0 { stride } else { (heads * weight.cols, weight.cols) };
        let operands = Operands { x: codes, scales, out: value.at, ..Operands::default() };
        self.products(&weight, value.dim, Shape { x: own, ..shape }, &operands)?;
        if op.carried > 0 {
            let operands = Operands { x: x.at, scales: 0, ..operands };
            let plain = Matrix { dtype: DType::F32, ..weight };
            let kernel = (File::MATMUL, "carry", 1);
            let count = |_| Count::line(value.dim, Axis::rows(heads * op.carried, THREADS));
            self.product(kernel, &plain, value.dim, shape, (&operands, &count))?;
        }
        Ok(())
    }

    pub fn experts(&mut self, op: &ops::Experts, id: NodeId) -> Result<(), BackendError> {
        let range = op.matrices(self.work.graph.weights()[op.weight].count);
        let weight = self.matrix(op.weight, &range)?;
        let (x, value, routing) = (self.value(op.x)?, self.value(id)?, self.value(op.routing)?);
        let used = routing.cols;
        let slots = if op.slotted { used } else { 1 };
        let stride = (slots * weight.cols, weight.cols);
        let (codes, scales) = self.codes(&weight, Multiplied { id: op.x, value: &x, heads: slots, stride })?;
        let groups = self.groups(op, &routing, range.clone())?;
        let experts = (range.start, range.end);
        let (slotted, out) = (op.slotted, (weight.rows, 0));
        let shape = Shape { used, experts, slotted, heads: 1, x: stride, out, ..Shape::default() };
        let bias = self.vector_or_null(op.bias)?;
        let operands = Operands { bias, x: codes, scales, routing: routing.at, out: value.at, residual: 0 };
        let (few, some, many) = self.by_expert(groups.map(|(_, all)| all), used);
        let count = |wide| {
            let slots = Axis { each: wide, times: used, per: 1 };
            Count { when: few.clone(), ..Count::line(value.dim, slots) }
        };
        self.product((File::MATMUL, "experts", 1), &weight, value.dim, shape, (&operands, &count))?;
        let Some((groups, _)) = groups else { return Ok(()) };
        let operands = Operands { routing: groups, ..operands };
        for (tile, when) in [(16, some), (self.widest(), many)] {
            if when.start <= self.rows(value.dim) && !when.is_empty() {
                // No more slots than rows choose an expert.
                let (high, deep) = (Axis::rows(1, tile), Axis::fixed(experts.1 - experts.0));
                let count = |wide| Count { dim: value.dim, when: when.clone(), grid: [Axis::fixed(wide), high, deep] };
                let kernel = (File::MATMUL_TILES, "experts_tiles", tile);
                self.product(kernel, &weight, value.dim, shape, (&operands, &count))?;
            }
        }
        Ok(())
    }

    /// The most rows of a tile.
    fn widest(&self) -> u32 {
        if self.has_tensor_cores() { 64 } else { 32 }
    }

    /// Numbers of rows for which slots are taken one by one, and for which an expert's are taken by small and by large
    /// tiles: from four a group and from thirty-two on.
    fn by_expert(&self, experts: Option<u32>, used: u32) -> (Range<u32>, Range<u32>, Range<u32>) {
        let Some(experts) = experts else { return (1..u32::MAX, 0..0, 0..0) };
        let rows = |each: u32| each.saturating_mul(experts).div_ceil(used.max(1)).max(2);
        let (some, many) = (rows(4), rows(32));
        (1..some, some..many, many..u32::MAX)
    }

    /// Brings the slots of a routing into the split's scratch by expert, unless they are there: where that is, and how many
    /// experts there are. `None` where there is no room, or are never rows enough.
    fn groups(
        &mut self,
        op: &ops::Experts,
        routing: &Value,
        range: Range<u32>,
    ) -> Result<Option<(u64, u32)>, BackendError> {
        let (experts, used) = (range.end - range.start, routing.cols);
        let rows = self.rows(routing.dim);
        let words = 2 * u64::from(experts) + u64::from(rows) * u64::from(used);
        let Some(groups) = self.scratch_part(self.scratch.groups, Bytes(4 * words))? else { return Ok(None) };
        let all = self.work.graph.experts(op.routing);
        let first = self.by_expert(Some(all), used).1.start;
        if first > rows {
            return Ok(None);
        }
        let made = (op.routing, range.clone());
        if self.scratch.holds_groups.replace(made.clone()) != Some(made) {
            self.drafts.push(Draft {
                threads: 256,
                addresses: vec![routing.at, groups],
                numbers: vec![dim_word(routing.dim), used, range.start, range.end],
                count: Count { when: first..u32::MAX, ..Count::line(routing.dim, Axis::fixed(experts)) },
                ..Draft::plain(File::GROUPS, "group_slots")
            });
        }
        Ok(Some((groups, all)))
    }

    /// So many bytes of a part of the split's scratch, if there is room.
    pub fn scratch_part(&self, part: Span, needed: Bytes) -> Result<Option<u64>, BackendError> {
        if needed > part.len {
            return Ok(None);
        }
        let at = BufferSpan { buffer: self.work.bindings.arena, span: Span { len: needed, ..part } };
        self.address(at).map(|at| Some(at).filter(|at| at.is_multiple_of(16)))
    }

    /// Kernels by the number of rows.
    fn products(
        &mut self,
        weight: &Matrix,
        dim: RowDim,
        shape: Shape,
        operands: &Operands,
    ) -> Result<(), BackendError> {
        let (mut before, all) = (0, self.rows(dim));
        for most in FEW {
            let when = before + 1..most + 1;
            let count = |wide| {
                let wide = Axis::fixed(shape.heads * wide);
                Count { when: when.clone(), ..Count::plane(dim, wide, Axis::rows(1, most)) }
            };
            if before < all {
                self.product((File::MATMUL, "matmul", most), weight, dim, shape, (operands, &count))?;
            }
            before = most;
        }
        let many: Vec<u32> = MANY.into_iter().filter(|&most| most <= self.widest()).collect();
        for &most in &many {
            let end = if Some(&most) == many.last() { u32::MAX } else { most + 1 };
            let count = |wide| {
                let grid = [Axis::fixed(wide), Axis::rows(1, most), Axis::fixed(shape.heads)];
                Count { dim, when: before + 1..end, grid }
            };
            if before < all {
                let kernel = (File::MATMUL_TILES, "matmul_tiles", most);
                self.product(kernel, weight, dim, shape, (operands, &count))?;
            }
            before = most;
        }
        Ok(())
    }

    /// What is multiplied: values as they are, or their codes and scales in the split's scratch, where they are brought
    /// unless they are there.
    fn codes(&mut self, weight: &Matrix, x: Multiplied<'_>) -> Result<(u64, u64), BackendError> {
        let format = match act_format(weight.dtype) {
            Some(format @ (ActFormat::Q8x32 | ActFormat::Q8x256)) => format,
            Some(ActFormat::F32 | ActFormat::F16) | None => return Ok((x.value.at, 0)),
        };
        let numbers = u64::from(self.rows(x.value.dim)) * u64::from(x.heads) * u64::from(weight.cols);
        let acts = self.scratch_part(self.scratch.acts, acts_bytes(numbers))?;
        let acts = acts.ok_or_else(|| self.operands().refuse(x.id, "has no scratch for codes of its rows".into()))?;
        let scales = acts + numbers;
        let made = (x.id, format, x.heads);
        if self.scratch.holds_acts.replace(made) != Some(made) {
            let runs = if format == ActFormat::Q8x256 { 8 } else { 1 };
            let (of, cols, parts) = (x.id, weight.cols, x.heads);
            let wanted = Wanted { of, cols, parts, runs, codes: acts, scales };
            let contiguous = x.stride.0 == parts * cols && (parts == 1 || x.stride.1 == cols);
            if contiguous && self.writes_codes(wanted) {
                return Ok((acts, scales));
            }
            self.drafts.push(Draft {
                defines: vec![format!("RUNS={runs}")],
                threads: 128,
                addresses: vec![x.value.at, 0, 0, acts, scales],
                numbers: vec![dim_word(x.value.dim), weight.cols, x.heads, x.stride.0, x.stride.1, 0],
                count: Count::line(x.value.dim, Axis::rows(x.heads * weight.cols, 1024)),
                ..Draft::plain(File::ACTS, "quantize")
            });
        }
        Ok((acts, scales))
    }

    /// A launch; `count` is told how many blocks take all rows of a matrix.
    fn product(
        &mut self,
        (file, entry, each): Kernel,
        weight: &Matrix,
        dim: RowDim,
        shape: Shape,
        (operands, count): (&Operands, &dyn Fn(u32) -> Count),
    ) -> Result<(), BackendError> {
        let rows = if file == File::MATMUL { "ROWS" } else { "TILE" };
        let Operands { bias, x, scales, residual, routing, out } = *operands;
        let Shape { used, experts, slotted, heads, carried, .. } = shape;
        let numbers = [
            &[dim_word(dim), weight.cols, weight.rows, weight.row_bytes][..],
            &[shape.x.0, shape.x.1, shape.out.0, shape.out.1, heads, carried],
            &[used, experts.0, experts.1, slotted.into()],
        ];
        let mut draft = Draft {
            defines: product_defines(weight.dtype, rows, each, self.has_tensor_cores()),
            threads: THREADS,
            addresses: vec![weight.at, bias, x, scales, residual, routing, out],
            numbers: numbers.concat(),
            ..Draft::plain(file, entry)
        };
        let [shared, places, ..] = self.size_of(&draft, "sizes", 6)?;
        draft.count = count(weight.rows.div_ceil(places.max(1)));
        if file == File::MATMUL && entry != "carry" {
            let warps = segments(weight.cols);
            (draft.threads, draft.shared) = (32 * warps, warps * shared);
        } else if entry != "carry" {
            draft.shared = shared;
        }
        self.drafts.push(draft);
        Ok(())
    }
}

/// Into how many segments columns are cut, which warps of the kernels for few rows have each: see `matmul.cuh`.
fn segments(cols: u32) -> u32 {
    let units = if cols.is_multiple_of(256) { cols / 256 } else { cols.div_ceil(32) };
    units.div_ceil(units.div_ceil(8).max(1)).max(1)
}

/// What the kernels of products are compiled for: halves are multiplied in tensor cores, values cut into parts that are
/// exact, in every kernel or in none.
pub(super) fn product_defines(dtype: DType, rows: &str, each: u32, tensor_cores: bool) -> Vec<String> {
    let split = tensor_cores && matches!(dtype, DType::F16 | DType::Bf16);
    let split = split.then(|| "SPLIT=1".to_owned());
    [format!("TYPE_{dtype}=1"), format!("{rows}={each}")].into_iter().chain(split).collect()
}
