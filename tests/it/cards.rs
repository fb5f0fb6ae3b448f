//! Whole models on every kind of card that is there: alone, beside the processor, two of them, with weights streamed, with
//! little memory, and with layers cut. A kind that is not there is reported as skipped; `REQUIRE_BACKENDS` makes that a
//! failure.

use std::sync::Arc;

use loadmaster::backend::cuda::{self, CudaBackend};
use loadmaster::backend::{self, Backend, BackendError};
use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use loadmaster::engine::{Engine, EngineOptions, Opener};
use loadmaster::exec::{Session, Setup, dealt};
use loadmaster::gguf::Gguf;
use loadmaster::graph::Graph;
use loadmaster::plan::Offload;
use loadmaster::synth::{Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

use crate::f64_model::F64Model;
use crate::reference::{self, nmse, options};
use crate::several_devices::{cache_away, deeper, logits, made, of_one, open, setup, streaming, tiny};
use crate::vulkan;

/// A kind of card that is there.
pub struct Card {
    /// Its kind.
    pub kind: BackendKind,
    /// Opens its devices, and those of other kinds.
    pub open: Opener,
}

/// Whether the environment takes no excuse for a kind that is not there.
pub fn required(kind: BackendKind) -> bool {
    std::env::var("REQUIRE_BACKENDS").is_ok_and(|all| all.split(',').any(|one| one == kind.name()))
}

/// CUDA, or `None` with a word about it.
pub fn cuda_card() -> Option<Card> {
    match cuda::cards() {
        Ok(cards) if !cards.is_empty() => {
            let count = cards.len() as u32;
            Some(Card { kind: BackendKind::Cuda, open: Arc::new(move |spec| open_cuda(spec, count)) })
        }
        found => {
            let why = found.err().unwrap_or_else(|| "the driver has no card".to_owned());
            assert!(!required(BackendKind::Cuda), "cuda is required: {why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// A device, several of which share a card where there are not as many.
fn open_cuda(spec: &DeviceSpec, cards: u32) -> Result<Box<dyn Backend>, BackendError> {
    match spec.kind {
        BackendKind::Cuda => {
            let number: u32 = spec.name.rsplit_once(':').unwrap().1.parse().unwrap();
            Ok(Box::new(CudaBackend::on(spec.clone(), number % cards)?))
        }
        BackendKind::Null | BackendKind::Cpu | BackendKind::Vulkan => backend::open(spec),
    }
}

/// Every kind that is there.
pub fn present() -> Vec<Card> {
    let vulkan = vulkan::device();
    let vulkan = vulkan.map(|gpu| Card { kind: BackendKind::Vulkan, open: Arc::new(vulkan::open_over(&gpu)) });
    vulkan.into_iter().chain(cuda_card()).collect()
}

impl Card {
    /// A machine of one such device, with plenty of memory.
    pub fn machine(&self) -> Machine {
        Machine::isolated(self.kind, 1, 2, Bytes(1 << 40))
    }

    /// A machine of the processor and such devices, all over memories of their own.
    pub fn beside(&self, cards: usize) -> Machine {
        let processor = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 32)).devices[DeviceId(0)].clone();
        let cards = Machine::isolated(self.kind, cards as u32, 2, Bytes(1 << 32)).devices;
        let all = [processor].into_iter().chain(cards.iter().cloned());
        Machine::linked(all.map(|spec| (spec, Bytes(1 << 32))))
    }

    /// A backend of the first.
    pub fn backend(&self) -> Box<dyn Backend> {
        (self.open)(&self.machine().devices[DeviceId(0)]).unwrap()
    }

    /// How far logits may be from those of double precision, where all but the cache is exact: kernels of Vulkan round no
    /// activation but to bytes, those of CUDA also halves that tensor cores multiply.
    fn exact(&self) -> f64 {
        1e-5
    }
}

fn routed(shape: &str) -> bool {
    ["moe", "mixtral", "deepseek"].iter().any(|name| shape.contains(name))
}

/// How far logits may be from the CPU's, whose products with blocks round activations to 8 bits. Behind a router that is
/// noise enough to choose other experts: then nothing is held against the CPU's but its own distance from what is exact.
fn bound(shape: &str, dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => 1e-5,
        _ if routed(shape) => f64::INFINITY,
        _ => 2e-3,
    }
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// The same best token in every row, but where the two best are closer than four times what rows differ by.
fn greedy(what: &str, found: &[f32], expected: &[f32], width: usize) {
    for (i, (found, expected)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
        let (a, b) = (best(found), best(expected));
        let apart = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / width as f64;
        let gap = f64::from(expected[b] - expected[a]);
        assert!(a == b || gap < 4.0 * apart.sqrt(), "{what}: row {i} has {a}, expected {b}, ahead by {gap}");
    }
}

/// What a session is compared with, and how far it may be from that.
struct Expected {
    cpu: Vec<f32>,
    bound: f64,
    oracle: Vec<f32>,
}

impl Expected {
    fn of(gguf: &Arc<Gguf>, (shape, dtype): (&str, DType), cache: DType) -> Expected {
        let ids: Vec<u32> = (0..40).map(|i| i * 37 % 500).collect();
        let oracle = F64Model::new(gguf).logits(&ids).iter().map(|&x| x as f32).collect();
        Expected { cpu: of_one(gguf, cache), bound: bound(shape, dtype), oracle }
    }
}

fn compare(card: &Card, what: &str, session: &mut Session, expected: &Expected, batches: &[u32]) {
    let what = format!("{what} with {}", card.kind.name());
    let planned: Vec<Bytes> = session.memories().iter().map(|memory| memory.total()).collect();
    assert!(session.allocated().iter().eq(planned.iter()), "{what}: other bytes than planned");
    let width = session.logits_width();
    for &batch in batches {
        let found = logits(session, batch).unwrap();
        let (error, exact) = (nmse(&found, &expected.cpu), nmse(&found, &expected.oracle));
        let theirs = nmse(&expected.cpu, &expected.oracle);
        eprintln!("{what}: {batch:2} at a time: nmse {error:.1e} from the CPU, {exact:.1e} from f64, CPU {theirs:.1e}");
        assert!(error <= expected.bound && exact <= card.exact().max(2.0 * theirs), "{what}: {error:e}, {exact:e}");
        if expected.bound.is_finite() {
            greedy(&what, &found, &expected.oracle, width);
        }
    }
}

#[test]
fn whole_models_give_the_logits_of_the_cpu() {
    let cards = present();
    let kinds = [(DType::Q4K, DType::F16), (DType::F16, DType::F32), (DType::Q6K, DType::F16)];
    let all = tiny().into_iter().enumerate().map(|(i, shape)| (i, shape, kinds[i % 3]));
    // Behind routers, weights of halves too, which are close enough to choose the same experts.
    let halves = tiny().into_iter().filter(|shape| routed(shape)).map(|shape| (2, shape, (DType::F16, DType::F16)));
    for (i, shape, (dtype, cache)) in all.chain(halves) {
        let gguf = made(&deeper(shape), dtype);
        let expected = Expected::of(&gguf, (shape, dtype), cache);
        for card in &cards {
            let places = [("one", card.machine()), ("cpu and one", card.beside(1)), ("cpu and two", card.beside(2))];
            let (most, batches) = if i < 2 { (3, [40, 1]) } else { (1, [40, 7]) };
            for (place, machine) in places.into_iter().take(most) {
                let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
                let setup = Setup { open: &*card.open, ..setup(machine) };
                let mut session = open(&gguf, cache, setup, deal).unwrap();
                compare(card, &format!("{shape} {dtype} on {place}"), &mut session, &expected, &batches);
            }
        }
    }
}

/// Weights that stay with the processor, in the file's layout or in panels, are brought to the card as it computes.
#[test]
fn streamed_weights_give_the_logits_of_the_cpu() {
    let cases = [
        ("llama-tiny", DType::Q5_0, true),
        ("qwen3moe-tiny", DType::F16, true),
        ("llama-tiny", DType::Q8_0, false),
        ("qwen3moe-tiny", DType::Q6K, false),
    ];
    let cards = present();
    for (shape, dtype, mapped) in cases {
        let gguf = made(&deeper(shape), dtype);
        let expected = Expected::of(&gguf, (shape, dtype), DType::F16);
        for card in &cards {
            let policy = streaming(Offload::AtLeast(Tokens(1)), 1 << 20);
            let setup = Setup { open: &*card.open, policy, ..setup(card.beside(1)) };
            let away = |graph: &Graph, _: &Machine| cache_away(graph, &gguf, mapped);
            let mut session = open(&gguf, DType::F16, setup, away).unwrap();
            assert!(session.memories()[MemoryId(1)].rings > Bytes::ZERO);
            compare(card, &format!("{shape} {dtype} streamed"), &mut session, &expected, &[40, 7]);
        }
    }
}

/// A card with room for a quarter of the weights: where they lie is fitted, and what the processor keeps is streamed, or
/// computed where it is. Budgets are kept to the byte.
#[test]
fn a_small_card_gives_the_logits_of_the_cpu() {
    let ids: Vec<u32> = (0..60).map(|i| i * 37 % 500).collect();
    let cards = present();
    // Beside the weights it has room for a ring: of three stacks of experts, or of matrices.
    for (shape, dtype, ring, bound) in [
        ("llama-tiny", DType::F16, 3 << 20, 1e-5),
        ("qwen3moe-tiny", DType::F16, 9 << 20, 1e-5),
        ("qwen3-tiny", DType::Q8_0, 3 << 20, 2e-3),
    ] {
        let bytes = Synth::new(&deeper(shape), dtype, 5).unwrap().to_bytes().unwrap();
        let gguf = || Gguf::from_bytes(shape, bytes.clone()).unwrap();
        let options = EngineOptions { step: Tokens(32), ..options() };
        let mut one = Engine::open(gguf(), options, &|_, _| {}).unwrap();
        let expected = reference::logits(&mut one, &ids, 32);
        let offloads = [Offload::AtLeast(Tokens(1)), Offload::Never, Offload::AtLeast(Tokens(8))];
        for (card, offload) in cards.iter().flat_map(|card| offloads.map(|offload| (card, offload))) {
            let mut machine = card.beside(1);
            machine.memories[MemoryId(1)].free = Bytes(one.memory().weights.0 / 4 + ring);
            let budget = machine.budget(MemoryId(1));
            let options = EngineOptions { fitted: true, offload, ..options };
            let mut mixed = Engine::open_with(Arc::clone(&card.open), machine, gguf(), options, &|_, _| {}).unwrap();
            let error = nmse(&reference::logits(&mut mixed, &ids, 32), &expected);
            let sizes: Vec<_> = mixed.memories().map(|(_, held)| held).collect();
            let kind = card.kind.name();
            eprintln!("{shape} {dtype} {offload:?} with {kind}: nmse {error:.1e}, {:?} of {budget}", sizes[1]);
            assert!(error <= bound, "{shape} {dtype} with {kind}: {error:e}");
            assert!(sizes[1].total() <= budget && sizes[0].weights > Bytes::ZERO, "{sizes:?}");
            assert!(sizes[1].rings > Bytes::ZERO || offload == Offload::Never);
            let session = mixed.session();
            let counted: Vec<Bytes> = session.allocated().iter().copied().collect();
            assert_eq!(counted, sizes.iter().map(|held| held.total()).collect::<Vec<_>>(), "what devices count");
        }
    }
}

/// Two devices work on every layer together.
#[test]
fn cut_layers_give_the_logits_of_the_cpu() {
    let cards = present();
    let ids: Vec<u32> = (0..40).map(|i| i * 37 % 500).collect();
    for (shape, dtype) in [("llama-tiny", DType::F32), ("qwen3moe-tiny", DType::F16)] {
        let bytes = Synth::new(&named(shape).unwrap(), dtype, 5).unwrap().to_bytes().unwrap();
        let gguf = || Gguf::from_bytes(shape, bytes.clone()).unwrap();
        let mut one = Engine::open(gguf(), options(), &|_, _| {}).unwrap();
        let expected = reference::logits(&mut one, &ids, 40);
        for card in &cards {
            let cut = EngineOptions { together: 2, ..options() };
            let pair = Machine::isolated(card.kind, 2, 2, Bytes(1 << 32));
            let mut two = Engine::open_with(Arc::clone(&card.open), pair, gguf(), cut, &|_, _| {}).unwrap();
            let weights: Vec<Bytes> = two.memories().map(|(_, held)| held.weights).collect();
            assert!(weights[0] > Bytes::ZERO && weights[1].0 * 3 > weights[0].0, "{weights:?}");
            for batch in [40, 1] {
                let error = nmse(&reference::logits(&mut two, &ids, batch), &expected);
                eprintln!("{shape} {dtype} cut over two {}: {batch:2} at a time: nmse {error:.1e}", card.kind.name());
                assert!(error <= 1e-5, "{shape} {dtype}: {error:e}");
            }
        }
    }
}
