//! A program and its arguments → values in the arena: every worker walks the stages and claims chunks of their tasks.
//!
//! This is the one place where ranges of memory become slices. It is sound because tasks of one stage were checked to
//! write nothing that another touches (`Stage::admits`), stages are separated by barriers, every chunk of a task is
//! claimed once, and different chunks write different rows or columns; and because nothing else is under way while a
//! split runs or meets a copy (`Traffic`). What is done to caches between steps (`cells`) keeps to the same rules: it is
//! alone, and its chunks are heads, whose bytes no other chunk touches. Never allocates.
#![allow(unsafe_code)]

use std::ops::Range;

use super::kernels::attention::{Attend, Geometry, MOST_QUERIES};
use super::kernels::cache::PAGE;
use super::kernels::moe::{self, Choice, Combine, Route};
use super::kernels::{elementwise, norm, rope};
use super::memory::Raw;
use super::pool::{Pool, Worker};
use super::program::Program;
use super::simd::Isa;
use super::simd::matmul::{self, ActView, Epilogue, OutView, Product, Residual, WeightView};
use super::task::{Acts, Attention, Experts, Groups, Half, HeadMatMul, MatMul, Matrix, Rows, Slices, Task, Turn};
use super::traffic::Traffic;
use crate::backend::Args;
use crate::device::ROUTE_FLOATS;
use crate::graph::RowDim;
use crate::tensor::act::{ActFormat, act_row_bytes};
use crate::tensor::panel::{self, Layout, PANEL_ROWS};
use crate::tensor::quant;

/// Elements that a worker takes at a time in elementwise ops.
const ELEMENTS: usize = 4096;

/// Runs all stages; `false` if a kernel panicked.
pub fn run(traffic: &Traffic, program: &Program, pool: &Pool, isa: Isa, args: &Args<'_>) -> bool {
    let _alone = traffic.run();
    pool.run(program.stages.len(), &|worker: &Worker<'_>, stage| {
        let tasks = &program.stages[stage].tasks;
        let scratch = &program.workers[worker.index];
        let call = Call { isa, args, scratch };
        let total = tasks.iter().map(|t| call.chunks(t)).sum();
        worker.claim(total, |chunk| {
            let mut rest = chunk;
            for task in tasks {
                let own = call.chunks(task);
                if rest < own {
                    return call.chunk(task, rest);
                }
                rest -= own;
            }
        });
    })
}

/// `src` into a range of the same length.
pub fn fill(traffic: &Traffic, dst: &Raw, src: &[u8]) {
    let _held = traffic.copy(None, Some(dst));
    // SAFETY: nothing that touches the range is under way while this is held.
    unsafe { dst.slice_mut::<u8>(0..src.len()) }.copy_from_slice(src);
}

/// A range into `dst` of the same length.
pub fn fetch(traffic: &Traffic, src: &Raw, dst: &mut [u8]) {
    let _held = traffic.copy(Some(src), None);
    // SAFETY: nothing that writes the range is under way while this is held.
    dst.copy_from_slice(unsafe { src.bytes() });
}

/// A range into another, which may overlap it.
pub fn transfer(traffic: &Traffic, src: &Raw, dst: &Raw) {
    let _held = traffic.copy(Some(src), Some(dst));
    // SAFETY: nothing that writes `src` or touches `dst` is under way while this is held.
    unsafe { dst.copy_from(src) };
}

struct Call<'a> {
    isa: Isa,
    args: &'a Args<'a>,
    scratch: &'a Raw,
}

