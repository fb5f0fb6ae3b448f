//! The caches of a card, prepared once, and what is done to their cells between steps. Rows lie as files hold them, cell
//! after cell, so moving is copying: rows are gathered into a buffer, and written where they go.

use std::sync::Arc;

use super::buffers::Buffers;
use super::build::refused;
use super::driver::{DeviceBytes, Function, Launch, Refused, Stream, Trouble};
use super::kernels::{File, Kernels};
use super::program::Draft;
use super::queues::{Place, Queues};
use crate::backend::batches::{self, CELLS, KeyTurn, TURNS};
use crate::backend::{BackendError, CacheLimits, CacheRows, CacheWork, CellMove, CellTurn, Event, Queue};
use crate::graph::ops::RopeStyle;
use crate::graph::{State, StateId};
use crate::index::IndexVec;
use crate::units::Bytes;

/// Bytes of a row that a block copies.
const PART: u32 = 4096;

/// Prepared caches.
pub struct Caches {
    /// What they accept.
    pub limits: CacheLimits,
    states: IndexVec<StateId, Option<Held>>,
    /// Keys that are rotated alike.
    turns: Vec<(KeyTurn, Vec<StateId>)>,
    /// Cells: how many, then the cells, then where they go or how they turn.
    list: Arc<DeviceBytes>,
    /// Cosines and sines.
    table: Arc<DeviceBytes>,
    /// Rows on their way.
    rows: Arc<DeviceBytes>,
    /// The words of the batch at hand.
    words: Vec<u32>,
}

/// One state.
struct Held {
    row: u32,
    params: Vec<u64>,
    gather: Function,
    scatter: Function,
    scatter_on: Function,
    turn: Option<Turn>,
    /// Kept while its address is.
    _memory: Arc<DeviceBytes>,
}

/// How its keys turn.
struct Turn {
    function: Function,
    heads: u32,
    shared: u32,
}

