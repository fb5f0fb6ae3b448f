//! The seam between plans and hardware: buffers, queues, events and whole splits. It knows no op by name.
//! A backend instance is one device; it holds no global state and never plans.

mod arguments;
mod batches;
mod bound;
mod cells;
mod compile;
pub mod cpu;
pub mod cuda;
mod frequencies;
mod kept;
pub mod null;
mod registry;
mod scratch;
pub mod vulkan;

use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use crate::define_id;
use crate::device::DeviceSpec;
use crate::graph::{CacheClass, Graph, InputId, NodeId, StateId, WeightId};
use crate::index::{CacheClassId, IndexVec};
use crate::plan::{Span, Split};
use crate::residency::{Layout, WeightSlice};
use crate::units::{Bytes, Tokens};

use cells::CacheRows;
pub use cells::{CacheLimits, CacheWork, CellMove, CellTurn, key_rotation};
pub use registry::open;

define_id! {
    /// A buffer of one backend.
    pub BufferId("b"),
    /// A prepared split of one backend.
    pub ProgramId("p"),
    /// The caches of a graph that one backend holds, prepared for work between steps.
    pub CachesId("c"),
}

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferKind {
    /// The memory the device computes from.
    Device,
    /// Host memory that the device copies from at full link speed.
    Pinned,
    /// Memory that both host and device address.
    Mapped,
}

/// Work on different queues may overlap; work on one queue runs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Splits and what belongs between them.
    Compute,
    /// Weights from the host.
    Upload,
    /// Values to and from other devices.
    Peer,
}

/// The completion of a submitted piece of work; events of one backend ascend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event(pub u64);

/// Host memory that a backend may use in place, such as a mapped model file.
pub type HostBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSpan {
    /// The buffer.
    pub buffer: BufferId,
    /// The range.
    pub span: Span,
}

impl BufferSpan {
    /// So many of its bytes, from `at` on.
    pub fn part(self, at: Bytes, len: Bytes) -> BufferSpan {
        BufferSpan { span: Span { offset: self.span.offset + at, len }, ..self }
    }
}

/// Where a slice of a weight was put.
#[derive(Clone, Debug)]
pub struct BoundSlice {
    /// The part of the weight.
    pub slice: WeightSlice,
    /// The arrangement of its bytes.
    pub layout: Layout,
    /// Its bytes.
    pub at: BufferSpan,
}

/// Where a split finds what it reads and writes.
#[derive(Clone, Debug)]
pub struct Bindings {
    /// The arena in which the plan's spans lie.
    pub arena: BufferId,
    /// The slices of every weight that lie on this device.
    pub weights: IndexVec<WeightId, Vec<BoundSlice>>,
    /// Every state that lives on this device.
    pub states: IndexVec<StateId, Option<BufferSpan>>,
}

/// A split to prepare.
#[derive(Clone, Copy, Debug)]
pub struct SplitWork<'a> {
    /// The graph that the split is of.
    pub graph: &'a Graph,
    /// Its nodes and scratch.
    pub split: &'a Split,
    /// Spans of all values in the arena.
    pub values: &'a IndexVec<NodeId, Span>,
    /// Spans of all inputs in the arena.
    pub inputs: &'a IndexVec<InputId, Span>,
    /// Buffers.
    pub bindings: &'a Bindings,
}

/// Rows of a step that belong to one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceRows {
    /// First row in the step.
    pub first: u32,
    /// Number of rows, in order of position.
    pub rows: u32,
    /// Cells of the sequence, these rows included; the last row's cell is `length - 1`.
    pub length: Tokens,
    /// Cells at its beginning that its block table leaves out, because the window of the class is past them.
    pub behind: Tokens,
    /// Its block table: a range of [`CellTable::pages`]; page `i` holds cells `16 i .. 16 i + 16` of those that are not
    /// left out, unless there are holes. Without holes `behind` is a whole number of pages.
    pub pages: Range<u32>,
}

/// Where a step finds the cells of one [class](crate::graph::CacheClass) of caches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellTable {
    /// The cell that each token row is written to: page times 16 plus place in the page.
    pub cells: Vec<u32>,
    /// The rows by sequence, covering all token rows in order.
    pub sequences: Vec<SequenceRows>,
    /// Block tables.
    pub pages: Vec<u32>,
    /// For each page of the tables its cells that the sequence has, lowest bit first; empty where all have all. With
    /// holes, a page may be in a table more than once, `SequenceRows::length` counts the cells that are there, and what
    /// is computed is what would be without the holes, bit for bit.
    pub live: Vec<u16>,
}

