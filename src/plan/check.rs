//! An independent proof that a plan can be executed, by walking it step by step. Shares no code with the planner.
//!
//! The walk keeps, per device, the owner of every byte range that holds something still needed. It accepts a plan iff
//! 1. every node occurs in exactly one split, after the nodes whose values it reads;
//! 2. at its step every node operand's span still belongs to that operand and lies on the node's device;
//! 3. every matrix and cache that the node reads has a home in that device's memory, and the device can run the node;
//! 4. a span that is written (value or scratch) lies in the arena and is aligned to the device;
//! 5. weights, states and arenas of each memory are what the plan states and stay within its budget.
//!
//! By (2) no value is overwritten before its last reader: a write drops the ownership of all ranges it overlaps, so a
//! later reader of a dropped range is rejected. By (1) and (2) the logits are what the graph says. Nothing else can go
//! wrong with memory: values are only written by their node and inputs only before the first step.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{MemoryUse, Plan, Span, SplitId};
use crate::device::{self, DeviceId, Machine, MemoryId, supports};
use crate::graph::{Graph, InputId, NodeId, Operand};
use crate::index::{Id, IndexVec};
use crate::residency::{Residency, Storage, WEIGHT_ALIGN, slice_bytes};
use crate::units::Bytes;

/// What is wrong with a plan.
#[derive(Debug, Error, PartialEq)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum Violation {
    #[error("{what} has {found} entries, the graph or machine has {needed}")]
    Count { what: &'static str, needed: usize, found: usize },
    #[error("{node} runs {times} times")]
    Runs { node: NodeId, times: usize },
    #[error("{node} is placed on {placed} but runs in {split} on {device}")]
    Device { node: NodeId, placed: DeviceId, split: SplitId, device: DeviceId },
    #[error("{node} reads {operand:?}, which is not on its device")]
    Elsewhere { node: NodeId, operand: Operand },
    #[error("{node} reads {operand:?}, which is not made yet or was overwritten")]
    Lost { node: NodeId, operand: Operand },
    #[error("{node} cannot run on {device}: {why}")]
    Unsupported { node: NodeId, device: DeviceId, why: String },
    #[error("{what} of {needed} bytes has a span of {found}")]
    Length { what: String, needed: u64, found: u64 },
    #[error("{what}: span {span:?} leaves the arena of {arena} or is not aligned")]
    Span { what: String, span: Span, arena: Bytes },
    #[error("memory {memory} needs {needed:?}, the plan states {stated:?}")]
    Memory { memory: String, stated: MemoryUse, needed: MemoryUse },
    #[error("memory {memory} needs {need}, its budget is {budget}")]
    Budget { memory: String, need: Bytes, budget: Bytes },
}

/// Proves that `plan` executes `graph` on `machine` with the homes of `residency`.
///
/// # Errors
/// The first violation found.
pub fn check(graph: &Graph, residency: &Residency, machine: &Machine, plan: &Plan) -> Result<(), Violation> {
    counts(graph, machine, plan)?;
    runs_once(graph, plan)?;
    budgets(graph, residency, machine, plan)?;
    let mut walk = Walk { graph, residency, machine, plan, owned: BTreeMap::new() };
    walk.inputs()?;
    for (split, nodes) in plan.splits.iter_ids().map(|(id, s)| (id, &s.nodes)) {
        walk.scratch(split)?;
        for &node in nodes {
            walk.step(split, node)?;
        }
        walk.transfers(split)?;
    }
    let output = graph.output();
    walk.reads(output, Operand::Node(output), plan.placements[output].device)
}

fn counts(graph: &Graph, machine: &Machine, plan: &Plan) -> Result<(), Violation> {
    let count =
        |what, needed, found| if needed == found { Ok(()) } else { Err(Violation::Count { what, needed, found }) };
    count("placements", graph.len(), plan.placements.len())?;
    count("values", graph.len(), plan.values.len())?;
    count("rings", machine.devices.len(), plan.rings.len())?;
    count("arenas", machine.devices.len(), plan.arenas.len())?;
    count("memories", machine.memories.len(), plan.memories.len())
}

