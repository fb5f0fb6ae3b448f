//! What a plan says is allocated is what the device allocates, byte for byte.

use std::sync::Arc;

use loadmaster::device::{BackendKind, Machine, MemoryId};
use loadmaster::exec::{GraphSource, Session, SessionLimits, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Graph};
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{Policy, check, plan};
use loadmaster::synth::{Synth, named, names};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

struct Source {
    model: Model,
    cache: CacheSpec,
}

impl GraphSource for Source {
    fn graph(&self, batch: Batch) -> Result<Graph, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.model.graph(batch, self.cache)?)
    }
}

const HOST: MemoryId = MemoryId(0);

/// Batches (tokens, outputs) that sessions are opened for.
const BATCHES: [(u32, u32); 3] = [(1, 1), (7, 3), (64, 64)];

fn source(gguf: &Gguf) -> Source {
    let cache = CacheSpec { cells: Tokens(80), keys: DType::F16, values: DType::Q8_0 };
    Source { model: Model::from_gguf(gguf).unwrap(), cache }
}

fn stated_is_allocated(what: &str, gguf: &Arc<Gguf>, kind: BackendKind, keep_mapping: bool) {
    for (tokens, outputs) in BATCHES {
        let machine = Machine::single(kind, 2, Bytes(1 << 32));
        let batch = Batch { tokens: Tokens(tokens), outputs: Tokens(outputs) };
        let graph = source(gguf).graph(batch).unwrap();
        let residency = homes(&graph, gguf, HOST, keep_mapping);
        let made = plan(&graph, &residency, &machine, &Policy::default()).unwrap();
        check(&graph, &residency, &machine, &made).unwrap();
        let (limits, stated) = (SessionLimits { tokens: batch.tokens, outputs: batch.outputs }, made.memories[HOST]);
        let homes = |_: &Graph| residency;
        let open = Session::open(Box::new(source(gguf)), gguf, machine, homes, limits, &|_, _| {});
        let mut session = open.unwrap();
        assert_eq!(session.memory(), stated, "{what}: {batch:?}");
        assert_eq!(session.allocated(), stated.total(), "{what}: {batch:?}");
        session.warm_up(1, 1).unwrap();
        session.warm_up(tokens as usize / 2, 1).unwrap();
        session.warm_up(usize::MAX, usize::MAX).unwrap();
        assert_eq!(session.allocated(), stated.total(), "{what}: another bucket needs no more");
    }
}

#[test]
fn a_plan_states_the_bytes_that_a_session_allocates() {
    let tiny: Vec<&str> = names().filter(|n| n.ends_with("-tiny")).collect();
    assert!(tiny.len() >= 5, "{tiny:?}");
    // Repacked; used from the file for want of panels.
    for (shape, dtype) in tiny.iter().flat_map(|&shape| [(shape, DType::Q4K), (shape, DType::Q5_1)]) {
        let bytes = Synth::new(&named(shape).unwrap(), dtype, 1).unwrap().to_bytes().unwrap();
        let gguf = Arc::new(Gguf::from_bytes(shape, bytes).unwrap());
        for kind in [BackendKind::Cpu, BackendKind::Null] {
            for keep_mapping in [false, true] {
                let what = format!("{shape} {dtype} on {}, mapping kept: {keep_mapping}", kind.name());
                stated_is_allocated(&what, &gguf, kind, keep_mapping);
            }
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
