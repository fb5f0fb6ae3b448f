//! Lifetimes → arena offsets, largest first at the lowest offset that is free for as long as it is needed.
//! The arena's size is exactly the end of the last span; nothing is rounded up beyond the device's alignment.

use super::lifetime::{Lifetime, Lifetimes};
use super::{Arena, MemoryUse, Placement, PlanError, Span, Split, SplitId};
use crate::device::{DeviceId, Machine, MemoryId, scratch};
use crate::graph::{Graph, InputId, NodeId, Operand};
use crate::index::{Id, IndexVec};
use crate::residency::Residency;
use crate::units::Bytes;

/// Splits with their scratch, spans of values and inputs, and the arenas that hold them.
pub(super) struct Packed {
    pub splits: IndexVec<SplitId, Split>,
    pub values: IndexVec<NodeId, Span>,
    pub inputs: IndexVec<InputId, Span>,
    pub arenas: IndexVec<DeviceId, Arena>,
}

/// Packs the arena of every device.
pub(super) fn pack(
    graph: &Graph,
    machine: &Machine,
    placements: &IndexVec<NodeId, Placement>,
    mut splits: IndexVec<SplitId, Split>,
    lifetimes: &Lifetimes,
) -> Packed {
    let nowhere = Span { offset: Bytes::ZERO, len: Bytes::ZERO };
    let mut values: IndexVec<NodeId, Span> = graph.node_ids().map(|_| nowhere).collect();
    let mut inputs: IndexVec<InputId, Span> = graph.inputs().iter().map(|_| nowhere).collect();
    let mut arenas = IndexVec::new();
    for (device, spec) in machine.devices.iter_ids() {
        let mut items = value_items(graph, placements, lifetimes, device);
        items.extend(input_items(graph, placements, lifetimes, device));
        items.extend(scratch_items(graph, machine, &splits, lifetimes, device));
        let bytes = place_items(&mut items, spec.alignment);
        for item in items {
            match item.owner {
                Owner::Value(id) => values[id] = item.span,
                Owner::Input(id) => inputs[id] = item.span,
                Owner::Scratch(id) => splits[id].scratch = item.span,
            }
        }
        arenas.push(Arena { bytes });
    }
    Packed { splits, values, inputs, arenas }
}

/// What is allocated in every memory; refuses plans that exceed one.
pub(super) fn within_budget(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    arenas: &IndexVec<DeviceId, Arena>,
) -> Result<IndexVec<MemoryId, MemoryUse>, PlanError> {
    let mut uses: IndexVec<MemoryId, MemoryUse> = machine.memories.iter().map(|_| MemoryUse::default()).collect();
    for (id, homes) in residency.weights.iter_ids() {
        let weight = &graph.weights()[id];
        for home in homes {
            known(machine, home.memory, &weight.name)?;
            uses[home.memory].weights += home.allocated(weight);
        }
    }
    for (id, &memory) in residency.states.iter_ids() {
        let state = &graph.states()[id];
        known(machine, memory, &state.name)?;
        uses[memory].states += state.bytes();
    }
    for (id, arena) in arenas.iter_ids() {
        uses[machine.devices[id].memory].arenas += arena.bytes;
    }
    for (id, spec) in machine.memories.iter_ids() {
        let (need, budget) = (uses[id].total(), machine.budget(id));
        if need > budget {
            return Err(PlanError::OverBudget { memory: spec.name.clone(), need, budget });
        }
    }
    Ok(uses)
}

fn known(machine: &Machine, memory: MemoryId, what: &str) -> Result<(), PlanError> {
    match machine.memories.get(memory) {
        Some(_) => Ok(()),
        None => Err(PlanError::NoDevice { what: what.into(), memory: memory.to_string() }),
    }
}

#[derive(Clone, Copy)]
enum Owner {
    Value(NodeId),
    Input(InputId),
    Scratch(SplitId),
}

struct Item {
    owner: Owner,
    life: Lifetime,
    span: Span,
}

impl Item {
    fn new(owner: Owner, life: Lifetime, len: Bytes) -> Item {
        Item { owner, life, span: Span { offset: Bytes::ZERO, len } }
    }
}

fn value_items(
    graph: &Graph,
    placements: &IndexVec<NodeId, Placement>,
    lifetimes: &Lifetimes,
    device: DeviceId,
) -> Vec<Item> {
    let here = graph.node_ids().filter(|&id| placements[id].device == device);
    here.map(|id| Item::new(Owner::Value(id), lifetimes.values[id], graph.value_bytes(id))).collect()
}

/// An input lies where its first reader runs.
fn input_items(
    graph: &Graph,
    placements: &IndexVec<NodeId, Placement>,
    lifetimes: &Lifetimes,
    device: DeviceId,
) -> Vec<Item> {
    let reader = |input: InputId| {
        graph.nodes().find(|(_, node)| node.op.operands().contains(&Operand::Input(input))).map(|(id, _)| id)
    };
    let here = graph
        .inputs()
        .iter_ids()
        .filter(|&(id, _)| reader(id).map_or(device.index() == 0, |node| placements[node].device == device));
    here.map(|(id, input)| {
        let bytes = Bytes(4 * u64::from(graph.rows(input.rows()).0));
        Item::new(Owner::Input(id), lifetimes.inputs[id], bytes)
    })
    .collect()
}

fn scratch_items(
    graph: &Graph,
    machine: &Machine,
    splits: &IndexVec<SplitId, Split>,
    lifetimes: &Lifetimes,
    device: DeviceId,
) -> Vec<Item> {
    let spec = &machine.devices[device];
    let here = splits.iter_ids().filter(|(_, split)| split.device == device);
    here.map(|(id, split)| {
        let need = scratch(spec, graph, &split.nodes).total();
        Item::new(Owner::Scratch(id), lifetimes.scratch[id], need)
    })
    .collect()
}

/// Gives every item an offset and returns the end of the last one.
fn place_items(items: &mut [Item], alignment: u64) -> Bytes {
    let mut order: Vec<usize> = (0..items.len()).filter(|&i| items[i].span.len > Bytes::ZERO).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(items[i].span.len), items[i].life.first, i));
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut end = Bytes::ZERO;
    for i in order {
        let offset = lowest_gap(items, &placed, i, alignment);
        items[i].span.offset = offset;
        end = end.max(items[i].span.end());
        let at = placed.partition_point(|&p| items[p].span.offset <= offset);
        placed.insert(at, i);
    }
    end
}

/// The lowest aligned offset at which item `i` meets no placed item that lives at the same time.
fn lowest_gap(items: &[Item], placed: &[usize], i: usize, alignment: u64) -> Bytes {
    let mut offset = Bytes::ZERO;
    for &p in placed.iter().filter(|&&p| items[p].life.overlaps(items[i].life)) {
        if offset + items[i].span.len <= items[p].span.offset {
            break;
        }
        offset = offset.max(items[p].span.end().align_up(alignment));
    }
    offset
}
