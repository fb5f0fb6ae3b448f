//! Layers that several devices work on together: their cuts are whole, and their logits those of one device.

use std::sync::Arc;

use loadmaster::device::{DeviceId, Machine, MemoryId};
use loadmaster::exec::{Session, SessionLimits, Setup, Together, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph, LaneId, Op, Weight};
use loadmaster::index::Id;
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{
    Lane, Member, PlanError, Policy, Queue, Reason, Sharded, Violation, check, plan, shard, timeline,
};
use loadmaster::residency::Residency;
use loadmaster::synth::named;
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

use crate::reference::nmse;
use crate::several_devices::{Source, bits, isolated, logits, made, of_one, tiny};

const TOKENS: u32 = 40;

fn members(shares: &[f64]) -> Vec<Member> {
    let member = |(i, &share)| Member { memory: MemoryId::from_index(i), share };
    shares.iter().enumerate().map(member).collect()
}

/// A session over one device a share, and what of the model was not cut.
pub fn session(gguf: &Arc<Gguf>, cache: DType, shares: &[f64]) -> Session {
    let cache = CacheSpec { cells: Tokens(48), keys: cache, values: cache, sliding: None };
    let source = Box::new(Source { model: Model::from_gguf(gguf).unwrap(), cache });
    let whole = |graph: &Graph| homes(graph, gguf, MemoryId(0), false);
    let (together, residency) = Together::new(source, whole, vec![members(shares)]).unwrap();
    let machine = isolated(shares.len() as u32);
    let setup = Setup::new(machine, SessionLimits { tokens: Tokens(TOKENS), outputs: Tokens(TOKENS) });
    Session::open(Box::new(together), gguf, setup, |_, _| residency, &|_, _| {}).unwrap()
}

fn cut(gguf: &Gguf, shares: &[f64], tokens: u32) -> Sharded {
    let cache = CacheSpec { cells: Tokens(48), keys: DType::F16, values: DType::F16, sliding: None };
    let graph = graph_of(&Model::from_gguf(gguf).unwrap(), cache, tokens);
    let residency = homes(&graph, gguf, MemoryId(0), false);
    shard(&graph, &residency, &[members(shares)]).unwrap()
}

fn graph_of(model: &Model, cache: CacheSpec, tokens: u32) -> Graph {
    model.graph(Batch { tokens: Tokens(tokens), outputs: Tokens(1) }, cache).unwrap()
}

/// As for runs of experts: terms of sums are added in another order, which single precision throughout keeps below 1e-10;
/// where activations are rounded to 8 bits or the cache to 11, a changed last bit moves an element by a step of those, and
/// a router near a tie chooses another expert.
#[test]
fn layers_cut_over_devices_give_the_logits_of_one_but_for_rounding() {
    for (i, shape) in tiny().into_iter().enumerate() {
        let quantised = [DType::Q8_0, DType::Q4_0, DType::Q5_1][i % 3];
        let chooses = named(shape).unwrap().experts.is_some();
        let rounded = if chooses { 2e-2 } else { 2e-3 };
        for (dtype, cache, bound) in
            [(DType::F32, DType::F32, 1e-10), (quantised, DType::F16, rounded), (DType::Q4K, DType::F16, rounded)]
        {
            let gguf = made(&named(shape).unwrap(), dtype);
            let expected = of_one(&gguf, cache);
            for shares in [&[1.0, 1.0][..], &[1.0, 3.0], &[2.0, 1.0, 1.0]] {
                let mut session = session(&gguf, cache, shares);
                let several = logits(&mut session, TOKENS).unwrap();
                let stated: Vec<Bytes> = session.memories().iter().map(|m| m.total()).collect();
                assert_eq!(session.allocated().iter().copied().collect::<Vec<_>>(), stated, "{shape} {shares:?}");
                let error = nmse(&several, &expected);
                eprintln!("{shape} {dtype} {shares:?}: nmse {error:.3e}");
                assert!(error <= bound, "{shape} {dtype} {shares:?}: {error:.3e}");
                for batch in [1, 7] {
                    let again = bits(&logits(&mut session, batch).unwrap());
                    assert!(again == bits(&several), "{shape} {dtype} {shares:?}: {batch} tokens at a time");
                }
            }
        }
    }
}

