//! The caches of a device, prepared once, and what is done to their cells between steps. Rows lie as files hold them,
//! cell after cell, so moving is copying: rows are gathered into a buffer, and written where they go.

use super::flights::{Flights, PIECE};
use super::gpu::Gpu;
use super::kernel::{File, Source};
use super::memory::{Buffers, Window};
use super::program::{ALONE, Arguments, Count, Dispatch, Draft, Drafts, Slot, buffer_of};
use crate::backend::batches::{self, CELLS, KeyTurn, TURNS};
use crate::backend::{BackendError, CacheLimits, CacheRows, CacheWork, CellMove, CellTurn, Event};
use crate::graph::ops::RopeStyle;
use crate::graph::{RowDim, State, StateId};
use crate::index::IndexVec;
use crate::units::Tokens;

/// Prepared caches.
pub struct Caches {
    /// What they accept.
    pub limits: CacheLimits,
    states: IndexVec<StateId, Option<Held>>,
    turns: Vec<Rotation>,
    /// Cells: how many, then the cells, then where they go or how they turn.
    list: wgpu::Buffer,
    /// Cosines and sines.
    table: wgpu::Buffer,
    /// Rows on their way.
    rows: wgpu::Buffer,
    arguments: Arguments,
}

/// One state.
struct Held {
    row: usize,
    gather: Dispatch,
    scatter: Dispatch,
    scatter_on: Dispatch,
}

/// Keys that are rotated alike.
struct Rotation {
    key: KeyTurn,
    /// The states, with what turns the rows that were gathered of each.
    keys: Vec<(StateId, Dispatch)>,
}

impl Caches {
    /// Resolves the states.
    pub fn prepare(gpu: &Gpu, device: &str, buffers: &Buffers, work: &CacheWork<'_>) -> Result<Caches, BackendError> {
        let limits = CacheLimits::of(device, work)?;
        let refuse = |state: &State, why: String| {
            let node = format!("state {}", state.name);
            BackendError::Prepare { device: device.into(), node, why }
        };
        let wide = |of: fn(&State) -> u64| work.graph.states().iter().map(of).max().unwrap_or(0) as usize;
        let (row, pairs) = (wide(|s| s.row_bytes().0), wide(|s| u64::from(s.head_dim / 2)));
        let words = |n: usize| vec![0; n.next_multiple_of(4).max(4)];
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let own = |n: usize| {
            let failed = |why| BackendError::Prepare { device: device.into(), node: "the caches".into(), why };
            gpu.guarded(|| buffer_of(gpu, storage, &words(n))).map_err(failed)
        };
        let (list, table) = (own(1 + 2 * CELLS)?, own(TURNS * 2 * pairs)?);
        let rows = own((CELLS * row).div_ceil(4) + 4)?;
        let (mut states, mut turns): (IndexVec<StateId, Option<Held>>, Vec<Rotation>) = (IndexVec::new(), Vec::new());
        let mut arguments = None;
        for (id, state) in work.graph.states().iter_ids() {
            let Some(at) = work.states.get(id).copied().flatten() else {
                states.push(None);
                continue;
            };
            let layout = CacheRows::of(state).ok_or_else(|| refuse(state, "has a type that is not kept".into()))?;
            let (memory, range) = buffers.range(device, at)?;
            let memory = memory.written(gpu).map_err(|why| refuse(state, why))?;
            let window = memory.window(gpu, &range, 1).filter(|(_, held)| *held == range.end - range.start);
            let (window, _) = window.ok_or_else(|| {
                let most = gpu.caps.binding;
                refuse(state, format!("has {} bytes, a kernel sees {most} of a buffer", at.span.len.0))
            })?;
            let turn = KeyTurn::of(work, id).map_err(|why| refuse(state, why))?;
            let bind = Bind { state: window, list: &list, table: &table, rows: &rows, layout, of: state };
            let mut drafts = Drafts::default();
            ["gather", "scatter", "scatter_on"].into_iter().for_each(|entry| drafts.push(bind.copy(entry)));
            drafts.push(bind.turn(turn.as_ref()));
            let made = drafts.finish(gpu).map_err(|why| refuse(state, why))?;
            let Ok([gather, scatter, scatter_on, own_turn]) = <[Dispatch; 4]>::try_from(made) else {
                return Err(refuse(state, "has not the kernels that were made".into()));
            };
            if arguments.is_none() {
                arguments = Some(Arguments::new(gpu, gather.arguments(), 4).map_err(|why| refuse(state, why))?);
            }
            states.push(Some(Held { row: layout.row as usize, gather, scatter, scatter_on }));
            if let Some(key) = turn {
                match turns.iter_mut().find(|t| t.key == key) {
                    Some(rotation) => rotation.keys.push((id, own_turn)),
                    None => turns.push(Rotation { key, keys: vec![(id, own_turn)] }),
                }
            }
        }
        let missing = || BackendError::Prepare {
            device: device.into(),
            node: "the caches".into(),
            why: "have no state on this device".into(),
        };
        let arguments = arguments.ok_or_else(missing)?;
        Ok(Caches { limits, states, turns, list, table, rows, arguments })
    }

    /// Carries admitted moves out, each batch by where its rows come from.
    pub fn rearrange(&self, gpu: &Gpu, flights: &mut Flights, moves: &[CellMove]) -> Result<Event, String> {
        let mut done = flights.submit(gpu, None)?;
        for pairs in batches::moves(moves) {
            let sources = pairs.iter().map(|pair| pair.0);
            self.list(gpu, pairs.len(), sources.chain(pairs.iter().map(|pair| pair.1)));
            done = self.run(gpu, flights, pairs.len(), |pass, record| {
                for held in self.states.iter().flatten() {
                    record(&held.gather, pass);
                    record(&held.scatter_on, pass);
                }
            })?;
        }
        Ok(done)
    }

