//! What can be wrong with a plan, with the ids and quantities that show it.

use thiserror::Error;

use crate::device::{DeviceId, MemoryId};
use crate::graph::{Batch, NodeId, Operand, WeightId};
use crate::plan::{MemoryUse, Span, SplitId, TransferId, UploadId};
use crate::units::Bytes;

/// What is wrong with a plan.
#[derive(Debug, Error, PartialEq)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum Violation {
    #[error("the plan is for {planned:?}, the graph for {graph:?}")]
    Batch { planned: Batch, graph: Batch },
    #[error("{what} has {found} entries, the graph or machine has {needed}")]
    Count { what: &'static str, needed: usize, found: usize },
    #[error("{what} names number {index}, there are {count}")]
    Unknown { what: &'static str, index: usize, count: usize },
    #[error("the homes of {weight} {why}")]
    Homes { weight: WeightId, why: &'static str },
    #[error("memory {memory} needs {needed:?}, the plan states {stated:?}")]
    Memory { memory: String, stated: MemoryUse, needed: MemoryUse },
    #[error("memory {memory} needs {need}, its budget is {budget}")]
    Budget { memory: String, need: Bytes, budget: Bytes },
    #[error("{node} runs {times} times")]
    Runs { node: NodeId, times: usize },
    #[error("{split} has no nodes")]
    Empty { split: SplitId },
    #[error("{node} is placed on {placed} but runs in {split} on {device}")]
    Device { node: NodeId, placed: DeviceId, split: SplitId, device: DeviceId },
    #[error("{node} cannot run on {device}: {why}")]
    Unsupported { node: NodeId, device: DeviceId, why: String },
    #[error("{node} is on {device} for a reason that does not hold")]
    Reason { node: NodeId, device: DeviceId },
    #[error("{node} reads {operand:?}, which is not on its device")]
    Elsewhere { node: NodeId, operand: Operand },
    #[error("{node} reads {operand:?}, which is not made yet or was overwritten")]
    Lost { node: NodeId, operand: Operand },
    #[error("{node} writes into the scratch of {split}, in which it runs")]
    Scratch { node: NodeId, split: SplitId },
    #[error("{what} of {needed} bytes has a span of {found}")]
    Length { what: String, needed: u64, found: u64 },
    #[error("{what}: span {span:?} leaves its buffer of {buffer} or is not aligned")]
    Span { what: String, span: Span, buffer: Bytes },
    #[error("the arena of {device} has {stated}, its last span ends at {needed}")]
    Arena { device: DeviceId, stated: Bytes, needed: Bytes },
    #[error("the ring of {device} has {bytes}, nothing is streamed into it")]
    Ring { device: DeviceId, bytes: Bytes },
    #[error("{what} {index} stands behind one of a later split")]
    Order { what: &'static str, index: usize },
    #[error("{what} is brought to {device} twice")]
    Twice { what: String, device: DeviceId },
    #[error("{what} is brought to {device}, where nothing reads it")]
    Useless { what: String, device: DeviceId },
    #[error("{transfer} stands behind {after}, its value is made in {made}, later")]
    After { transfer: TransferId, after: SplitId, made: SplitId },
    #[error("{transfer} brings a value to {device}, where it is made")]
    ToItself { transfer: TransferId, device: DeviceId },
    #[error("{transfer} reads {value}, which was overwritten")]
    Source { transfer: TransferId, value: NodeId },
    #[error("{what} has no way from {from} to {to}")]
    NoWay { what: String, from: MemoryId, to: MemoryId },
    #[error("{upload} brings something to {to} for {split}, which runs on {device}")]
    Target { upload: UploadId, to: DeviceId, split: SplitId, device: DeviceId },
    #[error("{upload} brings a part of {weight} that has no home in {from}")]
    NoHome { upload: UploadId, weight: WeightId, from: MemoryId },
    #[error("{upload} overwrites {earlier}, which {reader} reads, but waits for {after:?}")]
    Slot { upload: UploadId, earlier: UploadId, reader: SplitId, after: Option<SplitId> },
    #[error("{upload} is for {split} and waits for {after}, which is no earlier split of its device")]
    Waits { upload: UploadId, split: SplitId, after: SplitId },
    #[error("{upload} brings what {routing} chose, which is not there before {split} or not all that reads it there")]
    Chosen { upload: UploadId, routing: NodeId, split: SplitId },
}
