//! A split → dispatches: kernels with what they are bound to, and how many workgroups they take for how many rows.
//! Preparing compiles and binds; running only counts, so a steady step makes nothing but its command buffer.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::gpu::Gpu;
use super::kernel::{Kernel, Source};
use super::memory::Window;
use crate::backend::compile;
use crate::graph::RowDim;
use crate::units::Tokens;

/// Invocations of a workgroup whose members work alone.
pub const ALONE: u64 = 64;

/// Most workgroups of an axis.
const MOST_GROUPS: u64 = 65_535;

/// The parameters of a dispatch begin at a multiple of this.
const PARAMS_ALIGN: usize = 256;

/// How many workgroups a dispatch takes.
#[derive(Clone, Debug)]
pub struct Count {
    /// The rows that it is for.
    pub dim: RowDim,
    /// Those of them that this dispatch takes.
    pub rows: Range<u32>,
    /// Numbers of rows for which it runs.
    pub when: Range<u32>,
    /// Rows that one unit takes.
    pub tile: u32,
    /// Units a tile.
    pub units: u64,
    /// Units a workgroup.
    pub group: u64,
    /// Bytes of weights or caches that a unit reads at most for a row.
    pub bytes: u64,
}

impl Count {
    /// One or several units for each row of `dim`, all of them.
    pub fn each(dim: RowDim, units: u64, group: u64) -> Count {
        Count { dim, rows: 0..u32::MAX, when: 0..u32::MAX, tile: 1, units, group, bytes: 0 }
    }

    /// The same for kernels that read so many bytes a unit and row.
    pub fn reading(self, bytes: u64) -> Count {
        Count { bytes, ..self }
    }

    /// The rows that are its own.
    fn own(&self, (tokens, outputs): (Tokens, Tokens)) -> u32 {
        let rows = match self.dim {
            RowDim::Tokens => tokens.0,
            RowDim::Outputs => outputs.0,
        };
        let own = rows.min(self.rows.end).saturating_sub(self.rows.start);
        if self.when.contains(&rows) { own } else { 0 }
    }

    /// Bytes that are read in all.
    fn work(&self, rows: (Tokens, Tokens)) -> u64 {
        u64::from(self.own(rows)).saturating_mul(self.units).saturating_mul(self.bytes)
    }

    /// Workgroups along two axes, if there are any.
    fn groups(&self, rows: (Tokens, Tokens)) -> Option<(u32, u32)> {
        let groups = (u64::from(self.own(rows).div_ceil(self.tile)) * self.units).div_ceil(self.group);
        if groups == 0 {
            return None;
        }
        let high = groups.div_ceil(MOST_GROUPS);
        Some((groups.div_ceil(high) as u32, high as u32))
    }
}

/// What a binding is.
#[derive(Clone)]
pub enum Slot {
    /// A part of a buffer.
    Window(Window),
    /// Words of the program's own.
    Words(Range<usize>),
    /// Nothing that is read.
    Unused,
}

/// A dispatch that is not bound yet.
pub struct Draft {
    /// What runs.
    pub source: Source,
    /// Its parameters, in order.
    pub params: Vec<u32>,
    /// What its file's bindings are.
    pub slots: Vec<Slot>,
    /// How much of it.
    pub count: Count,
}

/// Drafts with the words that they are given.
#[derive(Default)]
pub struct Drafts {
    all: Vec<Draft>,
    words: Vec<u32>,
}

impl Drafts {
    /// Adds a dispatch behind the others.
    pub fn push(&mut self, draft: Draft) {
        self.all.push(draft);
    }

    /// Words that kernels read.
    pub fn words(&mut self, words: &[u32]) -> Slot {
        let at = self.words.len();
        self.words.extend_from_slice(words);
        let end = self.words.len();
        self.words.resize(end.next_multiple_of(PARAMS_ALIGN / 4), 0);
        Slot::Words(at..end)
    }