impl CellTable {
    /// One sequence of `length` cells without holes in `pages`, of which the last are written: `cells`, one a row.
    pub fn single(cells: &[u32], length: Tokens, pages: &[u32]) -> CellTable {
        let (rows, behind, table) = (cells.len() as u32, Tokens(0), 0..pages.len() as u32);
        let sequences = vec![SequenceRows { first: 0, rows, length, behind, pages: table }];
        CellTable { cells: cells.to_vec(), sequences, pages: pages.to_vec(), live: Vec::new() }
    }

    /// No rows, with the room that there was.
    pub fn clear(&mut self) {
        self.cells.clear();
        self.sequences.clear();
        self.pages.clear();
        self.live.clear();
    }
}

/// Run-time arguments of a step: everything that may change without a new plan.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// Token rows, at most the plan's.
    pub tokens: Tokens,
    /// Output rows, at most the plan's.
    pub outputs: Tokens,
    /// Cells by class of caches: one a class of the graph, in that order.
    pub tables: &'a [CellTable],
}

/// Why a backend refused or failed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum BackendError {
    #[error("{device}: {need} could not be allocated: {why}")]
    OutOfMemory { device: String, need: Bytes, why: String },
    #[error("{device}: {buffer} does not exist")]
    NoBuffer { device: String, buffer: BufferId },
    #[error("{device}: bytes {offset}..{end} leave {buffer} of {len}", offset = span.offset.0, end = span.offset.0.saturating_add(span.len.0))]
    OutOfBuffer { device: String, buffer: BufferId, span: Span, len: Bytes },
    #[error("{device}: {buffer} is read-only")]
    ReadOnly { device: String, buffer: BufferId },
    #[error("{device}: {program} does not exist")]
    NoProgram { device: String, program: ProgramId },
    #[error("{device}: caches {caches} do not exist")]
    NoCaches { device: String, caches: CachesId },
    #[error("{device}: {state} is not among the caches of this device")]
    NoState { device: String, state: StateId },
    #[error("{device}: {what} {index}: cells {first}..{end} leave a cache of {cells}", end = u64::from(*first) + u64::from(*len))]
    OutOfCells { device: String, what: &'static str, index: usize, first: u32, len: u32, cells: u32 },
    #[error("{device}: event {event} was never submitted")]
    NoEvent { device: String, event: u64 },
    #[error("{device}: {what} must be {needed}, found {found}")]
    Argument { device: String, what: &'static str, needed: u64, found: u64 },
    #[error("{device}: {node} {why}")]
    Prepare { device: String, node: String, why: String },
    #[error("{device}: a worker failed: {why}")]
    Worker { device: String, why: String },
    #[error("{device}: {why}")]
    Lost { device: String, why: String },
}

/// What a device will not get over by being asked again; each with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// It has less memory than it was asked for.
    OutOfMemory(&'a str),
    /// It is gone, with all that lay on it.
    Lost(&'a str),
}

impl<'a> Fault<'a> {
    /// The device.
    pub fn device(self) -> &'a str {
        match self {
            Fault::OutOfMemory(device) | Fault::Lost(device) => device,
        }
    }
}

impl BackendError {
    /// Whether the device is at fault for good.
    pub fn fault(&self) -> Option<Fault<'_>> {
        match self {
            BackendError::OutOfMemory { device, .. } => Some(Fault::OutOfMemory(device)),
            BackendError::Lost { device, .. } => Some(Fault::Lost(device)),
            BackendError::NoBuffer { .. }
            | BackendError::OutOfBuffer { .. }
            | BackendError::ReadOnly { .. }
            | BackendError::NoProgram { .. }
            | BackendError::NoCaches { .. }
            | BackendError::NoState { .. }
            | BackendError::OutOfCells { .. }
            | BackendError::NoEvent { .. }
            | BackendError::Argument { .. }
            | BackendError::Prepare { .. }
            | BackendError::Worker { .. } => None,
        }
    }
}

/// One device. Methods may be called from several threads; events order work across queues.
pub trait Backend: Send + Sync {
    /// What plans know of it.
    fn spec(&self) -> &DeviceSpec;

