//! Launches that become part of the one before: codes of what a norm or a gated activation has just written, and rotated
//! keys into their cells. The bits are those of two launches.

use super::build::Builder;
use super::kernels::File;
use super::program::{Axis, Count, Draft};
use crate::backend::CacheRows;
use crate::graph::{NodeId, State};

/// Codes that are wanted: of a value whose parts lie one behind the other, so many numbers a row, in blocks of so many runs.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub of: NodeId,
    pub cols: u32,
    pub parts: u32,
    pub runs: u32,
    /// Where they go.
    pub codes: u64,
    pub scales: u64,
}

impl Builder<'_> {
    /// Lets the last launch write codes, too, if it made the value: whether it does.
    pub fn writes_codes(&mut self, wanted: Wanted) -> bool {
        let Wanted { of, cols, parts, runs, codes, scales } = wanted;
        let last = self.drafts.last_mut().filter(|_| self.last == Some(of));
        let Some(last) = last else { return false };
        let runs = format!("RUNS={runs}");
        match last.entry {
            // Columns, none behind them, one slice.
            "norm_wide" if parts == 1 && last.numbers[1..4] == [cols, 0, 1] => {
                last.entry = "norm_quantize";
                last.defines = vec![runs];
                last.addresses[3..5].copy_from_slice(&[codes, scales]);
                true
            }
            "gated" if last.numbers[1] == parts * cols => {
                let (dim, activation) = (last.numbers[0], last.numbers[2]);
                let addresses = [&last.addresses[..], &[codes, scales]].concat();
                *last = Draft {
                    defines: vec![runs],
                    threads: 128,
                    addresses,
                    numbers: vec![dim, parts * cols, 1, 0, 0, activation],
                    count: Count::line(last.count.dim, Axis::rows(parts * cols, 1024)),
                    ..Draft::plain(File::ACTS, "gated_quantize")
                };
                true
            }
            _ => false,
        }
    }

    /// Lets the rotation that made keys write them into their cells, too, if it is of this split: whether it does.
    pub fn writes_keys(&mut self, keys: NodeId, (state, at, rows): (&State, u64, CacheRows), class: u32) -> bool {
        let rope = self.rotations.get(&keys).and_then(|&at| self.drafts.get_mut(at));
        let whole = state.head_dim.is_multiple_of(state.dtype.block().elements);
        let Some(rope) = rope.filter(|rope| whole && rope.entry == "rope" && rope.numbers[..1] == [0]) else {
            return false;
        };
        if rope.numbers[1..3] != [state.heads, state.head_dim] {
            return false;
        }
        rope.entry = "rope_cache";
        rope.defines = vec![format!("STATE={}", state.dtype)];
        rope.addresses[5] = at;
        rope.numbers[9..11].copy_from_slice(&[rows.row, class]);
        true
    }
}