impl Call<'_> {
    fn rows(&self, dim: RowDim) -> usize {
        match dim {
            RowDim::Tokens => self.args.tokens.index(),
            RowDim::Outputs => self.args.outputs.index(),
        }
    }

    /// Chunks of a task for these arguments: the same on every worker.
    fn chunks(&self, task: &Task) -> usize {
        match task {
            Task::Embed { out, .. } | Task::Select { out, .. } | Task::Norm { out, .. } | Task::Rope { out, .. } => {
                self.rows(out.dim)
            }
            Task::Route { out, .. } | Task::Combine { out, .. } => self.rows(out.dim),
            Task::Quantize { x, slices, .. } => self.rows(x.dim) * slices.count,
            Task::Angles { .. } => self.args.tokens.index(),
            Task::CacheWrite { class: _, halves } => halves.iter().map(|half| half.pages.heads).sum(),
            Task::Gated { out, .. } | Task::Add { out, .. } => (self.rows(out.dim) * out.cols).div_ceil(ELEMENTS),
            Task::Group { .. } => 1,
            Task::MatMul(MatMul { weight, out, panels, .. }) => {
                if self.rows(out.dim) == 0 {
                    0
                } else {
                    chunks_of(weight, *panels)
                }
            }
            Task::HeadMatMul(HeadMatMul { weight, out, panels, .. }) => {
                if self.rows(out.dim) == 0 {
                    0
                } else {
                    weight.count * chunks_of(weight, *panels)
                }
            }
            Task::Experts(Experts { weight, groups, part, panels, .. }) => {
                active(groups, part).len() * chunks_of(weight, *panels)
            }
            Task::Attention(Attention { class, geometry, .. }) => {
                let blocks =
                    self.args.tables[*class].sequences.iter().map(|s| (s.rows as usize).div_ceil(geometry.rows()));
                blocks.sum::<usize>() * geometry.keys.heads * geometry.parts()
            }
        }
    }

    fn chunk(&self, task: &Task, chunk: usize) {
        match task {
            Task::Embed { table, ids, scale, out } => self.embed(table, ids, *scale, out, chunk),
            Task::Select { x, index, out } => {
                let from = word(index, chunk);
                row_mut::<f32>(out, chunk).copy_from_slice(row(x, from));
            }
            Task::Norm { x, weight, eps, carried, out } => {
                let (x, weight, out) = (row(x, chunk), all::<f32>(weight), row_mut(out, chunk));
                self.isa.run(norm::RmsNorm { x, weight, eps: *eps, carried: *carried, out });
            }
            Task::Quantize { x, slices, format, out } => self.quantize(x, *slices, *format, out, chunk),
            Task::MatMul(task) => self.matmul(task, chunk),
            Task::HeadMatMul(task) => self.head_matmul(task, chunk),
            Task::Angles { positions, frequencies, factors, out } => {
                let (width, factors) = (2 * frequencies.pairs(), factors.as_ref().map(all::<f32>));
                frequencies.table(word(positions, chunk) as f32, factors, part_mut(out, chunk * width, width));
            }
            Task::Rope { x, angles, turn, out } => {
                let Turn { pairs, head_dim, offset, style } = *turn;
                let table = &all::<f32>(angles)[chunk * 2 * pairs..(chunk + 1) * 2 * pairs];
                let (x, out) = (row(x, chunk), row_mut(out, chunk));
                self.isa.run(rope::Rotate { x, head_dim, offset, style, table, out });
            }
            Task::CacheWrite { class, halves } => self.cache_write(*class, halves, chunk),
            Task::Attention(task) => self.attention(task, chunk),
            Task::Gated { gate, up, activation, out } => {
                let (gate, up, out) = (span(gate, self, chunk), span(up, self, chunk), span_mut(out, self, chunk));
                self.isa.run(elementwise::Gated { gate, up, activation: *activation, out });
            }
            Task::Add { a, b, out } => {
                let (a, b, out) = (span(a, self, chunk), span(b, self, chunk), span_mut(out, self, chunk));
                self.isa.run(elementwise::Add { a, b, out });
            }
            Task::Route { logits, bias, choose, out } => {
                let own = part_mut::<f32>(self.scratch, 0, ROUTE_FLOATS as usize * logits.cols);
                let (own, scores) = own.split_at_mut(logits.cols);
                own.copy_from_slice(row(logits, chunk));
                let (bias, out) = (bias.as_ref().map(all::<f32>), row_mut::<Choice>(out, chunk));
                self.isa.run(Route { choose: *choose, logits: own, bias, scores, out });
            }
            Task::Group { routing, groups } => self.group(routing, groups),
            Task::Experts(task) => self.experts(task, chunk),
            Task::Combine { x, routing, part, others, out } => {
                let others = others.each_ref().map(|other| other.as_ref().map(|r| row(r, chunk)));
                let (x, choices, out) = (row(x, chunk), row(routing, chunk), row_mut(out, chunk));
                self.isa.run(Combine { x, choices, part: part.clone(), others, out });
            }
        }
    }

    /// A token id past the vocabulary was refused by the session; the clamp keeps this function total.
    fn embed(&self, table: &Matrix, ids: &Raw, scale: f32, out: &Rows, chunk: usize) {
        let id = word(ids, chunk).min(table.rows - 1);
        let bytes = all::<u8>(&table.raw);
        let row_bytes = table.dtype.row_bytes(table.cols as u64).map_or(0, |b| b.index());
        let out = row_mut::<f32>(out, chunk);
        let source = match table.layout {
            Layout::Gguf => &bytes[id * row_bytes..(id + 1) * row_bytes],
            Layout::Panel16 => {
                let own = part_mut::<u8>(self.scratch, 0, row_bytes);
                let panel = id / PANEL_ROWS * PANEL_ROWS * row_bytes;
                let panel = &bytes[panel..panel + PANEL_ROWS * row_bytes];
                panel::unpack_row(table.dtype, panel, id % PANEL_ROWS, own);
                own
            }
        };
        quant::decode(table.dtype, source, out).expect("support tables admit only types with a codec");
        if scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }

    fn quantize(&self, x: &Rows, slices: Slices, format: ActFormat, out: &Acts, chunk: usize) {
        let Slices { count, stride, cols, apart } = slices;
        let (from, slice) = (chunk / count, chunk % count);
        let values = &row::<f32>(x, from)[slice * stride..][..cols];
        let place = if apart { slice * self.rows(x.dim) + from } else { chunk };
        let bytes = part_mut::<u8>(&out.raw, place * out.row_bytes, out.row_bytes);
        debug_assert_eq!(out.row_bytes, act_row_bytes(format, cols));
        matmul::quantize(self.isa, format, cols, values, bytes);
    }

    fn matmul(&self, task: &MatMul, chunk: usize) {
        let MatMul { weight, acts, bias, residual, out, panels } = task;
        let rows = self.rows(out.dim);
        let bytes = &all::<u8>(&acts.raw)[..rows * acts.row_bytes];
        let bias = bias.as_ref().map(all::<f32>);
        let residual = residual.as_ref().map_or(Residual::None, |r| Residual::Matrix {
            data: &all::<f32>(&r.raw)[..rows * r.cols],
            stride: r.cols,
        });
        // SAFETY: the rows lie in the arena; this chunk alone writes the columns of its panels.
        let view = unsafe { OutView::from_raw(out.raw.as_mut_ptr(), rows, out.cols, None) };
        let product = Product {
            weight: view_of(weight, 0),
            acts: ActView { bytes, index: None },
            out: view,
            epilogue: Epilogue { bias, residual },
        };
        let first = chunk * panels;
        let last = (first + panels).min(product.weight.panels());
        product.compute(self.isa, first..last, part_mut(self.scratch, 0, self.scratch.len()));
    }

    fn head_matmul(&self, task: &HeadMatMul, chunk: usize) {
        let HeadMatMul { x, weight, acts, carried, out, panels } = task;
        let (rows, own) = (self.rows(out.dim), chunks_of(weight, *panels));
        let (head, part) = (chunk / own, chunk % own);
        let (from, to) = (head * (weight.cols + carried), head * (weight.rows + carried));
        if part == 0 {
            for i in 0..rows {
                let rest = &row::<f32>(x, i)[from + weight.cols..][..*carried];
                part_mut(&out.raw, i * out.cols + to + weight.rows, *carried).copy_from_slice(rest);
            }
        }
        // SAFETY: every row of the head lies in the arena; this chunk alone writes the columns of its panels.
        let view = unsafe { OutView::from_raw(out.raw.as_mut_ptr::<f32>().add(to), rows, out.cols, None) };
        let bytes = &all::<u8>(&acts.raw)[head * rows * acts.row_bytes..][..rows * acts.row_bytes];
        let product = Product {
            weight: view_of(weight, head),
            acts: ActView { bytes, index: None },
            out: view,
            epilogue: Epilogue::default(),
        };
        let first = part * panels;
        let last = (first + panels).min(product.weight.panels());
        product.compute(self.isa, first..last, part_mut(self.scratch, 0, self.scratch.len()));
    }

    fn experts(&self, task: &Experts, chunk: usize) {
        let Experts { weight, acts, slotted, groups, part, bias, out, panels } = task;
        let own = chunks_of(weight, *panels);
        let expert = active(groups, part)[chunk / own] as usize;
        let range = word(&groups.starts, expert)..word(&groups.starts, expert + 1);
        let slots = &all::<u32>(&groups.slots)[range.clone()];
        let rows = if *slotted { slots } else { &all::<u32>(&groups.rows)[range] };
        let choices = self.rows(out.dim) * groups.used;
        let held = if *slotted { choices } else { self.rows(out.dim) };
        // SAFETY: the slots lie in the arena; this chunk alone writes its expert's slots in the columns of its panels.
        let view = unsafe { OutView::from_raw(out.raw.as_mut_ptr(), choices, weight.rows, Some(slots)) };
        let bias = bias.as_ref().map(|b| &all::<f32>(b)[expert * weight.rows..(expert + 1) * weight.rows]);
        let product = Product {
            weight: view_of(weight, expert - weight.first),
            acts: ActView { bytes: &all::<u8>(&acts.raw)[..held * acts.row_bytes], index: Some(rows) },
            out: view,
            epilogue: Epilogue { bias, residual: Residual::None },
        };
        let first = chunk % own * panels;
        let last = (first + panels).min(product.weight.panels());
        product.compute(self.isa, first..last, part_mut(self.scratch, 0, self.scratch.len()));
    }

    /// One head of one half, for all rows: pages are shared by rows but not by heads.
    fn cache_write(&self, class: usize, halves: &[Half], chunk: usize) {
        let mut heads = halves.iter().flat_map(|half| (0..half.pages.heads).map(move |head| (half, head)));
        let (Half { x, state, pages }, head) = heads.nth(chunk).expect("a chunk for every head of every half");
        for (i, &cell) in self.args.tables[class].cells.iter().enumerate() {
            let (page, lane) = (cell as usize / PAGE, cell as usize % PAGE);
            let at = page * pages.page_bytes() + head * pages.head_bytes();
            let values = &row::<f32>(x, i)[head * pages.head_dim..(head + 1) * pages.head_dim];
            pages.write(values, 0, lane, part_mut(state, at, pages.head_bytes()));
        }
    }

    fn attention(&self, task: &Attention, chunk: usize) {
        let Attention { q, keys, values, class, geometry, out } = task;
        let cells = &self.args.tables[*class];
        let (heads, parts) = (geometry.keys.heads, geometry.parts());
        let (part, head, mut block) = (chunk % parts, chunk / parts % heads, chunk / parts / heads);
        let (queries, most) = (geometry.part(part), geometry.rows());
        let first_query = head * geometry.group + queries.start;
        let geometry = Geometry { group: queries.len(), ..*geometry };
        for sequence in &cells.sequences {
            let blocks = (sequence.rows as usize).div_ceil(most);
            if block >= blocks {
                block -= blocks;
                continue;
            }
            let from = block * most;
            let rows = most.min(sequence.rows as usize - from);
            let row0 = sequence.first as usize + from;
            let width = geometry.group * geometry.value_dim();
            let mut outs: [&mut [f32]; MOST_QUERIES] = std::array::from_fn(|_| Default::default());
            for (i, slot) in outs.iter_mut().enumerate().take(rows) {
                *slot = part_mut(&out.raw, (row0 + i) * out.cols + first_query * geometry.value_dim(), width);
            }
            let table = sequence.pages.start as usize..sequence.pages.end as usize;
            self.isa.run(Attend {
                geometry,
                head,
                first_query,
                q: &all::<f32>(&q.raw)[row0 * q.cols..(row0 + rows) * q.cols],
                first: sequence.length.index() - sequence.rows as usize + from,
                behind: sequence.behind.index(),
                keys: all(keys),
                values: all(values),
                pages: &cells.pages[table.clone()],
                live: cells.live.get(table).unwrap_or(&[]),
                scratch: part_mut(self.scratch, 0, geometry.scratch_floats()),
                out: &mut outs[..rows],
            });
            return;
        }
    }

    fn group(&self, routing: &Rows, groups: &Groups) {
        let choices = &all::<Choice>(&routing.raw)[..self.rows(routing.dim) * groups.used];
        let starts = part_mut::<u32>(&groups.starts, 0, groups.starts.len() / 4);
        let slots = part_mut::<u32>(&groups.slots, 0, choices.len());
        moe::group(choices, starts, slots);
        for (row, slot) in part_mut::<u32>(&groups.rows, 0, choices.len()).iter_mut().zip(&*slots) {
            *row = slot / groups.used as u32;
        }
        let active = part_mut::<u32>(&groups.active, 0, groups.active.len() / 4);
        active[0] = 0;
        for expert in 0..starts.len() - 1 {
            if starts[expert] < starts[expert + 1] {
                active[0] += 1;
                active[active[0] as usize] = expert as u32;
            }
        }
    }
}

