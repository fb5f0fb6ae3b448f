//! Lifetimes → arena offsets, largest first at the lowest offset that is free for as long as it is needed.
//! The arena's size is exactly the end of the last span; nothing is rounded up beyond the device's alignment.

use super::lifetime::{Lifetime, Lifetimes};
use super::reason::Placement;
use super::split::Cut;
use super::transfer::Crossing;
use super::{Arena, InputCopy, MemoryUse, PlanError, Span, Split, SplitId, Transfer, TransferId};
use crate::device::{DeviceId, Machine, MemoryId, scratch};
use crate::graph::{Graph, NodeId};
use crate::index::IndexVec;
use crate::residency::Residency;
use crate::units::Bytes;

/// Splits with their scratch, spans of values, copies and inputs, and the arenas that hold them.
pub(super) struct Packed {
    pub splits: IndexVec<SplitId, Split>,
    pub values: IndexVec<NodeId, Span>,
    pub transfers: IndexVec<TransferId, Transfer>,
    pub inputs: Vec<InputCopy>,
    pub arenas: IndexVec<DeviceId, Arena>,
}

const NOWHERE: Span = Span { offset: Bytes::ZERO, len: Bytes::ZERO };

/// Packs the arena of every device.
pub(super) fn pack(
    graph: &Graph,
    machine: &Machine,
    placements: &IndexVec<NodeId, Placement>,
    cut: Cut,
    lifetimes: &Lifetimes,
    crossings: Vec<Crossing>,
) -> Packed {
    let copy = |c: Crossing| Transfer { value: c.value, after: c.after, to: c.to, span: NOWHERE };
    let input = |&(input, device, _): &(_, _, Lifetime)| InputCopy { input, device, span: NOWHERE };
    let mut packed = Packed {
        splits: cut.splits,
        values: graph.node_ids().map(|_| NOWHERE).collect(),
        transfers: crossings.into_iter().map(copy).collect(),
        inputs: lifetimes.inputs.iter().map(input).collect(),
        arenas: IndexVec::new(),
    };
    for (device, spec) in machine.devices.iter_ids() {
        let mut items = items(graph, machine, placements, lifetimes, &packed, device);
        let bytes = place_items(&mut items, spec.alignment);
        for item in items {
            match item.owner {
                Owner::Value(id) => packed.values[id] = item.span,
                Owner::Copy(id) => packed.transfers[id].span = item.span,
                Owner::Input(i) => packed.inputs[i].span = item.span,
                Owner::Scratch(id) => packed.splits[id].scratch = item.span,
            }
        }
        packed.arenas.push(Arena { bytes });
    }
    packed
}

/// What is allocated in every memory; refuses plans that exceed one.
pub(super) fn within_budget(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    arenas: &IndexVec<DeviceId, Arena>,
    rings: &IndexVec<DeviceId, Bytes>,
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
        uses[machine.devices[id].memory].rings += rings[id];
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
    Copy(TransferId),
    Input(usize),
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

/// Everything that lies in the arena of `device`.
fn items(
    graph: &Graph,
    machine: &Machine,
    placements: &IndexVec<NodeId, Placement>,
    lifetimes: &Lifetimes,
    packed: &Packed,
    device: DeviceId,
) -> Vec<Item> {
    let own = graph.node_ids().filter(|&id| placements[id].device == device);
    let values = own.map(|id| Item::new(Owner::Value(id), lifetimes.values[id], graph.value_bytes(id)));
    let arriving = packed.transfers.iter_ids().zip(&lifetimes.copies).filter(|((_, t), _)| t.to == device);
    let copies = arriving.map(|((id, t), &life)| Item::new(Owner::Copy(id), life, graph.value_bytes(t.value)));
    let read = lifetimes.inputs.iter().enumerate().filter(|(_, input)| input.1 == device);
    let inputs = read.map(|(i, &(input, _, life))| {
        let rows = graph.rows(graph.inputs()[input].rows());
        Item::new(Owner::Input(i), life, Bytes(4 * u64::from(rows.0)))
    });
    let splits = packed.splits.iter_ids().filter(|(_, split)| split.device == device);
    let scratch = splits.map(|(id, split)| {
        let need = scratch(&machine.devices[device], graph, &split.nodes).total();
        Item::new(Owner::Scratch(id), lifetimes.scratch[id], need)
    });
    values.chain(copies).chain(inputs).chain(scratch).collect()
}

/// Gives every item an offset and returns the end of the last one.
fn place_items(items: &mut [Item], alignment: u64) -> Bytes {
    let mut order: Vec<usize> = (0..items.len()).filter(|&i| items[i].span.len > Bytes::ZERO).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(items[i].span.len), items[i].life.first, i));
    let steps = items.iter().map(|item| item.life.last + 1).max().unwrap_or(0);
    let mut placed = Placed { periods: vec![Vec::new(); steps.div_ceil(PERIOD)] };
    let mut end = Bytes::ZERO;
    for i in order {
        let Item { life, span, .. } = &mut items[i];
        span.offset = placed.lowest_gap(*life, span.len, alignment);
        end = end.max(span.end());
        placed.insert(*life, *span);
    }
    end
}

/// Steps of a period.
const PERIOD: usize = 64;

/// What has an offset, listed in every period in which it lives, so that few need be looked at.
struct Placed {
    periods: Vec<Vec<(Lifetime, Span)>>,
}

impl Placed {
    fn insert(&mut self, life: Lifetime, span: Span) {
        self.periods[life.first / PERIOD..=life.last / PERIOD].iter_mut().for_each(|period| period.push((life, span)));
    }

    /// The lowest aligned offset at which `len` bytes meet nothing that lives at the same time.
    fn lowest_gap(&self, life: Lifetime, len: Bytes, alignment: u64) -> Bytes {
        let near = self.periods[life.first / PERIOD..=life.last / PERIOD].iter().flatten();
        let mut met: Vec<Span> = near.filter(|(other, _)| other.overlaps(life)).map(|&(_, span)| span).collect();
        met.sort_unstable();
        let mut offset = Bytes::ZERO;
        for span in met {
            if offset + len <= span.offset {
                break;
            }
            offset = offset.max(span.end().align_up(alignment));
        }
        offset
    }
}
