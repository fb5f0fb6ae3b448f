//! Homes as data: which memory holds each slice of a weight and each state, in which layout, and whose bytes they are.
//! One home a slice, the same in every batch bucket of a model; nothing here moves bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::device::MemoryId;
use crate::graph::{Graph, LaneId, StateId, Weight, WeightId};
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

impl WeightSlice {
    /// Whether it holds all of the matrices in `range`, whole.
    pub fn holds(&self, range: &Range<u32>) -> bool {
        self.axis == Axis::Expert && self.range.start <= range.start && range.end <= self.range.end
    }
}

/// Bytes of the matrices in `range` of a weight, in the model file's layout.
pub fn part_bytes(weight: &Weight, range: &Range<u32>) -> Bytes {
    Bytes(weight.bytes().0 / u64::from(weight.count) * u64::from(range.end.saturating_sub(range.start)))
}

/// Bytes of the matrices in `range` of a weight in `layout`.
pub fn slice_bytes(weight: &Weight, range: &Range<u32>, layout: Layout) -> Bytes {
    let matrix = weight_bytes(weight, layout).0 / u64::from(weight.count);
    Bytes(matrix * u64::from(range.end.saturating_sub(range.start)))
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

/// A slice that is allocated begins at a multiple of this in the buffer of its memory's weights.
pub const WEIGHT_ALIGN: u64 = 64;

/// Whose memory holds a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// A buffer of ours, into which the slice is copied or repacked.
    Allocated,
    /// The file mapping, where the slice is used in place; it takes nothing from the memory's budget.
    Mapped,
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
    /// Whose memory it is.
    pub storage: Storage,
}

impl Home {
    /// The matrices in `range` of `weight`, allocated in the file's layout.
    pub fn of_matrices(weight: WeightId, range: Range<u32>, memory: MemoryId) -> Home {
        let slice = WeightSlice { weight, axis: Axis::Expert, range };
        Home { slice, memory, layout: Layout::Gguf, storage: Storage::Allocated }
    }

    /// Bytes that are allocated for the slice, a part of `weight`: with what aligns the next one.
    pub fn allocated(&self, weight: &Weight) -> Bytes {
        match self.storage {
            Storage::Allocated => slice_bytes(weight, &self.slice.range, self.layout).align_up(WEIGHT_ALIGN),
            Storage::Mapped => Bytes::ZERO,
        }
    }
}

/// Where the caches of layers live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheHome {
    /// With their layers.
    #[default]
    Layer,
    /// On accelerators, also those of layers whose weights stay with the processor: engines that stream these for a
    /// long prompt compute attention there, too.
    Accelerator,
    /// With the processor: `--no-kv-offload`.
    Host,
}

/// The home of every weight slice and every state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residency {
    /// Homes of each weight: one, runs of experts that cover it once, or whole copies in several memories.
    pub weights: IndexVec<WeightId, Vec<Home>>,
    /// The memory of each state.
    pub states: IndexVec<StateId, MemoryId>,
    /// The memory of each lane, where several devices work on a layer together.
    #[serde(default, skip_serializing_if = "IndexVec::is_empty")]
    pub lanes: IndexVec<LaneId, MemoryId>,
}

impl Residency {
    /// Everything in one memory, each weight in the layout and storage that `form` names.
    pub fn in_one(graph: &Graph, memory: MemoryId, form: impl Fn(WeightId, &Weight) -> (Layout, Storage)) -> Residency {
        let home = |(id, weight): (WeightId, &Weight)| {
            let slice = WeightSlice { weight: id, axis: Axis::Expert, range: 0..weight.count };
            let (layout, storage) = form(id, weight);
            vec![Home { slice, memory, layout, storage }]
        };
        Residency {
            weights: graph.weights().iter_ids().map(home).collect(),
            states: graph.states().iter().map(|_| memory).collect(),
            lanes: IndexVec::new(),
        }
    }
}
