//! Where weights live, in one memory or dealt by layers over several, in which layout, and whether a copy is needed.
//! Matrices that are multiplied with are repacked for the kernels unless the file mapping is to be kept; what stays in
//! the file's layout is used where it is mapped, but for vectors and what the file does not align. What goes to a device
//! with memory of its own is copied as it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::device::{BackendKind, Machine, MemoryId};
use crate::gguf::Gguf;
use crate::graph::ops::{Moe, Rows};
use crate::graph::{Graph, Node, Op, Weight, WeightId};
use crate::index::Id;
use crate::residency::{Home, Layout, Residency, Storage, weight_bytes};
use crate::tensor::DType;
use crate::tensor::panel::panel_supported;

/// Homes for `graph`, whose weights are in `gguf`, in one memory; with `keep_mapping` every weight stays in the file's
/// layout.
pub fn homes(graph: &Graph, gguf: &Gguf, memory: MemoryId, keep_mapping: bool) -> Residency {
    let mut multiplied = vec![false; graph.weights().len()];
    for (_, node) in graph.nodes() {
        if let Some(WeightId(id)) = multiplied_weight(&node.op) {
            multiplied[id as usize] = true;
        }
    }
    Residency::in_one(graph, memory, |WeightId(id), weight| {
        let repack = !keep_mapping && multiplied[id as usize] && panel_supported(weight.dtype);
        if repack { (Layout::Panel16, Storage::Allocated) } else { (Layout::Gguf, storage(weight, gguf.alignment())) }
    })
}

/// Homes for `graph` over all memories of `machine`, device by device: the embedding first, then whole layers with their
/// states and vectors, in proportion to the memories' budgets, and what follows them last. A vector that several devices
/// read has a copy on each. Whether it all fits is for the plan to say.
pub fn dealt(graph: &Graph, gguf: &Gguf, machine: &Machine, keep_mapping: bool) -> Residency {
    dealt_as(graph, gguf, machine, keep_mapping, None)
}

/// As [`dealt`], with so many layers, from the last, on accelerators and all others on processors, where there are both:
/// the embedding then is with the processors, what follows the layers with the accelerators if they have more than all.
pub fn dealt_as(
    graph: &Graph,
    gguf: &Gguf,
    machine: &Machine,
    keep_mapping: bool,
    gpu_layers: Option<u32>,
) -> Residency {
    let mut residency = homes(graph, gguf, MemoryId::from_index(0), keep_mapping);
    let deal = Deal::new(graph, &residency, machine, gpu_layers);
    let mut readers: Vec<BTreeSet<Seat>> = vec![BTreeSet::new(); graph.weights().len()];
    for (_, node) in graph.nodes() {
        let seat = Seat::of(node);
        node.op.weight_operands().into_iter().for_each(|weight| _ = readers[weight.index()].insert(seat));
    }
    for (id, weight) in graph.weights().iter_ids() {
        let whole = weight.rows > 1 || weight.count > 1;
        let seats = readers[id.index()].iter().take(if whole { 1 } else { usize::MAX });
        let mut memories: Vec<MemoryId> = seats.map(|&seat| deal.memory(seat)).collect();
        memories.dedup();
        let one = residency.weights[id].clone();
        let copies = memories.iter().flat_map(|&memory| {
            let plain = reads_blocks(machine, memory);
            one.iter().map(move |home| match plain {
                true => Home { memory, layout: Layout::Gguf, storage: Storage::Allocated, ..home.clone() },
                false => Home { memory, ..home.clone() },
            })
        });
        residency.weights[id] = copies.collect();
    }
    for (id, state) in graph.states().iter_ids() {
        residency.states[id] = deal.memory(Seat::Layer(state.layer));
    }
    residency
}

/// Homes that were found without the file, each in the layout that the device of its memory reads, as [`homes`] has it for
/// processors.
pub fn laid_out(
    graph: &Graph,
    gguf: &Gguf,
    machine: &Machine,
    keep_mapping: bool,
    mut residency: Residency,
) -> Residency {
    let host = homes(graph, gguf, MemoryId::from_index(0), keep_mapping);
    for id in residency.weights.ids() {
        let Home { layout, storage, .. } = host.weights[id][0];
        for home in &mut residency.weights[id] {
            (home.layout, home.storage) = match reads_blocks(machine, home.memory) {
                true => (Layout::Gguf, Storage::Allocated),
                false => (layout, storage),
            };
        }
    }
    residency
}

/// Whether the device of a memory takes weights as files have them, into memory of its own: all but processors do.
fn reads_blocks(machine: &Machine, memory: MemoryId) -> bool {
    machine.device_of(memory).is_some_and(|device| match machine.devices[device].kind {
        BackendKind::Null | BackendKind::Cpu => false,
        BackendKind::Cuda | BackendKind::Vulkan => true,
    })
}

/// Where in the model something is read, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seat {
    /// The embedding.
    First,
    /// A layer.
    Layer(u32),
    /// All behind the layers.
    Last,
}