    /// New zeroed memory.
    ///
    /// # Errors
    /// The memory is not to be had.
    fn alloc(&self, kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError>;

    /// Host memory used in place, read-only: kernels of a processor read it, a card copies from it by itself.
    ///
    /// # Errors
    /// The device cannot address it.
    fn adopt(&self, bytes: HostBytes) -> Result<BufferId, BackendError>;

    /// The memory of a buffer, for others to [adopt](Backend::adopt) as long as nobody writes to it; `None` where it is no
    /// host memory.
    fn lend(&self, _buffer: BufferId) -> Option<HostBytes> {
        None
    }

    /// Gives a buffer back once prepared programs no longer use it.
    ///
    /// # Errors
    /// There is no such buffer.
    fn free(&self, buffer: BufferId) -> Result<(), BackendError>;

    /// Bytes allocated and not freed, as they were asked for; adopted host memory does not count.
    fn allocated(&self) -> Bytes;

    /// Copies `src` into `dst` after `waits`; `src` may be reused on return.
    ///
    /// # Errors
    /// A span leaves its buffer, or an event is unknown.
    fn write(&self, queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError>;

    /// Copies `src` into `dst` after `waits` and returns when `dst` is filled.
    ///
    /// # Errors
    /// A span leaves its buffer, or an event is unknown.
    fn read(&self, queue: Queue, src: BufferSpan, dst: &mut [u8], waits: &[Event]) -> Result<(), BackendError>;

    /// Copies within the device after `waits`; the spans have one length.
    ///
    /// # Errors
    /// A span leaves its buffer, or an event is unknown.
    fn copy(&self, queue: Queue, src: BufferSpan, dst: BufferSpan, waits: &[Event]) -> Result<Event, BackendError>;

    /// Makes a split ready to run any number of times.
    ///
    /// # Errors
    /// A node has no kernel, or something it needs is not bound.
    fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError>;

    /// Forgets a prepared split.
    ///
    /// # Errors
    /// There is no such program.
    fn discard(&self, program: ProgramId) -> Result<(), BackendError>;

    /// Runs a prepared split on the compute queue after `waits`.
    ///
    /// # Errors
    /// Arguments do not fit the program, or an event is unknown.
    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError>;

    /// Makes caches of this device ready for the four operations below, any number of times.
    ///
    /// # Errors
    /// The device cannot keep a cache of that kind, or a span leaves its buffer.
    fn prepare_caches(&self, work: &CacheWork<'_>) -> Result<CachesId, BackendError>;

    /// Copies rows of cells in every prepared cache, on the compute queue after `waits`: one move after the other, each as
    /// if it read all its rows before it writes one. Allocates nothing.
    ///
    /// # Errors
    /// A cell is past the smallest of the caches, or an event is unknown; nothing has changed.
    fn rearrange(&self, caches: CachesId, moves: &[CellMove], waits: &[Event]) -> Result<Event, BackendError>;

    /// Rotates the keys of cells on to other positions, in every prepared cache whose rows were rotated before they were
    /// written, on the compute queue after `waits`. What was not rotated, and the length of what was, stays. Allocates
    /// nothing.
    ///
    /// # Errors
    /// As for [`Backend::rearrange`].
    fn turn(&self, caches: CachesId, turns: &[CellTurn], waits: &[Event]) -> Result<Event, BackendError>;

    /// Copies the rows of `cells` in one state into `dst` after `waits` and returns when `dst` is filled: row after row,
    /// each a row of the state's type as files hold it, whatever the device makes of it.
    ///
    /// # Errors
    /// The state is not on this device, a cell is past the smallest cache, `dst` has not the bytes of the rows, or an
    /// event is unknown.
    fn read_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        dst: &mut [u8],
        waits: &[Event],
    ) -> Result<(), BackendError>;

    /// Writes what [`Backend::read_cells`] reads, bit for bit, on the compute queue after `waits`; `src` may be reused on
    /// return.
    ///
    /// # Errors
    /// As for [`Backend::read_cells`]; nothing has changed.
    fn write_cells(
        &self,
        caches: CachesId,
        state: StateId,
        cells: &[u32],
        src: &[u8],
        waits: &[Event],
    ) -> Result<Event, BackendError>;

    /// Returns when the event's work is done.
    ///
    /// # Errors
    /// The work failed, or the event is unknown.
    fn wait(&self, event: Event) -> Result<(), BackendError>;
}

/// What a program accepts: the limits that `Args` are checked against before anything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgLimits {
    /// Most token rows.
    pub tokens: Tokens,
    /// Most output rows.
    pub outputs: Tokens,
    /// The classes of the graph.
    pub classes: IndexVec<CacheClassId, CacheClass>,
}

impl ArgLimits {
    /// The limits of a split.
    pub fn of(work: &SplitWork<'_>) -> ArgLimits {
        let batch = work.graph.batch();
        ArgLimits { tokens: batch.tokens, outputs: batch.outputs, classes: work.graph.classes().clone() }
    }