    /// Carries admitted turns out.
    pub fn turn(&self, gpu: &Gpu, flights: &mut Flights, turns: &[CellTurn]) -> Result<Event, String> {
        let mut done = flights.submit(gpu, None)?;
        for batch in batches::turns(turns) {
            for rotation in &self.turns {
                gpu.queue.write_buffer(&self.table, 0, bytemuck::cast_slice(&batch.table(&rotation.key)));
                let each = 2 * rotation.key.frequencies.pairs();
                let angles = batch.cells.iter().map(|&(_, place)| (place * each) as u32);
                self.list(gpu, batch.cells.len(), batch.cells.iter().map(|&(cell, _)| cell).chain(angles));
                done = self.run(gpu, flights, batch.cells.len(), |pass, record| {
                    for (state, turn) in &rotation.keys {
                        if let Some(held) = self.states.get(*state).and_then(Option::as_ref) {
                            record(&held.gather, pass);
                            record(turn, pass);
                        }
                    }
                })?;
            }
        }
        Ok(done)
    }

    /// Admitted rows of a state → `dst`.
    pub fn read(
        &self,
        gpu: &Gpu,
        flights: &mut Flights,
        (state, cells): (StateId, &[u32]),
        dst: &mut [u8],
    ) -> Result<(), String> {
        let Some(held) = self.states.get(state).and_then(Option::as_ref) else { return Ok(()) };
        let most = (PIECE as usize / held.row).clamp(1, CELLS);
        for (cells, dst) in cells.chunks(most).zip(dst.chunks_mut(most * held.row)) {
            self.list(gpu, cells.len(), cells.iter().copied());
            self.run(gpu, flights, cells.len(), |pass, record| record(&held.gather, pass))?;
            flights.fetch(gpu, (&self.rows, 0), dst)?;
        }
        Ok(())
    }

    /// `src` → admitted rows of a state.
    pub fn write(
        &self,
        gpu: &Gpu,
        flights: &mut Flights,
        (state, cells): (StateId, &[u32]),
        src: &[u8],
    ) -> Result<Event, String> {
        let mut done = flights.submit(gpu, None)?;
        let Some(held) = self.states.get(state).and_then(Option::as_ref) else { return Ok(done) };
        for (cells, src) in cells.chunks(CELLS).zip(src.chunks(CELLS * held.row)) {
            let (whole, rest) = src.split_at(src.len() / 4 * 4);
            gpu.queue.write_buffer(&self.rows, 0, whole);
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            gpu.queue.write_buffer(&self.rows, whole.len() as u64, &last);
            self.list(gpu, cells.len(), cells.iter().copied());
            done = self.run(gpu, flights, cells.len(), |pass, record| record(&held.scatter, pass))?;
        }
        Ok(done)
    }

    fn list(&self, gpu: &Gpu, count: usize, words: impl Iterator<Item = u32>) {
        let words: Vec<u32> = [count as u32].into_iter().chain(words).collect();
        gpu.queue.write_buffer(&self.list, 0, bytemuck::cast_slice(&words));
    }

    /// Records and hands over what is done to so many cells.
    fn run(
        &self,
        gpu: &Gpu,
        flights: &mut Flights,
        cells: usize,
        work: impl FnOnce(&mut wgpu::ComputePass<'_>, &dyn Fn(&Dispatch, &mut wgpu::ComputePass<'_>)),
    ) -> Result<Event, String> {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            let rows = (Tokens(cells as u32), Tokens(0));
            work(&mut pass, &|dispatch, pass| dispatch.record(pass, self.arguments.group(), rows));
        }
        flights.submit(gpu, Some(encoder.finish()))
    }
}

/// What is bound for a state.
struct Bind<'a> {
    state: Window,
    list: &'a wgpu::Buffer,
    table: &'a wgpu::Buffer,
    rows: &'a wgpu::Buffer,
    layout: CacheRows,
    of: &'a State,
}

impl Bind<'_> {
    fn copy(&self, entry: &'static str) -> Draft {
        self.draft(entry, (1, vec![0; 8]), self.layout.row.div_ceil(4).into())
    }

    fn turn(&self, turn: Option<&KeyTurn>) -> Draft {
        let Some(KeyTurn { frequencies, factors: _, offset, style }) = turn else { return self.copy("scatter") };
        let (heads, dim, pairs) = (self.of.heads, self.of.head_dim, frequencies.pairs() as u32);
        let interleaved = u32::from(*style == RopeStyle::Interleaved);
        // Runs of 32 elements: whole blocks of every type that has some.
        let runs = [offset / 32, (offset + 2 * pairs).div_ceil(32)];
        let params = [&[heads, dim, *offset, pairs, interleaved][..], &runs, &[self.layout.head]].concat();
        self.draft("turn", (dim.next_multiple_of(32), params), heads.into())
    }

    fn draft(&self, entry: &'static str, (head, turn): (u32, Vec<u32>), units: u64) -> Draft {
        let Bind { state, list, table, rows, layout, of } = self;
        let source = Source { store: Some(of.dtype), ..Source::plain(File::Cells, entry) };
        let source = source.reading("rows", of.dtype).with("HEAD", head);
        let params = [&[0, layout.row, state.lead][..], &turn, &[layout.run]].concat();
        let whole = |buffer: &wgpu::Buffer| {
            Slot::Window(Window { buffer: buffer.clone(), offset: 0, bytes: buffer.size(), lead: 0 })
        };
        let slots = vec![Slot::Window(state.clone()), whole(list), whole(table), whole(rows)];
        Draft { source, params, slots, count: Count::each(RowDim::Tokens, units, ALONE) }
    }
}
