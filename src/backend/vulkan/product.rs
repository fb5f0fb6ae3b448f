//! Products with weights → dispatches: the rows of a weight in windows that a kernel sees, and the rows of values too.

use std::ops::Range;

use super::build::{Bound, Builder, Matrix, Value, WeightRows, dim_word};
use super::kernel::{File, Source, Values, multiplies_codes};
use super::program::{ALONE, Count, Draft, Slot};
use crate::backend::{BackendError, BufferSpan};
use crate::device::acts_bytes;
use crate::graph::ops;
use crate::graph::{NodeId, RowDim};
use crate::plan::Span;
use crate::tensor::act::{ActFormat, act_format};
use crate::units::Bytes;

/// Rows that a row of a weight is decoded for at a time, where there are several.
const SEVERAL: u32 = 8;

/// Rows of a tile, where there are no more than that.
const MANY: u32 = 32;

/// Rows of a matrix that a tile takes, as the kernel has it.
const TILE_WEIGHTS: u32 = 64;

/// Members of a team that take a row of a weight together, as the kernel has it.
const CLASSES: u32 = 8;

/// How rows lie in a value: from one to the next, and from a head to the next.
#[derive(Clone, Copy, Default)]
struct Stride {
    row: u32,
    head: u32,
}

/// Rows that are multiplied, in equal parts.
struct Multiplied<'a> {
    id: NodeId,
    value: &'a Value,
    heads: u32,
    stride: Stride,
}

/// What a product reads and writes, for the rows of a window.
struct Operands {
    x: Bound,
    /// Where scales begin, in words, if x is codes.
    scales: Option<u32>,
    out: Bound,
    residual: Option<Bound>,
    bias: Option<Bound>,
    routing: Option<Bound>,
}

/// What is the same for all dispatches of a product.
#[derive(Clone, Copy, Default)]
struct Shape {
    x: Stride,
    out: Stride,
    carried: u32,
    heads: u32,
    used: u32,
    experts: (u32, u32),
    slotted: bool,
}

