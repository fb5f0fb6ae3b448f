//! What is done to cells of caches between steps, in plain types, and the limits that it is checked against before
//! anything changes: cells move, keys turn to other positions, rows go out and come back.

use std::collections::BTreeMap;

use super::{BackendError, BufferSpan, same_len};
use crate::graph::ops::{self, Rope};
use crate::graph::{CACHE_TYPES, Graph, Op, State, StateId, WeightId};
use crate::index::IndexVec;
use crate::units::{Bytes, Tokens};

/// Rows of `len` cells from `src` on, copied to the cells from `dst` on, in every cache; the two may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellMove {
    /// The first cell to read.
    pub src: u32,
    /// The first cell to write.
    pub dst: u32,
    /// Cells.
    pub len: u32,
}

/// Keys of `len` cells from `first` on, turned as if each had been made `delta` positions later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellTurn {
    /// The first cell.
    pub first: u32,
    /// Cells.
    pub len: u32,
    /// Positions; below zero for earlier ones.
    pub delta: i32,
}

/// Caches of a device, all of one class, to be prepared for what is done to them between steps.
#[derive(Clone, Copy, Debug)]
pub struct CacheWork<'a> {
    /// The graph whose states they are; it also says how keys are rotated.
    pub graph: &'a Graph,
    /// Where they are; none for states of other devices and classes.
    pub states: &'a IndexVec<StateId, Option<BufferSpan>>,
    /// Divisors of frequencies by which keys of this device are rotated.
    pub factors: &'a BTreeMap<WeightId, Vec<f32>>,
}

/// How the rows of a K cache were rotated before they were written: none where they were not.
pub fn key_rotation(graph: &Graph, keys: StateId) -> Option<&Rope> {
    let written = graph.nodes().find_map(|(_, node)| match &node.op {
        Op::Cache(write) => (write.keys == keys).then_some(write.k),
        Op::Rows(_) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rope(_) | Op::Attention(_) => None,
        Op::Elementwise(_) | Op::Moe(_) => None,
    })?;
    match &graph.node(written).op {
        Op::Rope(rope) => Some(rope),
        Op::Rows(_) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Cache(_) | Op::Attention(_) => None,
        Op::Elementwise(_) | Op::Moe(ops::Moe::Route(_) | ops::Moe::Experts(_) | ops::Moe::Combine(_)) => None,
    }
}

/// The rows of a cache as files hold them: bytes of one, of a head in it, and of 32 elements.
#[derive(Clone, Copy, Debug)]
pub struct CacheRows {
    /// Of a row.
    pub row: u32,
    /// Of a head.
    pub head: u32,
    /// Of 32 elements.
    pub run: u32,
}

impl CacheRows {
    /// Those of a state, if its type can be kept.
    pub fn of(state: &State) -> Option<CacheRows> {
        let bytes = |elements: u64| state.dtype.row_bytes(elements).and_then(|bytes| u32::try_from(bytes.0).ok());
        let keeps = CACHE_TYPES.contains(&state.dtype);
        let row = u32::try_from(state.row_bytes().0).ok().filter(|_| keeps)?;
        Some(CacheRows { row, head: bytes(state.head_dim.into())?, run: bytes(32)? })
    }
}

/// What prepared caches accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Cells of the smallest of the caches.
    cells: Tokens,
    /// Bytes of a row in each state of the device.
    rows: IndexVec<StateId, Option<Bytes>>,
}

impl CacheLimits {
    /// The limits of a device's caches.
    ///
    /// # Errors
    /// A state is bound to another number of bytes than it has.
    pub fn of(device: &str, work: &CacheWork<'_>) -> Result<CacheLimits, BackendError> {
        let (mut rows, mut cells) = (IndexVec::new(), Tokens(u32::MAX));
        for (id, state) in work.graph.states().iter_ids() {
            let at = work.states.get(id).copied().flatten();
            if let Some(at) = at {
                same_len(device, state.bytes(), at.span.len.index())?;
                cells = cells.min(state.cells);
            }
            rows.push(at.map(|_| state.row_bytes()));
        }
        Ok(CacheLimits { cells, rows })
    }

    /// Rejects moves from or to cells that there are not.
    ///
    /// # Errors
    /// The first of them.
    pub fn admit_moves(&self, device: &str, moves: &[CellMove]) -> Result<(), BackendError> {
        moves.iter().enumerate().try_for_each(|(i, step)| {
            self.run(device, "the source of move", i, step.src, step.len)?;
            self.run(device, "the target of move", i, step.dst, step.len)
        })
    }

    /// Rejects turns of cells that there are not.
    ///
    /// # Errors
    /// The first of them.
    pub fn admit_turns(&self, device: &str, turns: &[CellTurn]) -> Result<(), BackendError> {
        turns.iter().enumerate().try_for_each(|(i, turn)| self.run(device, "turn", i, turn.first, turn.len))
    }

    /// Rejects rows of a state or cells that there are not, or of another size.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn admit_rows(&self, device: &str, state: StateId, cells: &[u32], bytes: usize) -> Result<(), BackendError> {
        let lost = || BackendError::NoState { device: device.into(), state };
        let row = self.rows.get(state).copied().flatten().ok_or_else(lost)?;
        same_len(device, row.times(cells.len() as u64), bytes)?;
        cells.iter().enumerate().try_for_each(|(i, &cell)| self.run(device, "row", i, cell, 1))
    }

    fn run(&self, device: &str, what: &'static str, index: usize, first: u32, len: u32) -> Result<(), BackendError> {
        match first.checked_add(len) {
            Some(end) if end <= self.cells.0 => Ok(()),
            Some(_) | None => {
                let (device, cells) = (device.into(), self.cells.0);
                Err(BackendError::OutOfCells { device, what, index, first, len, cells })
            }
        }
    }
}
