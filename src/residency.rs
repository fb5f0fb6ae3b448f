//! Homes as data: which memory holds each slice of a weight and each state, and in which layout.
//! One home a slice, the same in every batch bucket of a model; nothing here moves bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::device::MemoryId;
use crate::graph::{Graph, StateId, Weight, WeightId};
use crate::index::IndexVec;
use crate::tensor::panel;

pub use crate::tensor::panel::Layout;
use crate::units::Bytes;

/// The direction along which a weight is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Whole matrices of a stack.
    Expert,
    /// Rows of every matrix.
    Row,
    /// Columns of every row, in whole blocks.
    Col,
}

/// A part of a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WeightSlice {
    /// The weight.
    pub weight: WeightId,
    /// Along what it is cut.
    pub axis: Axis,
    /// The part.
    pub range: Range<u32>,
}

/// Bytes of a whole weight in `layout`.
pub fn weight_bytes(weight: &Weight, layout: Layout) -> Bytes {
    match layout {
        Layout::Gguf => weight.bytes(),
        Layout::Panel16 => {
            let matrix = panel::panel_bytes(weight.dtype, weight.rows.into(), weight.cols.into());
            matrix.map_or(weight.bytes(), |matrix| Bytes(matrix.0 * u64::from(weight.count)))
        }
    }
}

/// Where a slice lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Home {
    /// The part of the weight.
    pub slice: WeightSlice,
    /// The memory.
    pub memory: MemoryId,
    /// The arrangement of its bytes.
    pub layout: Layout,
}

/// The home of every weight slice and every state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residency {
    /// Homes of each weight; its slices cover it once.
    pub weights: IndexVec<WeightId, Vec<Home>>,
    /// The memory of each state.
    pub states: IndexVec<StateId, MemoryId>,
}

impl Residency {
    /// Everything in one memory, with the layout that `layout` names for each weight.
    pub fn in_one(graph: &Graph, memory: MemoryId, layout: impl Fn(WeightId, &Weight) -> Layout) -> Residency {
        let home = |(id, weight): (WeightId, &Weight)| {
            let slice = WeightSlice { weight: id, axis: Axis::Expert, range: 0..weight.count };
            vec![Home { slice, memory, layout: layout(id, weight) }]
        };
        Residency {
            weights: graph.weights().iter_ids().map(home).collect(),
            states: graph.states().iter().map(|_| memory).collect(),
        }
    }

    /// Bytes of all weights and states.
    pub fn bytes(&self, graph: &Graph) -> Bytes {
        let home = |(id, homes): (WeightId, &Vec<Home>)| {
            let weight = &graph.weights()[id];
            homes.iter().map(|h| weight_bytes(weight, h.layout)).sum::<Bytes>()
        };
        self.weights.iter_ids().map(home).sum::<Bytes>() + graph.states().iter().map(|s| s.bytes()).sum()
    }
}