impl Builder<'_> {
    pub fn matmul(&mut self, op: &ops::MatMul, id: NodeId) -> Result<(), BackendError> {
        let weight = self.matrix(op.weight, 0..1)?;
        let (x, value) = (self.value(op.x)?, self.value(id)?);
        let residual = op.residual.map(|r| self.value(r)).transpose()?;
        let shape = Shape {
            x: Stride { row: x.cols, head: 0 },
            out: Stride { row: value.cols, head: 0 },
            heads: 1,
            ..Shape::default()
        };
        let windows = self.row_windows(self.work.graph.rows(value.dim).0, &[Some(&x), Some(&value), residual.as_ref()]);
        let whole = Multiplied { id: op.x, value: &x, heads: 1, stride: shape.x };
        let codes = self.codes(&weight, whole)?;
        for rows in windows {
            let (x, scales) = codes.clone().map_or_else(|| self.bound_rows(&x, &rows).map(|x| (x, None)), Ok)?;
            let operands = Operands {
                x,
                scales,
                out: self.bound_rows(&value, &rows)?,
                residual: residual.as_ref().map(|r| self.bound_rows(r, &rows)).transpose()?,
                bias: op.bias.map(|b| self.vector(b)).transpose()?,
                routing: None,
            };
            self.tiled(&weight, value.dim, &rows, shape, &operands)?;
        }
        Ok(())
    }

    pub fn head_matmul(&mut self, op: &ops::HeadMatMul, id: NodeId) -> Result<(), BackendError> {
        let heads = self.work.graph.weights()[op.weight].count;
        let weight = self.matrix(op.weight, 0..heads)?;
        let (x, value) = (self.value(op.x)?, self.value(id)?);
        let shape = Shape {
            x: Stride { row: x.cols, head: weight.cols + op.carried },
            out: Stride { row: value.cols, head: weight.rows + op.carried },
            heads,
            carried: op.carried,
            ..Shape::default()
        };
        let rows = 0..self.work.graph.rows(value.dim).0;
        let codes = self.codes(&weight, Multiplied { id: op.x, value: &x, heads, stride: shape.x })?;
        let (x, out) = (self.bound(&x)?, self.bound(&value)?);
        let mut operands = Operands { x, scales: None, out, residual: None, bias: None, routing: None };
        if let Some((codes, scales)) = codes {
            let plain = std::mem::replace(&mut operands.x, codes);
            let x = Stride { row: heads * weight.cols, head: weight.cols };
            operands.scales = scales;
            self.tiled(&weight, value.dim, &rows, Shape { x, ..shape }, &operands)?;
            (operands.x, operands.scales) = (plain, None);
        } else {
            self.tiled(&weight, value.dim, &rows, shape, &operands)?;
        }
        if op.carried > 0 {
            let units = u64::from(heads) * u64::from(op.carried);
            let count = Count::each(value.dim, units, ALONE);
            let source = Source::plain(File::MatMul, "carry").reading("w", DTYPE).with("TILE", 1);
            self.product(source, (&weight, None), (value.dim, &rows), shape, (&operands, count))?;
        }
        Ok(())
    }

    pub fn experts(&mut self, op: &ops::Experts, id: NodeId) -> Result<(), BackendError> {
        let range = op.matrices(self.work.graph.weights()[op.weight].count);
        let weight = self.matrix(op.weight, range.clone())?;
        let (x, value, routing) = (self.value(op.x)?, self.value(id)?, self.value(op.routing)?);
        let used = routing.cols;
        let slots = if op.slotted { used } else { 1 };
        let stride = Stride { row: slots * weight.cols, head: weight.cols };
        let experts = (range.start, range.end);
        let shape = Shape { used, experts, slotted: op.slotted, heads: 1, x: stride, ..Shape::default() };
        let windows = self.row_windows(self.work.graph.rows(value.dim).0, &[Some(&x), Some(&value)]);
        let whole = Multiplied { id: op.x, value: &x, heads: slots, stride };
        let codes = self.codes(&weight, whole)?;
        let groups = if windows.len() == 1 { self.groups(op, &routing, range)? } else { None };
        for rows in windows {
            for part in &weight.windows {
                let (x, scales) = codes.clone().map_or_else(|| self.bound_rows(&x, &rows).map(|x| (x, None)), Ok)?;
                let mut operands = Operands {
                    x,
                    scales,
                    out: self.bound_rows(&value, &rows)?,
                    residual: None,
                    bias: op.bias.map(|b| self.vector(b)).transpose()?,
                    routing: Some(self.bound(&routing)?),
                };
                let places = self.gpu.lanes / CLASSES;
                let units = u64::from(used) * u64::from(weight.rows.div_ceil(places));
                let bytes = u64::from(places) * u64::from(weight.row_bytes);
                let (few, some, many) = self.by_expert(&groups, used);
                let count = Count { rows: rows.clone(), when: few, ..Count::each(value.dim, units, 1).reading(bytes) };
                let source = weight.read_by(File::MatMul, "experts").with("TILE", 1);
                self.product(source, (&weight, Some(part)), (value.dim, &rows), shape, (&operands, count))?;
                operands.routing = groups.clone().map(|(groups, _)| groups);
                let last = (part.rows.end - 1) / weight.rows;
                let tiles =
                    u64::from(last - part.rows.start / weight.rows + 1) * u64::from(weight.rows.div_ceil(TILE_WEIGHTS));
                for (tile, when) in [(SEVERAL, some), (MANY, many)] {
                    if when.start > self.work.graph.rows(value.dim).0 || when.is_empty() {
                        continue;
                    }
                    let bytes = u64::from(TILE_WEIGHTS) * u64::from(weight.row_bytes);
                    let each = Count::each(value.dim, tiles, 1).reading(bytes);
                    let count = Count { rows: rows.clone(), when, tile, ..each };
                    let source = weight.read_by(File::Tiles, "experts_tiles").with("TILE", tile);
                    self.product(source, (&weight, Some(part)), (value.dim, &rows), shape, (&operands, count))?;
                }
            }
        }
        Ok(())
    }

    /// Numbers of rows for which slots are taken one by one, and for which an expert's are taken by small and by large
    /// tiles: from four a group and from sixteen on.
    fn by_expert(&self, groups: &Option<(Bound, u32)>, used: u32) -> (Range<u32>, Range<u32>, Range<u32>) {
        let Some((_, experts)) = groups else { return (0..u32::MAX, 0..0, 0..0) };
        let rows = |each: u32| each.saturating_mul(*experts).div_ceil(used.max(1)).max(2);
        let (some, many) = (rows(4), rows(16));
        (0..some, some..many, many..u32::MAX)
    }

    /// Brings the slots of a routing into the split's scratch by expert, unless they are there: where that is, and how many
    /// experts there are. `None` where there is no room.
    fn groups(
        &mut self,
        op: &ops::Experts,
        routing: &Value,
        range: Range<u32>,
    ) -> Result<Option<(Bound, u32)>, BackendError> {
        let (experts, used) = (range.end - range.start, routing.cols);
        let rows = self.work.graph.rows(routing.dim).0;
        let words = 2 * u64::from(experts) + u64::from(rows) * u64::from(used);
        let Some(groups) = self.scratch_part(self.scratch.groups, Bytes(4 * words))? else { return Ok(None) };
        let all = self.work.graph.experts(op.routing);
        let found = Some((groups.clone(), all));
        if self.by_expert(&found, used).1.start > rows {
            return Ok(None);
        }
        let made = (op.routing, range.clone());
        if self.scratch.holds_groups.replace(made.clone()) != Some(made) {
            let from = self.bound(routing)?;
            let params = vec![dim_word(routing.dim), used, range.start, range.end, from.at, groups.at];
            let count = Count { tile: u32::MAX, ..Count::each(routing.dim, experts.into(), 1) };
            let source = Source::plain(File::Groups, "group_slots");
            self.drafts.push(Draft { source, params, slots: vec![from.slot, groups.slot], count });
        }
        Ok(found)
    }

    /// So many bytes of a part of the split's scratch, if there is room and a kernel sees all of them.
    pub fn scratch_part(&self, part: Span, needed: Bytes) -> Result<Option<Bound>, BackendError> {
        let seen = needed.0 <= self.gpu.caps.binding.saturating_sub(self.gpu.align);
        if needed > part.len || !seen || !part.offset.0.is_multiple_of(16) {
            return Ok(None);
        }
        let at = BufferSpan { buffer: self.work.bindings.arena, span: Span { len: needed, ..part } };
        self.whole(at).map(Some)
    }

    /// One row at a time for a single one, several with each row of the weight, or tiles of many.
    fn tiled(
        &mut self,
        weight: &Matrix,
        dim: RowDim,
        rows: &Range<u32>,
        shape: Shape,
        operands: &Operands,
    ) -> Result<(), BackendError> {
        let places = self.gpu.lanes / CLASSES;
        for part in &weight.windows {
            let Range { start, end } = part.rows;
            let teams = (end - start).div_ceil(places);
            let matrices = (end - 1) / weight.rows - start / weight.rows + 1;
            let tiles = matrices * weight.rows.div_ceil(TILE_WEIGHTS);
            let (few, many) =
                ((File::MatMul, "matmul", teams, places), (File::Tiles, "matmul_tiles", tiles, TILE_WEIGHTS));
            let kinds = [
                (few, 1, 0..2),
                (few, SEVERAL, 2..SEVERAL + 1),
                (many, MANY, SEVERAL + 1..MANY + 1),
                (many, self.gpu.tile, MANY + 1..u32::MAX),
            ];
            let possible = kinds.into_iter().filter(|(_, _, when)| when.start <= self.work.graph.rows(dim).0);
            for ((file, entry, units, each), tile, when) in possible {
                let bytes = u64::from(each) * u64::from(weight.row_bytes);
                let count = Count { dim, rows: rows.clone(), when, tile, units: units.into(), group: 1, bytes };
                let source = weight.read_by(file, entry).with("TILE", tile);
                self.product(source, (weight, Some(part)), (dim, rows), shape, (operands, count))?;
            }
        }
        Ok(())
    }

    /// Brings what is multiplied into the split's scratch as codes, unless it is there: where that is, and its scales.
    /// `None` where the device or the type has no products of codes, or a kernel would not see all.
    fn codes(&mut self, weight: &Matrix, x: Multiplied<'_>) -> Result<Option<(Bound, Option<u32>)>, BackendError> {
        let Some(format) = act_format(weight.dtype).filter(|_| self.gpu.caps.dots && multiplies_codes(weight.dtype))
        else {
            return Ok(None);
        };
        let numbers = u64::from(self.work.graph.rows(x.value.dim).0) * u64::from(x.heads) * u64::from(weight.cols);
        let seen = x.value.span.len.0 <= self.gpu.caps.binding.saturating_sub(self.gpu.align);
        let acts = self.scratch_part(self.scratch.acts, acts_bytes(numbers))?.filter(|_| seen);
        let Some(acts) = acts else { return Ok(None) };
        let scales = acts.at + (numbers / 4) as u32;
        let made = (x.id, format, x.heads);
        if self.scratch.holds_acts.replace(made) != Some(made) {
            let from = self.bound(x.value)?;
            let shape = [dim_word(x.value.dim), weight.cols, x.heads];
            let params = [&shape[..], &[from.at, x.stride.row, x.stride.head, acts.at, scales]].concat();
            let runs = if format == ActFormat::Q8x256 { 8 } else { 1 };
            let source = Source::plain(File::Acts, "quantize").with("RUNS", runs);
            let count = Count::each(x.value.dim, u64::from(x.heads * (weight.cols / 32)), ALONE);
            self.drafts.push(Draft { source, params, slots: vec![from.slot, acts.slot.clone()], count });
        }
        Ok(Some((acts, Some(scales))))
    }

    fn product(
        &mut self,
        source: Source,
        (weight, part): (&Matrix, Option<&WeightRows>),
        (dim, rows): (RowDim, &Range<u32>),
        shape: Shape,
        (operands, count): (&Operands, Count),
    ) -> Result<(), BackendError> {
        let Operands { x, scales, out, residual, bias, routing } = operands;
        let aligned = [x.at, shape.x.row, shape.x.head].iter().all(|at| at.is_multiple_of(4));
        let fours = aligned && weight.cols.is_multiple_of(32) && part.is_some();
        let values = match scales {
            Some(_) => Values::Codes,
            None if fours => Values::Fours,
            None => Values::Ones,
        };
        let source = Source { values, ..source };
        // Codes are counted in bytes, and those of all rows are bound.
        let (x_at, codes_at) = match scales {
            Some(_) => (4 * x.at + rows.start * shape.x.row, 4 * x.at),
            None => (x.at, 0),
        };
        let Range { start, end } = part.map_or(0..1, |part| part.rows.clone());
        let lead = part.map_or(0, |part| part.window.lead);
        let optional = |bound: &Option<Bound>| [u32::from(bound.is_some()), bound.as_ref().map_or(0, |b| b.at)];
        let params = [
            &[dim_word(dim), weight.cols, weight.rows, start, end, weight.row_bytes, lead, rows.start, rows.end][..],
            &[x_at, shape.x.row, shape.x.head, out.at, shape.out.row, shape.out.head, shape.carried, shape.heads],
            &optional(bias),
            &optional(residual),
            &[shape.used, shape.experts.0, shape.experts.1, shape.slotted.into()],
            &[optional(routing)[1], scales.unwrap_or(0), codes_at],
        ];
        let spare = Slot::Window(self.spare()?);
        let or_spare = |bound: &Option<Bound>| bound.as_ref().map_or(spare.clone(), |b| b.slot.clone());
        let slots = vec![
            part.map_or(Slot::Unused, |part| Slot::Window(part.window.clone())),
            bias.as_ref().map_or(Slot::Unused, |b| b.slot.clone()),
            x.slot.clone(),
            or_spare(residual),
            or_spare(routing),
            out.slot.clone(),
        ];
        self.drafts.push(Draft { source, params: params.concat(), slots, count });
        Ok(())
    }

    /// Runs of rows of which a kernel sees all that these values have.
    fn row_windows(&self, rows: u32, values: &[Option<&Value>]) -> Vec<Range<u32>> {
        // What comes before a value in its window is less than the alignment.
        let most = self.gpu.caps.binding.saturating_sub(2 * self.gpu.align);
        let widest = values.iter().flatten().map(|value| value.row.max(1)).max().unwrap_or(1);
        let each = u32::try_from(most / widest).unwrap_or(u32::MAX).clamp(1, rows.max(1));
        (0..rows).step_by(each as usize).map(|start| start..rows.min(start.saturating_add(each))).collect()
    }
}

/// What a kernel that reads no weight is compiled for.
const DTYPE: crate::tensor::DType = crate::tensor::DType::F32;