/// Every element of every tensor that was cut is in exactly one part, or the tensor is whole in every lane.
#[test]
fn parts_of_a_tensor_cover_it_once_or_are_copies() {
    for shape in tiny() {
        let gguf = made(&named(shape).unwrap(), DType::Q8_0);
        for shares in [&[1.0, 1.0][..], &[1.0, 3.0], &[2.0, 1.0, 1.0]] {
            let cut = cut(&gguf, shares, 8);
            assert_eq!(cut.residency.lanes.len(), shares.len());
            for tensor in gguf.tensors() {
                let parts: Vec<&Weight> = cut.graph.weights().iter().filter(|w| w.tensor() == tensor.name).collect();
                let parted: Vec<&&Weight> = parts.iter().filter(|w| w.part.is_some()).collect();
                let elements = |w: &Weight| u64::from(w.count) * u64::from(w.rows) * u64::from(w.cols);
                let all: u64 = tensor.shape.dims().iter().product();
                if parted.iter().all(|w| elements(w) == all) {
                    continue;
                }
                assert_eq!(parted.len(), shares.len(), "{shape}: {}", tensor.name);
                assert_eq!(parted.iter().map(|w| elements(w)).sum::<u64>(), all, "{shape}: {}", tensor.name);
                assert!(!overlap(&parted), "{shape}: {}", tensor.name);
            }
        }
    }
}

fn overlap(parts: &[&&Weight]) -> bool {
    let ranges = |w: &Weight| {
        let first = w.part.as_ref().unwrap().first;
        [(first[0], w.count), (first[1], w.rows), (first[2], w.cols)]
    };
    let meet = |a: &Weight, b: &Weight| {
        let mut both = ranges(a).into_iter().zip(ranges(b));
        both.all(|((a, n), (b, m))| a < b + m && b < a + n)
    };
    (0..parts.len()).any(|i| (0..i).any(|j| meet(parts[i], parts[j])))
}

#[test]
fn plans_of_cut_layers_hold_and_every_lane_works_on_its_own_device() {
    for shape in tiny() {
        let gguf = made(&named(shape).unwrap(), DType::Q8_0);
        let machine: Machine = isolated(2);
        for tokens in [1, 40] {
            let Sharded { graph, residency, .. } = cut(&gguf, &[1.0, 1.0], tokens);
            let plan = plan(&graph, &residency, &machine, &Policy::default()).unwrap();
            check(&graph, &residency, &machine, &plan).unwrap();
            for (id, node) in graph.nodes() {
                if let Some(lane) = node.lane {
                    let memory = machine.devices[plan.placements[id].device].memory;
                    assert_eq!(memory, residency.lanes[lane], "{shape}: {}", node.name);
                }
            }
            let back = Graph::from_json(&graph.to_json()).unwrap();
            assert_eq!(back.to_json(), graph.to_json());
        }
    }
}

/// What is sent between two devices that share every layer: what each adds to the stream, twice a layer, both ways.
#[test]
fn two_devices_exchange_two_terms_a_layer_and_no_more() {
    let shape = named("llama-tiny").unwrap();
    let gguf = made(&shape, DType::Q8_0);
    let machine = isolated(2);
    let Sharded { graph, residency, whole } = cut(&gguf, &[1.0, 1.0], 40);
    assert_eq!(whole, []);
    let plan = plan(&graph, &residency, &machine, &Policy::default()).unwrap();
    // The embedding goes to the second device; its last term comes back, and nothing goes there for it.
    assert_eq!(plan.transfers.len(), 1 + 2 * 2 * shape.layers as usize - 1);
    let attends = |(_, node): &(_, &loadmaster::graph::Node)| matches!(node.op, Op::Attention(_));
    assert_eq!(graph.nodes().filter(attends).count(), 2 * shape.layers as usize);
    let held: Vec<Bytes> = plan.memories.iter().map(|m| m.states).collect();
    assert_eq!(held[0], held[1]);
    let layers = |m: usize| plan.memories[MemoryId::from_index(m)].weights.0 as f64;
    assert!(layers(1) < 0.55 * layers(0) + 0.5 * 1e6, "{held:?}");
}

