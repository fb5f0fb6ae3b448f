//! The scratch of a split on a card, cut up as [`device::scratch`] sizes it, and what lies in its parts meanwhile.

use std::ops::Range;

use super::SplitWork;
use crate::device::{self, DeviceSpec};
use crate::graph::NodeId;
use crate::plan::Span;
use crate::tensor::act::ActFormat;
use crate::units::Bytes;

/// The parts of a split's scratch, and what they hold as work is added to the split. A part that the split has no room for is
/// empty.
pub struct ScratchParts {
    /// Values as codes.
    pub acts: Span,
    /// Slots by expert.
    pub groups: Span,
    /// Sums of attention.
    pub parts: Span,
    /// A value, in a format, cut into so many parts a row.
    pub holds_acts: Option<(NodeId, ActFormat, u32)>,
    /// The choices that are grouped, by experts from and to.
    pub holds_groups: Option<(NodeId, Range<u32>)>,
}

impl ScratchParts {
    /// Those that a device's splits have.
    pub fn of(spec: &DeviceSpec, work: &SplitWork<'_>) -> ScratchParts {
        let (sizes, all) = (device::scratch(spec, work.graph, &work.split.nodes), work.split.scratch);
        let fits = sizes.total() <= all.len;
        let part = |offset, len| Span { offset, len: if fits { len } else { Bytes::ZERO } };
        let groups = part(all.offset + sizes.acts + sizes.angles, sizes.groups);
        let parts = part(all.offset + sizes.acts + sizes.angles + sizes.groups, sizes.parts);
        ScratchParts { acts: part(all.offset, sizes.acts), groups, parts, holds_acts: None, holds_groups: None }
    }
}