fn runs_once(graph: &Graph, plan: &Plan) -> Result<(), Violation> {
    let mut times: IndexVec<NodeId, usize> = graph.node_ids().map(|_| 0).collect();
    for &node in plan.splits.iter().flat_map(|s| &s.nodes) {
        if times.get(node).is_none() {
            return Err(Violation::Count { what: "nodes", needed: graph.len(), found: node.index() });
        }
        times[node] += 1;
    }
    match times.iter_ids().find(|&(_, &n)| n != 1) {
        Some((node, &times)) => Err(Violation::Runs { node, times }),
        None => Ok(()),
    }
}

fn budgets(graph: &Graph, residency: &Residency, machine: &Machine, plan: &Plan) -> Result<(), Violation> {
    for (memory, spec) in machine.memories.iter_ids() {
        let needed = need(graph, residency, machine, plan, memory);
        let stated = plan.memories[memory];
        if stated != needed {
            return Err(Violation::Memory { memory: spec.name.clone(), stated, needed });
        }
        let (need, budget) = (needed.total(), machine.budget(memory));
        if need > budget {
            return Err(Violation::Budget { memory: spec.name.clone(), need, budget });
        }
    }
    Ok(())
}

fn need(graph: &Graph, residency: &Residency, machine: &Machine, plan: &Plan, memory: MemoryId) -> MemoryUse {
    let mut need = MemoryUse::default();
    for (weight, homes) in residency.weights.iter_ids() {
        for home in homes.iter().filter(|h| h.memory == memory && h.storage == Storage::Allocated) {
            need.weights +=
                slice_bytes(&graph.weights()[weight], &home.slice.range, home.layout).align_up(WEIGHT_ALIGN);
        }
    }
    for (state, _) in residency.states.iter_ids().filter(|&(_, &home)| home == memory) {
        need.states += graph.states()[state].bytes();
    }
    for (device, arena) in plan.arenas.iter_ids() {
        if machine.devices[device].memory == memory {
            need.arenas += arena.bytes;
            need.rings += plan.rings[device];
        }
    }
    need
}

/// What lies at an offset: an input or a value that is still intact.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Input(InputId),
    Value(NodeId),
}

/// The span of what is not there.
const NOWHERE: Span = Span { offset: Bytes(u64::MAX), len: Bytes::ZERO };

struct Walk<'a> {
    graph: &'a Graph,
    residency: &'a Residency,
    machine: &'a Machine,
    plan: &'a Plan,
    owned: BTreeMap<(DeviceId, u64), (Span, Content)>,
}

