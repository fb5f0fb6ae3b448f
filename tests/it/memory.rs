//! What a plan says is allocated is what the device allocates, byte for byte.

use std::sync::Arc;

use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use loadmaster::exec::{GraphSource, Session, SessionLimits, Setup, dealt, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph};
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{Offload, Policy, check, partition, plan};
use loadmaster::residency::Residency;
use loadmaster::synth::{Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

use crate::several_devices::{self, Source};

const HOST: MemoryId = MemoryId(0);

/// Batches (tokens, outputs) that sessions are opened for.
const BATCHES: [(u32, u32); 3] = [(1, 1), (7, 3), (64, 64)];

fn source(gguf: &Gguf) -> Source {
    let cache = CacheSpec { cells: Tokens(80), keys: DType::F16, values: DType::Q8_0, sliding: None };
    Source { model: Model::from_gguf(gguf).unwrap(), cache }
}

/// A machine, how it is planned for, and where everything lives.
struct Case<'a> {
    what: &'a str,
    machine: Machine,
    policy: Policy,
    homes: &'a dyn Fn(&Graph, &Machine) -> Residency,
}

fn stated_is_allocated(gguf: &Arc<Gguf>, case: &Case<'_>) {
    let Case { what, machine, policy, homes } = case;
    for (tokens, outputs) in BATCHES {
        let batch = Batch { tokens: Tokens(tokens), outputs: Tokens(outputs) };
        let whole = source(gguf).graph(batch).unwrap();
        let residency = homes(&whole, machine);
        let graph = partition(&whole, &residency).unwrap();
        let made = plan(&graph, &residency, machine, policy).unwrap();
        check(&graph, &residency, machine, &made).unwrap();
        let limits = SessionLimits { tokens: batch.tokens, outputs: batch.outputs };
        let setup = Setup { policy: policy.clone(), ..Setup::new(machine.clone(), limits) };
        let mut session = Session::open(Box::new(source(gguf)), gguf, setup, homes, &|_, _| {}).unwrap();
        let allocated = |session: &Session| {
            let bytes = session.allocated();
            let of = |(id, spec): (_, &DeviceSpec)| (spec.memory, bytes[id]);
            machine.devices.iter_ids().map(of).collect::<Vec<_>>()
        };
        let stated: Vec<_> = made.memories.iter_ids().map(|(memory, stated)| (memory, stated.total())).collect();
        assert_eq!(session.memories(), &made.memories, "{what}: {batch:?}");
        assert_eq!(session.memory().total(), made.memories.iter().map(|m| m.total()).sum(), "{what}: {batch:?}");
        assert_eq!(allocated(&session), stated, "{what}: {batch:?}");
        session.warm_up(1, 1).unwrap();
        session.warm_up(tokens as usize / 2, 1).unwrap();
        session.warm_up(usize::MAX, usize::MAX).unwrap();
        assert_eq!(allocated(&session), stated, "{what}: another bucket needs no more");
    }
}

#[test]
fn a_plan_states_the_bytes_that_a_session_allocates() {
    // Repacked; used from the file for want of panels.
    for (shape, dtype) in
        several_devices::tiny().into_iter().flat_map(|shape| [(shape, DType::Q4K), (shape, DType::Q5_1)])
    {
        let gguf = several_devices::made(&named(shape).unwrap(), dtype);
        for kind in [BackendKind::Cpu, BackendKind::Null] {
            for keep_mapping in [false, true] {
                let what = format!("{shape} {dtype} on {}, mapping kept: {keep_mapping}", kind.name());
                let machine = Machine::single(kind, 2, Bytes(1 << 32));
                let homes: &dyn Fn(&Graph, &Machine) -> Residency = &|graph, _| homes(graph, &gguf, HOST, keep_mapping);
                stated_is_allocated(&gguf, &Case { what: &what, machine, policy: Policy::default(), homes });
            }
        }
    }
}

#[test]
fn a_plan_over_several_devices_states_the_bytes_that_each_allocates() {
    for (i, shape) in several_devices::tiny().into_iter().enumerate() {
        let gguf = several_devices::made(&named(shape).unwrap(), [DType::Q4K, DType::Q5_1][i % 2]);
        for kind in [BackendKind::Cpu, BackendKind::Null] {
            let all = |count| Machine::isolated(kind, count, 2, Bytes(1 << 32));
            let what = format!("{shape} on {}", kind.name());
            let mut streamed = all(2);
            streamed.devices[DeviceId(1)].accelerator = Some(true);
            let cases = [
                Case {
                    what: &format!("{what}, dealt"),
                    machine: all(3),
                    policy: Policy::default(),
                    homes: &|graph, machine| dealt(graph, &gguf, machine, false),
                },
                Case {
                    what: &format!("{what}, experts apart"),
                    machine: all(3),
                    policy: Policy::default(),
                    homes: &|graph, _| {
                        several_devices::experts_apart(graph, &gguf, &[1, 3], &[MemoryId(2), MemoryId(0), MemoryId(1)])
                    },
                },
                Case {
                    what: &format!("{what}, streamed"),
                    machine: streamed,
                    policy: several_devices::streaming(Offload::AtLeast(Tokens(4)), 100 << 10),
                    homes: &|graph, _| several_devices::cache_away(graph, &gguf, false),
                },
            ];
            cases.iter().for_each(|case| stated_is_allocated(&gguf, case));
        }
    }
}

/// What is stated is also what it should be: summed here from the file alone.
#[test]
fn weights_used_from_the_file_take_no_memory_and_others_their_size_in_steps_of_64() {
    let bytes = Synth::new(&named("qwen2-tiny").unwrap(), DType::Q5_1, 1).unwrap().to_bytes().unwrap();
    let gguf = Gguf::from_bytes("made", bytes).unwrap();
    let graph = source(&gguf).graph(Batch { tokens: Tokens(4), outputs: Tokens(1) }).unwrap();
    let machine = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 32));
    let stated = plan(&graph, &homes(&graph, &gguf, HOST, false), &machine, &Policy::default()).unwrap().memories[HOST];
    let vectors = gguf.tensors().iter().filter(|t| t.shape.rows() == 1);
    assert_eq!(stated.weights.0, vectors.map(|t| t.bytes.0.div_ceil(64) * 64).sum::<u64>());
    // Two layers of 80 cells of two heads of 64 elements: keys of two bytes, values of 34 bytes a 32.
    assert_eq!(stated.states.0, 2 * 80 * 2 * (64 * 2 + 64 / 32 * 34));
}