impl Caches {
    /// Resolves the states.
    ///
    /// # Errors
    /// A state is bound to other bytes than it has or is of a type that is not kept, a text does not compile, or the card
    /// lacks memory.
    pub fn prepare(
        device: &str,
        kernels: &Kernels,
        buffers: &Buffers,
        work: &CacheWork<'_>,
    ) -> Result<Caches, BackendError> {
        let limits = CacheLimits::of(device, work)?;
        let wide = |of: fn(&State) -> u64| work.graph.states().iter().map(of).max().unwrap_or(0) as usize;
        let (row, pairs) = (wide(|s| s.row_bytes().0), wide(|s| u64::from(s.head_dim / 2)));
        let own = |len: usize| {
            let made = DeviceBytes::new(kernels.context(), len.max(1)).map(Arc::new);
            made.map_err(|why| refused(device, Bytes::of_len(len), "the caches".into(), why.into()))
        };
        let (list, table, rows) = (own(4 * (1 + 2 * CELLS))?, own(4 * TURNS * 2 * pairs)?, own(CELLS * row)?);
        let mut caches =
            Caches { limits, states: IndexVec::new(), turns: Vec::new(), list, table, rows, words: Vec::new() };
        for (id, state) in work.graph.states().iter_ids() {
            let Some(at) = work.states.get(id).copied().flatten() else {
                caches.states.push(None);
                continue;
            };
            let (memory, first) = buffers.place(device, at)?;
            let refuse = |why: Trouble| refused(device, Bytes::ZERO, format!("state {}", state.name), why);
            let layout = CacheRows::of(state).ok_or_else(|| refuse("has a type that is not kept".to_owned().into()))?;
            let turn = KeyTurn::of(work, id).map_err(|why| refuse(why.into()))?;
            let held = caches.held(kernels, (state, layout), (memory, first), turn.as_ref()).map_err(refuse)?;
            caches.states.push(Some(held));
            if let Some(key) = turn {
                match caches.turns.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, keys)) => keys.push(id),
                    None => caches.turns.push((key, vec![id])),
                }
            }
        }
        Ok(caches)
    }

    fn held(
        &self,
        kernels: &Kernels,
        (state, layout): (&State, CacheRows),
        (memory, first): (&Arc<DeviceBytes>, u64),
        turn: Option<&KeyTurn>,
    ) -> Result<Held, Trouble> {
        let pairs = turn.map_or(0, |key| key.frequencies.pairs() as u32);
        let offset = turn.map_or(0, |key| key.offset);
        let interleaved = turn.is_some_and(|key| key.style == RopeStyle::Interleaved);
        let draft = Draft {
            defines: vec![format!("STATE={}", state.dtype)],
            addresses: vec![self.table.address(0), memory.address(first), self.rows.address(0)],
            numbers: vec![layout.row, layout.head, state.head_dim, offset, pairs, interleaved.into()],
            ..Draft::plain(File::CELLS, "gather")
        };
        let (source, mut params) = (draft.source(), draft.params());
        params[0] = self.list.address(0);
        let function = |entry, shared| kernels.function(&source, entry, shared);
        let shared = 4 * state.head_dim;
        let turned = || Ok::<_, Trouble>(Turn { function: function("turn", shared)?, heads: state.heads, shared });
        Ok(Held {
            row: layout.row,
            params,
            gather: function("gather", 0)?,
            scatter: function("scatter", 0)?,
            scatter_on: function("scatter_on", 0)?,
            turn: turn.map(|_| turned()).transpose()?,
            _memory: Arc::clone(memory),
        })
    }

    /// Carries admitted moves out, each batch by where its rows come from.
    ///
    /// # Errors
    /// The driver refuses, here and below.
    pub fn rearrange(&mut self, queues: &Queues, moves: &[CellMove], waits: &[Event]) -> Result<Event, Refused> {
        let mut done = queues.begin(Queue::Compute, waits, |_| Ok(()))?;
        for pairs in batches::moves(moves) {
            let sources = pairs.iter().map(|pair| pair.0);
            self.list(sources.chain(pairs.iter().map(|pair| pair.1)), pairs.len());
            done = self.run(queues, |stream| {
                self.states.iter().flatten().try_for_each(|held| {
                    held.copy(&held.gather, stream, pairs.len())?;
                    held.copy(&held.scatter_on, stream, pairs.len())
                })
            })?;
        }
        Ok(done)
    }

    /// Carries admitted turns out.
    ///
    /// # Errors
    /// As for [`Caches::rearrange`].
    pub fn turn(&mut self, queues: &Queues, turns: &[CellTurn], waits: &[Event]) -> Result<Event, Refused> {
        let mut done = queues.begin(Queue::Compute, waits, |_| Ok(()))?;
        for batch in batches::turns(turns) {
            for at in 0..self.turns.len() {
                let (key, _) = &self.turns[at];
                let (table, each) = (batch.table(key), 2 * key.frequencies.pairs());
                let place = Place { memory: &self.table, at: 0 };
                queues.write(Queue::Compute, (bytemuck::cast_slice(&table), place), &[], |_| Ok(()))?;
                let angles = batch.cells.iter().map(|&(_, place)| (place * each) as u32);
                self.list(batch.cells.iter().map(|&(cell, _)| cell).chain(angles), batch.cells.len());
                done = self.run(queues, |stream| {
                    let keys = self.turns[at].1.iter().filter_map(|&id| self.states[id].as_ref());
                    keys.into_iter().try_for_each(|held| held.turn_cells(stream, batch.cells.len()))
                })?;
            }
        }
        Ok(done)
    }

    /// Admitted rows of a state → `dst`.
    ///
    /// # Errors
    /// As for [`Caches::rearrange`].
    pub fn read(
        &mut self,
        queues: &Queues,
        (state, cells): (StateId, &[u32]),
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), Refused> {
        queues.begin(Queue::Compute, waits, |_| Ok(()))?;
        let Some(row) = self.states.get(state).and_then(Option::as_ref).map(|held| held.row as usize) else {
            return Ok(());
        };
        for (cells, dst) in cells.chunks(CELLS).zip(dst.chunks_mut(CELLS * row)) {
            self.list(cells.iter().copied(), cells.len());
            let done = self.run(queues, |stream| self.copied(state, stream, cells.len(), |held| &held.gather))?;
            queues.read(Queue::Compute, (Place { memory: &self.rows, at: 0 }, dst), &[done])?;
        }
        Ok(())
    }

    /// `src` → admitted rows of a state.
    ///
    /// # Errors
    /// As for [`Caches::rearrange`].
    pub fn write(
        &mut self,
        queues: &Queues,
        (state, cells): (StateId, &[u32]),
        src: &[u8],
        waits: &[Event],
    ) -> Result<Event, Refused> {
        let mut done = queues.begin(Queue::Compute, waits, |_| Ok(()))?;
        let Some(row) = self.states.get(state).and_then(Option::as_ref).map(|held| held.row as usize) else {
            return Ok(done);
        };
        for (cells, src) in cells.chunks(CELLS).zip(src.chunks(CELLS * row)) {
            queues.write(Queue::Compute, (src, Place { memory: &self.rows, at: 0 }), &[], |_| Ok(()))?;
            self.list(cells.iter().copied(), cells.len());
            done = self.run(queues, |stream| self.copied(state, stream, cells.len(), |held| &held.scatter))?;
        }
        Ok(done)
    }

    fn copied(
        &self,
        state: StateId,
        stream: &Stream,
        cells: usize,
        function: impl FnOnce(&Held) -> &Function,
    ) -> Result<(), Refused> {
        let held = self.states.get(state).and_then(Option::as_ref);
        held.map_or(Ok(()), |held| held.copy(function(held), stream, cells))
    }

    fn list(&mut self, words: impl Iterator<Item = u32>, count: usize) {
        self.words.clear();
        self.words.push(count as u32);
        self.words.extend(words);
    }

    /// Brings the list, then begins what is done to its cells.
    fn run(&self, queues: &Queues, work: impl FnOnce(&Stream) -> Result<(), Refused>) -> Result<Event, Refused> {
        let place = Place { memory: &self.list, at: 0 };
        queues.write(Queue::Compute, (bytemuck::cast_slice(&self.words), place), &[], work)
    }
}

impl Held {
    fn copy(&self, function: &Function, stream: &Stream, cells: usize) -> Result<(), Refused> {
        let grid = (cells as u32, self.row.div_ceil(PART), 1);
        if cells == 0 {
            return Ok(());
        }
        stream.launch(&Launch { function, grid, threads: 256, shared: 0, params: &self.params })
    }

    fn turn_cells(&self, stream: &Stream, cells: usize) -> Result<(), Refused> {
        let Some(Turn { function, heads, shared }) = &self.turn else { return Ok(()) };
        let grid = (cells as u32, *heads, 1);
        stream.launch(&Launch { function, grid, threads: 128, shared: *shared, params: &self.params })
    }
}