impl Walk<'_> {
    fn inputs(&mut self) -> Result<(), Violation> {
        for copy in &self.plan.inputs {
            let Some(input) = self.graph.inputs().get(copy.input) else {
                let (needed, found) = (self.graph.inputs().len(), copy.input.index());
                return Err(Violation::Count { what: "inputs", needed, found });
            };
            let needed = 4 * u64::from(self.graph.rows(input.rows()).0);
            self.write(copy.device, copy.span, needed, Some(Content::Input(copy.input)), input.name())?;
        }
        Ok(())
    }

    /// Copies what crosses after a split: the value must still be whole where it was made.
    fn transfers(&mut self, split: SplitId) -> Result<(), Violation> {
        for transfer in self.plan.transfers.iter().filter(|t| t.after == split) {
            let operand = Operand::Node(transfer.value);
            let made = self.plan.placements.get(transfer.value).map(|p| p.device);
            let Some(from) = made else { return Err(Violation::Lost { node: transfer.value, operand }) };
            self.reads(transfer.value, operand, from)?;
            let needed = self.graph.value_bytes(transfer.value).0;
            let content = Some(Content::Value(transfer.value));
            self.write(transfer.to, transfer.span, needed, content, "a transferred value")?;
        }
        Ok(())
    }

    fn scratch(&self, id: SplitId) -> Result<(), Violation> {
        let split = &self.plan.splits[id];
        let need = device::scratch(&self.machine.devices[split.device], self.graph, &split.nodes).total();
        if split.scratch.len != need {
            let what = format!("scratch of {id}");
            return Err(Violation::Length { what, needed: need.0, found: split.scratch.len.0 });
        }
        Ok(())
    }

    fn step(&mut self, split: SplitId, id: NodeId) -> Result<(), Violation> {
        let placed = self.plan.placements[id].device;
        let device = self.plan.splits[split].device;
        if placed != device {
            return Err(Violation::Device { node: id, placed, split, device });
        }
        let node = self.graph.node(id);
        supports(&self.machine.devices[device], self.graph, node).map_err(|why| Violation::Unsupported {
            node: id,
            device,
            why: why.to_string(),
        })?;
        for operand in node.op.operands() {
            self.reads(id, operand, device)?;
        }
        let scratch = self.plan.splits[split].scratch;
        self.write(device, scratch, scratch.len.0, None, "scratch")?;
        for operand in node.op.operands() {
            self.reads(id, operand, device)?;
        }
        let needed = self.graph.value_bytes(id).0;
        self.write(device, self.plan.values[id], needed, Some(Content::Value(id)), &node.name)?;
        for operand in node.op.operands() {
            self.reads(id, operand, device)?;
        }
        Ok(())
    }

    /// The operand is intact and on `device`; asked before and after the node's own writes.
    fn reads(&self, node: NodeId, operand: Operand, device: DeviceId) -> Result<(), Violation> {
        let memory = self.machine.devices[device].memory;
        let (span, content) = match operand {
            Operand::Weight(w) => {
                let range = self.graph.node(node).op.matrices(w, self.graph.weights()[w].count);
                let homes = self.residency.weights.get(w).map_or(&[][..], Vec::as_slice);
                let here = homes.iter().any(|h| h.memory == memory && h.slice.holds(&range));
                return if here { Ok(()) } else { Err(Violation::Elsewhere { node, operand }) };
            }
            Operand::State(s) => {
                let here = self.residency.states.get(s) == Some(&memory);
                return if here { Ok(()) } else { Err(Violation::Elsewhere { node, operand }) };
            }
            Operand::Node(n) => (self.value_on(n, device), Content::Value(n)),
            Operand::Input(i) => (self.input_on(i, device), Content::Input(i)),
        };
        if self.empty(content) {
            return Ok(());
        }
        match self.owned.get(&(device, span.offset.0)) {
            Some(&(owned, owner)) if owned == span && owner == content => Ok(()),
            Some(_) | None => Err(Violation::Lost { node, operand }),
        }
    }

    /// Whether a value has no bytes and only orders its readers.
    fn empty(&self, content: Content) -> bool {
        match content {
            Content::Value(n) => self.graph.value_bytes(n) == Bytes::ZERO,
            Content::Input(_) => false,
        }
    }

    /// Where a device has a value: its own, or a copy; nowhere if neither.
    fn value_on(&self, value: NodeId, device: DeviceId) -> Span {
        let copy = || self.plan.transfers.iter().find(|t| t.value == value && t.to == device).map(|t| t.span);
        match self.plan.placements[value].device == device {
            true => self.plan.values[value],
            false => copy().unwrap_or(NOWHERE),
        }
    }

    fn input_on(&self, input: InputId, device: DeviceId) -> Span {
        let here = self.plan.inputs.iter().find(|c| c.input == input && c.device == device);
        here.map_or(NOWHERE, |c| c.span)
    }

    fn write(
        &mut self,
        device: DeviceId,
        span: Span,
        needed: u64,
        content: Option<Content>,
        what: &str,
    ) -> Result<(), Violation> {
        if span.len.0 != needed {
            return Err(Violation::Length { what: what.into(), needed, found: span.len.0 });
        }
        if needed == 0 {
            return Ok(());
        }
        let arena = self.plan.arenas[device].bytes;
        let end = span.offset.checked_add(span.len);
        let aligned = span.offset.0.is_multiple_of(self.machine.devices[device].alignment);
        if end.is_none_or(|end| end > arena) || !aligned {
            return Err(Violation::Span { what: what.into(), span, arena });
        }
        self.owned
            .retain(|&(d, _), (owned, _)| d != device || owned.end() <= span.offset || span.end() <= owned.offset);
        if let Some(content) = content {
            self.owned.insert((device, span.offset.0), (span, content));
        }
        Ok(())
    }
}