/// The experts of a part that have rows, ascending.
fn active<'a>(groups: &'a Groups, part: &Range<usize>) -> &'a [u32] {
    let listed = all::<u32>(&groups.active);
    let listed = &listed[1..1 + listed[0] as usize];
    let before = |end: usize| listed.partition_point(|&expert| (expert as usize) < end);
    &listed[before(part.start)..before(part.end)]
}

fn chunks_of(weight: &Matrix, panels: usize) -> usize {
    weight.rows.div_ceil(PANEL_ROWS).div_ceil(panels)
}

fn view_of(weight: &Matrix, index: usize) -> WeightView<'_> {
    let size = weight.raw.len() / weight.count;
    let bytes = &all::<u8>(&weight.raw)[index * size..(index + 1) * size];
    WeightView { dtype: weight.dtype, layout: weight.layout, bytes, rows: weight.rows, cols: weight.cols }
}

/// All elements of a range that is read in this stage.
pub(super) fn all<T: bytemuck::AnyBitPattern>(raw: &Raw) -> &[T] {
    // SAFETY: a range that a task reads is written by no task of its stage, see the module.
    unsafe { raw.slice() }
}

/// Elements that this chunk alone writes in this stage.
#[allow(clippy::mut_from_ref, reason = "exclusive by the claim, see the module")]
pub(super) fn part_mut<T: bytemuck::Pod>(raw: &Raw, at: usize, len: usize) -> &mut [T] {
    // SAFETY: chunks of a task write disjoint elements and tasks of a stage disjoint ranges, see the module; a
    // worker's scratch is used by that worker alone, one chunk at a time.
    unsafe { raw.slice_mut(at..at + len) }
}