    /// Compiles and binds all.
    pub fn finish(mut self, gpu: &Gpu) -> Result<Vec<Dispatch>, String> {
        let drafts = std::mem::take(&mut self.all);
        let params: Vec<Slot> = drafts.iter().map(|draft| self.words(&draft.params)).collect();
        self.words.resize(self.words.len().max(PARAMS_ALIGN / 4), 0);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE;
        let constants = gpu.guarded(|| buffer_of(gpu, usage, &self.words))?;
        let distinct: HashSet<&Source> = drafts.iter().map(|draft| &draft.source).collect();
        let distinct: Vec<&Source> = distinct.into_iter().collect();
        compile::all(&distinct, |source| gpu.kernel(source).map(|_| ()))?;
        let kernels: Result<Vec<Arc<Kernel>>, String> = drafts.iter().map(|draft| gpu.kernel(&draft.source)).collect();
        let bind = |((draft, params), kernel): ((Draft, Slot), Arc<Kernel>)| {
            let slots: Vec<Slot> = [params].into_iter().chain(draft.slots).collect();
            let entry = |(binding, slot)| wgpu::BindGroupEntry { binding, resource: resource(slot, &constants) };
            let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..).zip(&slots).map(entry).collect();
            let (label, layout) = (None, &kernel.operands);
            let operands =
                gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries: &entries });
            Dispatch { kernel, operands, count: draft.count }
        };
        let kernels = kernels?;
        gpu.guarded(|| drafts.into_iter().zip(params).zip(kernels).map(bind).collect())
    }
}

fn resource<'a>(slot: &'a Slot, constants: &'a wgpu::Buffer) -> wgpu::BindingResource<'a> {
    let part = |buffer, offset, bytes| {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(bytes) })
    };
    match slot {
        Slot::Window(window) => part(&window.buffer, window.offset, window.bytes),
        Slot::Words(range) => {
            part(constants, 4 * range.start as u64, (4 * range.len() as u64).next_multiple_of(16).max(16))
        }
        Slot::Unused => part(constants, 0, PARAMS_ALIGN as u64),
    }
}

/// A buffer that holds `words`.
pub fn buffer_of(gpu: &Gpu, usage: wgpu::BufferUsages, words: &[u32]) -> wgpu::Buffer {
    let size = 4 * words.len() as u64;
    let usage = usage | wgpu::BufferUsages::COPY_DST;
    let buffer =
        gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
    buffer
}

/// A kernel, bound.
pub struct Dispatch {
    kernel: Arc<Kernel>,
    operands: wgpu::BindGroup,
    count: Count,
}

impl Dispatch {
    /// Records it for so many rows; `arguments` are those of the step.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, arguments: &wgpu::BindGroup, rows: (Tokens, Tokens)) {
        if let Some((x, y)) = self.count.groups(rows) {
            pass.set_pipeline(&self.kernel.pipeline);
            pass.set_bind_group(0, &self.operands, &[]);
            pass.set_bind_group(1, arguments, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
    }

    /// The layout of its arguments: that of every kernel.
    pub fn arguments(&self) -> &wgpu::BindGroupLayout {
        &self.kernel.arguments
    }
}

/// The first dispatches, of which one submission is made, and the others: a new one begins where `most` bytes are read.
pub fn portion(dispatches: &[Dispatch], most: u64, rows: (Tokens, Tokens)) -> (&[Dispatch], &[Dispatch]) {
    let mut work = 0u64;
    let full = dispatches.iter().position(|dispatch| {
        work = work.saturating_add(dispatch.count.work(rows));
        work >= most
    });
    dispatches.split_at(full.map_or(dispatches.len(), |last| last + 1))
}

/// Words that a step's kernels read, written for each.
pub struct Arguments {
    buffer: wgpu::Buffer,
    group: wgpu::BindGroup,
}

impl Arguments {
    /// Room for so many words.
    pub fn new(gpu: &Gpu, layout: &wgpu::BindGroupLayout, words: usize) -> Result<Arguments, String> {
        gpu.guarded(|| {
            let buffer = buffer_of(gpu, wgpu::BufferUsages::STORAGE, &vec![0; words.max(4).next_multiple_of(4)]);
            let entries = [wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }];
            let group =
                gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
            Arguments { buffer, group }
        })
    }

    /// Writes words before all that is submitted later; `false` if there is no room.
    pub fn write(&self, gpu: &Gpu, words: &[u32]) -> bool {
        let fits = 4 * words.len() as u64 <= self.buffer.size();
        if fits {
            gpu.queue.write_buffer(&self.buffer, 0, bytemuck::cast_slice(words));
        }
        fits
    }

    /// What is bound.
    pub fn group(&self) -> &wgpu::BindGroup {
        &self.group
    }
}