impl Seat {
    fn of(node: &Node) -> Seat {
        match (node.layer, &node.op) {
            (Some(layer), _) => Seat::Layer(layer),
            (None, Op::Rows(Rows::Embed(_))) => Seat::First,
            (None, Op::Rows(Rows::Select(_)) | Op::Norm(_) | Op::MatMul(_) | Op::HeadMatMul(_) | Op::Rope(_)) => {
                Seat::Last
            }
            (None, Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) | Op::Moe(_)) => Seat::Last,
        }
    }
}

/// Which memory has which seat.
struct Deal {
    first: MemoryId,
    last: MemoryId,
    layers: BTreeMap<u32, MemoryId>,
}

impl Deal {
    fn new(graph: &Graph, residency: &Residency, machine: &Machine, gpu_layers: Option<u32>) -> Deal {
        let sizes = sizes(graph, residency);
        let devices = |accelerators: bool| machine.devices.iter().filter(move |d| d.is_accelerator() == accelerators);
        let memories = |accelerators| -> Vec<MemoryId> { devices(accelerators).map(|device| device.memory).collect() };
        let (hosts, cards) = (memories(false), memories(true));
        match gpu_layers.filter(|_| !hosts.is_empty() && !cards.is_empty()) {
            None => {
                let all: Vec<MemoryId> = machine.devices.iter().map(|device| device.memory).collect();
                Deal::over(&sizes, machine, &all)
            }
            Some(asked) => {
                let layers = sizes.keys().filter(|seat| matches!(seat, Seat::Layer(_))).count() as u32;
                let first = layers.saturating_sub(asked);
                let on_card = |seat: &Seat| match seat {
                    Seat::First => false,
                    Seat::Layer(layer) => *layer >= first,
                    Seat::Last => asked > layers,
                };
                let (above, below) = sizes.into_iter().partition(|(seat, _)| on_card(seat));
                let (card, host) = (Deal::over(&above, machine, &cards), Deal::over(&below, machine, &hosts));
                let last = if on_card(&Seat::Last) { card.last } else { host.last };
                Deal { first: host.first, last, layers: host.layers.into_iter().chain(card.layers).collect() }
            }
        }
    }

    /// Seats over memories, in proportion to their budgets.
    fn over(sizes: &BTreeMap<Seat, f64>, machine: &Machine, memories: &[MemoryId]) -> Deal {
        let host = MemoryId::from_index(0);
        let (first, last) = (memories.first().copied().unwrap_or(host), memories.last().copied().unwrap_or(host));
        let all = sizes.values().sum::<f64>().max(1.0);
        let budget = |memory: MemoryId| machine.budget(memory).0 as f64;
        let budgets: f64 = memories.iter().map(|&memory| budget(memory)).sum();
        let (mut layers, mut before) = (BTreeMap::new(), 0.0);
        for (&seat, size) in sizes {
            let middle = (before + size / 2.0) / all * budgets;
            let mut end = 0.0;
            let reaches = |memory: &&MemoryId| {
                end += budget(**memory);
                middle < end
            };
            if let Seat::Layer(layer) = seat {
                layers.insert(layer, memories.iter().find(reaches).copied().unwrap_or(last));
            }
            before += size;
        }
        Deal { first, last, layers }
    }

    fn memory(&self, seat: Seat) -> MemoryId {
        match seat {
            Seat::First => self.first,
            Seat::Layer(layer) => self.layers.get(&layer).copied().unwrap_or(self.last),
            Seat::Last => self.last,
        }
    }
}

/// Bytes of weights and states that each seat is the first to read.
fn sizes(graph: &Graph, residency: &Residency) -> BTreeMap<Seat, f64> {
    let mut first: BTreeMap<WeightId, Seat> = BTreeMap::new();
    for (_, node) in graph.nodes() {
        let seat = Seat::of(node);
        for weight in node.op.weight_operands() {
            first.entry(weight).and_modify(|held| *held = seat.min(*held)).or_insert(seat);
        }
    }
    let mut sizes: BTreeMap<Seat, f64> = BTreeMap::new();
    for (id, seat) in first {
        let layout = residency.weights[id].first().map_or(Layout::Gguf, |home| home.layout);
        *sizes.entry(seat).or_default() += weight_bytes(&graph.weights()[id], layout).0 as f64;
    }
    for state in graph.states().iter() {
        *sizes.entry(Seat::Layer(state.layer)).or_default() += state.bytes().0 as f64;
    }
    sizes
}

/// A matrix in the file's layout is used where it is; vectors are copied, and all floats of a file that does not align
/// them.
fn storage(weight: &Weight, alignment: u64) -> Storage {
    let in_place = weight.rows > 1 && (weight.dtype != DType::F32 || alignment >= 4);
    if in_place { Storage::Mapped } else { Storage::Allocated }
}

fn multiplied_weight(op: &Op) -> Option<WeightId> {
    match op {
        Op::MatMul(op) => Some(op.weight),
        Op::HeadMatMul(op) => Some(op.weight),
        Op::Moe(Moe::Experts(op)) => Some(op.weight),
        Op::Moe(Moe::Route(_) | Moe::Combine(_)) => None,
        Op::Rows(_) | Op::Norm(_) | Op::Rope(_) | Op::Cache(_) | Op::Attention(_) | Op::Elementwise(_) => None,
    }
}
