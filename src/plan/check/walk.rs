//! Values: a walk over the steps of a plan that keeps, per arena, the owner of every range that is still whole.

use std::collections::{BTreeMap, BTreeSet};

use super::ranges::Ranges;
use super::{Case, Violation};
use crate::device::{DeviceId, scratch, supports};
use crate::graph::{InputId, NodeId, Operand};
use crate::index::{Id, IndexVec};
use crate::plan::{InputCopy, Span, SplitId, Transfer, TransferId};
use crate::units::Bytes;

/// What lies in a range of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Input(InputId),
    Value(NodeId),
}

pub(super) struct Walk<'a> {
    case: Case<'a>,
    /// What is whole in each arena, and where its last span ends.
    arenas: IndexVec<DeviceId, (Ranges<Content>, Bytes)>,
    /// The split of each node.
    split_of: BTreeMap<NodeId, SplitId>,
    /// Nodes that have run.
    made: BTreeSet<NodeId>,
    /// Inputs, and values of other devices, on the devices that get them.
    copies: BTreeMap<(DeviceId, Content), Span>,
    /// Those of them that were read.
    read: BTreeSet<(DeviceId, Content)>,
    /// Transfers behind each split.
    behind: BTreeMap<SplitId, Vec<TransferId>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(case: Case<'a>) -> Walk<'a> {
        let mut behind: BTreeMap<SplitId, Vec<TransferId>> = BTreeMap::new();
        for (id, transfer) in case.plan.transfers.iter_ids() {
            behind.entry(transfer.after).or_default().push(id);
        }
        let arenas = case.machine.devices.iter().map(|_| (Ranges::new(), Bytes::ZERO)).collect();
        let split_of = case.plan.splits.iter_ids().flat_map(|(id, s)| s.nodes.iter().map(move |&node| (node, id)));
        let (made, copies, read) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Walk { case, arenas, split_of: split_of.collect(), made, copies, read, behind }
    }

    /// Walks the whole plan; at its end stand the logits.
    pub(super) fn run(mut self) -> Result<(), Violation> {
        let Case { graph, plan, .. } = self.case;
        self.order()?;
        plan.inputs.iter().try_for_each(|copy| self.input(copy))?;
        for (split, nodes) in plan.splits.iter_ids().map(|(id, s)| (id, &s.nodes)) {
            self.scratch(split)?;
            nodes.iter().try_for_each(|&node| self.step(split, node))?;
            self.transfers(split)?;
        }
        let output = graph.output();
        self.reads(output, Operand::Node(output), plan.placements[output].device)?;
        self.nothing_useless()
    }

    fn order(&self) -> Result<(), Violation> {
        let mut last = SplitId(0);
        for (id, transfer) in self.case.plan.transfers.iter_ids() {
            if transfer.after < last {
                return Err(Violation::Order { what: "transfer", index: id.index() });
            }
            last = transfer.after;
        }
        Ok(())
    }

    /// Inputs are there before the first split.
    fn input(&mut self, copy: &InputCopy) -> Result<(), Violation> {
        let &InputCopy { input, device, span } = copy;
        let of = &self.case.graph.inputs()[input];
        let needed = Bytes(4 * u64::from(self.case.graph.rows(of.rows()).0));
        self.arrives(device, Content::Input(input), span, of.name())?;
        self.write(device, span, needed, Some(Content::Input(input)), of.name())
    }

    /// What is brought to a device is brought once.
    fn arrives(&mut self, device: DeviceId, content: Content, span: Span, what: &str) -> Result<(), Violation> {
        match self.copies.insert((device, content), span) {
            Some(_) => Err(Violation::Twice { what: what.into(), device }),
            None => Ok(()),
        }
    }

    /// The kernels of a split may use its scratch from its start to its end.
    fn scratch(&mut self, id: SplitId) -> Result<(), Violation> {
        let split = &self.case.plan.splits[id];
        if split.nodes.is_empty() {
            return Err(Violation::Empty { split: id });
        }
        let need = scratch(&self.case.machine.devices[split.device], self.case.graph, &split.nodes).total();
        self.write(split.device, split.scratch, need, None, &format!("scratch of {id}"))
    }

    /// A node reads while it writes: its operands must be whole before and after.
    fn step(&mut self, split: SplitId, id: NodeId) -> Result<(), Violation> {
        let Case { graph, machine, plan, .. } = self.case;
        let (placed, device) = (plan.placements[id].device, plan.splits[split].device);
        if placed != device {
            return Err(Violation::Device { node: id, placed, split, device });
        }
        let node = graph.node(id);
        supports(&machine.devices[device], graph, node).map_err(|why| Violation::Unsupported {
            node: id,
            device,
            why: why.to_string(),
        })?;
        let operands = node.op.operands();
        operands.iter().try_for_each(|&operand| self.reads(id, operand, device))?;
        let (span, scratch) = (plan.values[id], plan.splits[split].scratch);
        self.write(device, span, graph.value_bytes(id), Some(Content::Value(id)), &node.name)?;
        operands.iter().try_for_each(|&operand| self.reads(id, operand, device))?;
        if span.overlaps(scratch) && span.len > Bytes::ZERO && scratch.len > Bytes::ZERO {
            return Err(Violation::Scratch { node: id, split });
        }
        self.made.insert(id);
        Ok(())
    }

    /// Copies what crosses after a split. In whichever order copies land, sources and copies are whole at the end.
    fn transfers(&mut self, split: SplitId) -> Result<(), Violation> {
        let plan = self.case.plan;
        let group: Vec<TransferId> = self.behind.remove(&split).unwrap_or_default();
        for &id in &group {
            self.transfer(id, &plan.transfers[id])?;
        }
        for &id in &group {
            let Transfer { value, to, span, .. } = plan.transfers[id];
            let from = plan.placements[value].device;
            let whole = |device, span| self.arenas[device].0.holds(span, Content::Value(value));
            if !whole(from, plan.values[value]) || !whole(to, span) {
                return Err(Violation::Source { transfer: id, value });
            }
        }
        Ok(())
    }

    fn transfer(&mut self, id: TransferId, transfer: &Transfer) -> Result<(), Violation> {
        let Case { graph, machine, plan, .. } = self.case;
        let &Transfer { value, after, to, span } = transfer;
        let from = plan.placements[value].device;
        if from == to {
            return Err(Violation::ToItself { transfer: id, device: to });
        }
        let made = self.split_of[&value];
        if after < made {
            return Err(Violation::After { transfer: id, after, made });
        }
        let (here, there) = (machine.devices[from].memory, machine.devices[to].memory);
        if here != there && machine.way(here, there).is_none() {
            return Err(Violation::NoWay { what: id.to_string(), from: here, to: there });
        }
        if !self.arenas[from].0.holds(plan.values[value], Content::Value(value)) {
            return Err(Violation::Source { transfer: id, value });
        }
        self.arrives(to, Content::Value(value), span, &id.to_string())?;
        self.write(to, span, graph.value_bytes(value), Some(Content::Value(value)), &id.to_string())
    }

    /// The operand is on `device`, made before, and whole. Weights are proven elsewhere.
    fn reads(&mut self, node: NodeId, operand: Operand, device: DeviceId) -> Result<(), Violation> {
        let Case { graph, residency, machine, plan } = self.case;
        let (own, content) = match operand {
            Operand::Weight(_) => return Ok(()),
            Operand::State(s) => {
                let here = residency.states[s] == machine.devices[device].memory;
                return if here { Ok(()) } else { Err(Violation::Elsewhere { node, operand }) };
            }
            Operand::Node(n) if !self.made.contains(&n) => return Err(Violation::Lost { node, operand }),
            // Devices are ordered by what crosses between them: what has no bytes orders readers on its own only.
            Operand::Node(n) if plan.placements[n].device == device && graph.value_bytes(n) == Bytes::ZERO => {
                return Ok(());
            }
            Operand::Node(n) if plan.placements[n].device == device => (Some(plan.values[n]), Content::Value(n)),
            Operand::Node(n) => (None, Content::Value(n)),
            Operand::Input(i) => (None, Content::Input(i)),
        };
        let copy = || self.copies.get(&(device, content)).copied();
        let Some(span) = own.or_else(copy) else { return Err(Violation::Elsewhere { node, operand }) };
        self.read.insert((device, content));
        match self.arenas[device].0.holds(span, content) {
            true => Ok(()),
            false => Err(Violation::Lost { node, operand }),
        }
    }

    /// A write of `needed` bytes: of everything that it touches, nothing else stays whole.
    fn write(
        &mut self,
        device: DeviceId,
        span: Span,
        needed: Bytes,
        content: Option<Content>,
        what: &str,
    ) -> Result<(), Violation> {
        if span.len != needed {
            return Err(Violation::Length { what: what.into(), needed: needed.0, found: span.len.0 });
        }
        if needed == Bytes::ZERO {
            return Ok(());
        }
        let buffer = self.case.plan.arenas[device].bytes;
        let end = span.offset.checked_add(span.len);
        let aligned = span.offset.0.is_multiple_of(self.case.machine.devices[device].alignment);
        if end.is_none_or(|end| end > buffer) || !aligned {
            return Err(Violation::Span { what: what.into(), span, buffer });
        }
        let (ranges, last) = &mut self.arenas[device];
        ranges.clear(span);
        content.into_iter().for_each(|content| ranges.put(span, content));
        *last = span.end().max(*last);
        Ok(())
    }

    /// Every copy was read, and no arena is larger than what lies in it.
    fn nothing_useless(&self) -> Result<(), Violation> {
        if let Some(&(device, content)) = self.copies.keys().find(|&key| !self.read.contains(key)) {
            let what = match content {
                Content::Input(input) => input.to_string(),
                Content::Value(value) => value.to_string(),
            };
            return Err(Violation::Useless { what, device });
        }
        for (device, &(_, needed)) in self.arenas.iter_ids() {
            let stated = self.case.plan.arenas[device].bytes;
            if stated != needed {
                return Err(Violation::Arena { device, stated, needed });
            }
        }
        Ok(())
    }
}