#[test]
fn what_cannot_be_cut_is_said() {
    // Two KV heads serve no three devices, and one block of 256 no two.
    let gguf = made(&named("llama-tiny").unwrap(), DType::Q4K);
    let Sharded { whole, residency, .. } = cut(&gguf, &[1.0, 1.0, 1.0], 8);
    assert!(!whole.is_empty());
    insta::assert_debug_snapshot!("what-is-not-cut", (whole, residency.lanes));
}

#[test]
fn groups_that_make_no_sense_are_refused() {
    let gguf = made(&named("llama-tiny").unwrap(), DType::Q8_0);
    let cache = CacheSpec { cells: Tokens(48), keys: DType::F16, values: DType::F16, sliding: None };
    let graph = graph_of(&Model::from_gguf(&gguf).unwrap(), cache, 8);
    let residency: Residency = homes(&graph, &gguf, MemoryId(0), false);
    let refused = |groups: &[Vec<Member>]| shard(&graph, &residency, groups).unwrap_err().to_string();
    let twice = vec![Member { memory: MemoryId(0), share: 1.0 }, Member { memory: MemoryId(0), share: 1.0 }];
    insta::assert_snapshot!(refused(&[twice]), @"the layers cannot be cut over groups of devices: m0 works on layers in two places");
    for share in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let odd = vec![Member { memory: MemoryId(0), share: 1.0 }, Member { memory: MemoryId(1), share }];
        assert!(refused(&[odd]).contains("needed one above 0"), "{share}");
    }
}

/// By the timeline of a plan, the lanes of a layer work at the same time: neither waits for more than the other's terms.
#[test]
fn lanes_work_at_the_same_time() {
    let gguf = made(&named("llama-tiny").unwrap(), DType::Q8_0);
    let machine = Machine::shipped("ten-gpu").unwrap();
    let Sharded { graph, residency, .. } = on_cards(&gguf);
    let plan = plan(&graph, &residency, &machine, &Policy::default()).unwrap();
    check(&graph, &residency, &machine, &plan).unwrap();
    let events = timeline(&graph, &machine, &Policy::default(), &plan, 1).events;
    let splits = |device: u32| {
        let of_device =
            events.iter().filter(move |e| e.lane == Lane { device: DeviceId(device), queue: Queue::Compute });
        of_device.map(|e| (e.start, e.end)).collect::<Vec<_>>()
    };
    let (first, second) = (splits(1), splits(2));
    let met = first.iter().filter(|a| second.iter().any(|b| a.0 < b.1 && b.0 < a.1)).count();
    // The second lane begins late, as the embedding comes from the first; the first ends with the head.
    assert_eq!((met, first.len(), second.len()), (3, 5, 4), "{first:?} {second:?}");
}

/// Cut over two of the ten cards.
fn on_cards(gguf: &Gguf) -> Sharded {
    let cache = CacheSpec { cells: Tokens(48), keys: DType::F16, values: DType::F16, sliding: None };
    let graph = graph_of(&Model::from_gguf(gguf).unwrap(), cache, 1);
    let member = |i| Member { memory: MemoryId(i), share: 1.0 };
    shard(&graph, &homes(&graph, gguf, MemoryId(1), false), &[vec![member(1), member(2)]]).unwrap()
}

#[test]
fn a_lane_on_another_device_is_no_reason() {
    let gguf = made(&named("llama-tiny").unwrap(), DType::Q8_0);
    let machine = Machine::shipped("ten-gpu").unwrap();
    let Sharded { graph, residency, .. } = on_cards(&gguf);
    let right = plan(&graph, &residency, &machine, &Policy::default()).unwrap();
    let of_lane = |reason| matches!(reason, Reason::Lane(_));
    let node = right.placements.iter_ids().find(|(_, p)| of_lane(p.reason)).unwrap().0;
    for lane in [LaneId(1), LaneId(7)] {
        let mut wrong = right.clone();
        wrong.placements[node].reason = Reason::Lane(lane);
        let found = check(&graph, &residency, &machine, &wrong).unwrap_err();
        assert!(matches!(found, Violation::Reason { .. } | Violation::Unknown { .. }), "{found}");
    }
    let mut lost = residency.clone();
    lost.lanes = [MemoryId(1)].into_iter().collect();
    let refused = plan(&graph, &lost, &machine, &Policy::default()).unwrap_err();
    assert!(matches!(refused, PlanError::Homes { what: "lanes", needed: 2, found: 1 }), "{refused}");
}
