//! What is known of each cell of a cache: the token it was made from, its position, the position that its key is rotated
//! to, and how often it was rotated since it was written. A move copies all of it with the rows it stands for; which cells
//! live is the block tables' business.

use super::{CellId, Move};
use crate::index::Id;

/// Facts by cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cells {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// Differs from the position where a shift has not been carried out on the key yet.
    keys_at: Vec<u32>,
    turns: Vec<u32>,
}

impl Cells {
    pub(super) fn new(count: u32) -> Cells {
        let zeros = || vec![0; count as usize];
        Cells { tokens: zeros(), positions: zeros(), keys_at: zeros(), turns: zeros() }
    }

    /// A row that was written for a token at a position, its key rotated to `keys_at`.
    pub(super) fn set(&mut self, cell: CellId, token: u32, position: u32, keys_at: u32) {
        self.tokens[cell.index()] = token;
        self.positions[cell.index()] = position;
        self.keys_at[cell.index()] = keys_at;
        self.turns[cell.index()] = 0;
    }

    /// The same for a key that was rotated `turns` times.
    pub(super) fn set_turns(&mut self, cell: CellId, turns: u32) {
        self.turns[cell.index()] = turns;
    }

    pub(super) fn token(&self, cell: CellId) -> u32 {
        self.tokens[cell.index()]
    }

    /// Tokens of all cells, by cell.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn position(&self, cell: CellId) -> u32 {
        self.positions[cell.index()]
    }

    pub(super) fn key_at(&self, cell: CellId) -> u32 {
        self.keys_at[cell.index()]
    }

    /// How often the key was rotated.
    pub(super) fn turns(&self, cell: CellId) -> u32 {
        self.turns[cell.index()]
    }

    /// Moves a cell in its sequence; the key stays as it is until [`Cells::turn`].
    pub(super) fn shift(&mut self, cell: CellId, delta: i32) {
        let position = &mut self.positions[cell.index()];
        *position = position.saturating_add_signed(delta);
    }

    /// By how much the key of a cell is to be rotated, which counts as done now.
    pub(super) fn turn(&mut self, cell: CellId) -> i32 {
        let (at, to) = (self.keys_at[cell.index()], self.positions[cell.index()]);
        self.keys_at[cell.index()] = to;
        let turns = &mut self.turns[cell.index()];
        *turns = turns.saturating_add(u32::from(at != to));
        // Positions stay below 2^31, so that a difference of two fits.
        to.wrapping_sub(at) as i32
    }

    pub(super) fn copy(&mut self, step: Move) {
        let source = step.src.index()..step.src.index() + step.len.index();
        for facts in [&mut self.tokens, &mut self.positions, &mut self.keys_at, &mut self.turns] {
            facts.copy_within(source.clone(), step.dst.index());
        }
    }
}