    /// Rejects arguments that would make a kernel leave a buffer.
    ///
    /// # Errors
    /// The first argument out of range.
    pub fn admit(&self, device: &str, args: &Args<'_>) -> Result<(), BackendError> {
        at_most(device, "token rows at most", self.tokens.0.into(), args.tokens.0.into())?;
        at_most(device, "output rows at most", self.outputs.0.into(), args.outputs.0.into())?;
        if args.tables.len() != self.classes.len() {
            let (needed, found) = (self.classes.len() as u64, args.tables.len() as u64);
            return Err(argument(device, "tables of cells, one a class of caches,", needed, found));
        }
        self.classes.iter().zip(args.tables).try_for_each(|(class, table)| class.admit(device, args.tokens, table))
    }
}

impl CacheClass {
    fn admit(&self, device: &str, tokens: Tokens, table: &CellTable) -> Result<(), BackendError> {
        if table.cells.len() != tokens.index() {
            return Err(argument(device, "cells, one a token row,", tokens.0.into(), table.cells.len() as u64));
        }
        let last = u64::from(self.cells.0).saturating_sub(1);
        for &cell in &table.cells {
            at_most(device, "a cell index below the cache's cells, at most", last, cell.into())?;
        }
        let last = u64::from(self.cells.pages()).saturating_sub(1);
        for &page in &table.pages {
            at_most(device, "a page index at most", last, page.into())?;
        }
        if !table.live.is_empty() && table.live.len() != table.pages.len() {
            return Err(argument(device, "masks, one a page,", table.pages.len() as u64, table.live.len() as u64));
        }
        let mut next = 0;
        for rows in &table.sequences {
            if rows.first != next {
                return Err(argument(device, "first row of a sequence", next.into(), rows.first.into()));
            }
            next = rows.first.saturating_add(rows.rows);
            self.admit_sequence(device, rows, table)?;
        }
        if next != tokens.0 {
            return Err(argument(device, "rows of all sequences", tokens.0.into(), next.into()));
        }
        Ok(())
    }

    fn admit_sequence(&self, device: &str, rows: &SequenceRows, table: &CellTable) -> Result<(), BackendError> {
        let Some(before) = rows.length.0.checked_sub(rows.rows) else {
            return Err(argument(device, "cells of a sequence at least", rows.rows.into(), rows.length.0.into()));
        };
        // The first row reads its own cell and one less than the window before it.
        let most = self.window.map_or(0, |window| before.saturating_sub(window.0.saturating_sub(1)));
        at_most(device, "cells behind the window of a sequence at most", most.into(), rows.behind.0.into())?;
        let held = Tokens(rows.length.0 - rows.behind.0);
        let range = rows.pages.start as usize..rows.pages.end as usize;
        if table.live.is_empty() {
            let pages = table.pages.get(range).map_or(0, <[u32]>::len);
            if pages < held.pages() as usize {
                return Err(argument(device, "pages of a sequence", held.pages().into(), pages as u64));
            }
            let odd = rows.behind.0 % Tokens::PAGE.0;
            return at_most(device, "cells behind the window beyond whole pages, at most", 0, odd.into());
        }
        let live = table.live.get(range).unwrap_or(&[]).iter().map(|mask| u64::from(mask.count_ones())).sum();
        if live != u64::from(held.0) {
            return Err(argument(device, "live cells of a sequence", held.0.into(), live));
        }
        Ok(())
    }
}

fn at_most(device: &str, what: &'static str, most: u64, found: u64) -> Result<(), BackendError> {
    if found <= most { Ok(()) } else { Err(argument(device, what, most, found)) }
}

fn argument(device: &str, what: &'static str, needed: u64, found: u64) -> BackendError {
    BackendError::Argument { device: device.into(), what, needed, found }
}

/// Where a split finds all matrices in `range` of a weight.
fn bound_slice<'a>(
    device: &str,
    work: &SplitWork<'a>,
    id: WeightId,
    range: &Range<u32>,
) -> Result<&'a BoundSlice, BackendError> {
    let slices = work.bindings.weights.get(id).map_or(&[][..], Vec::as_slice);
    slices.iter().find(|s| s.slice.holds(range)).ok_or_else(|| {
        let weight = &work.graph.weights()[id];
        let why = match *range == (0..weight.count) {
            true => "is not bound as a whole".to_owned(),
            false => format!("is not bound with its matrices {range:?}"),
        };
        BackendError::Prepare { device: device.into(), node: format!("weight {}", weight.name), why }
    })
}

/// Refuses a range of another length than is needed.
fn same_len(device: &str, needed: Bytes, found: usize) -> Result<(), BackendError> {
    if needed.0 == found as u64 { Ok(()) } else { Err(argument(device, "bytes of a range", needed.0, found as u64)) }
}

/// Refuses events that were never submitted; `last` is the last one that was.
fn known(device: &str, last: u64, events: &[Event]) -> Result<(), BackendError> {
    match events.iter().find(|e| e.0 == 0 || e.0 > last) {
        Some(event) => Err(BackendError::NoEvent { device: device.into(), event: event.0 }),
        None => Ok(()),
    }
}