fn word(raw: &Raw, i: usize) -> usize {
    all::<u32>(raw)[i] as usize
}

fn row<T: bytemuck::AnyBitPattern>(rows: &Rows, i: usize) -> &[T] {
    &all(&rows.raw)[i * rows.cols..(i + 1) * rows.cols]
}

#[allow(clippy::mut_from_ref, reason = "exclusive by the claim, see the module")]
fn row_mut<T: bytemuck::Pod>(rows: &Rows, i: usize) -> &mut [T] {
    part_mut(&rows.raw, i * rows.cols, rows.cols)
}

/// The elements of an elementwise chunk.
fn span<'a>(rows: &'a Rows, call: &Call<'_>, chunk: usize) -> &'a [f32] {
    &all(&rows.raw)[elements(rows, call, chunk)]
}

#[allow(clippy::mut_from_ref, reason = "exclusive by the claim, see the module")]
fn span_mut<'a>(rows: &'a Rows, call: &Call<'_>, chunk: usize) -> &'a mut [f32] {
    let range = elements(rows, call, chunk);
    part_mut(&rows.raw, range.start, range.len())
}

fn elements(rows: &Rows, call: &Call<'_>, chunk: usize) -> Range<usize> {
    let all = call.rows(rows.dim) * rows.cols;
    chunk * ELEMENTS..((chunk + 1) * ELEMENTS).min(all)
}
