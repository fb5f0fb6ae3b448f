//! Devices that are lost, or have less memory than they said: what was asked for ends with the right text, or says why not,
//! and never hangs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loadmaster::backend::BackendError;
use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use loadmaster::engine::{Engine, EngineOptions, Opener, Queue, QueueLimits, Remedy, Request};
use loadmaster::gguf::Gguf;
use loadmaster::sample::{SampleOptions, Sampler};
use loadmaster::tensor::DType;
use loadmaster::text::{Encode, TokenId};
use loadmaster::units::{Bytes, Tokens};

use crate::engine::model;
use crate::hooked::{Call, hooked};
use crate::reference::{nmse, options};
use crate::vulkan::{beside, device, open_over};

/// Longer than any of these takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `job` returns, unless it hangs.
fn within<T: Send + 'static>(what: String, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || _ = done.send(job()));
    match wait.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let why = thread.join().expect_err("a panic");
            panic!("{what}: {:?}", why.downcast_ref::<String>());
        }
    }
}

fn shipped() -> Gguf {
    Gguf::from_static("shipped", include_bytes!("../../graphs/shipped/stories-1m.gguf")).unwrap()
}

fn sizes() -> EngineOptions {
    EngineOptions { context: Tokens(512), step: Tokens(16), outputs: Tokens(4), threads: 1, ..options() }
}

fn cards(count: u32) -> Machine {
    Machine::isolated(BackendKind::Cpu, count, 1, Bytes(1 << 32))
}

/// When devices are lost: at calls by their number, one at each; a lost one answers nothing any more.
#[derive(Default)]
struct Doom {
    calls: AtomicI64,
    at: Vec<i64>,
    gone: Mutex<BTreeSet<String>>,
}

impl Doom {
    fn opener(self: &Arc<Doom>) -> Opener {
        let doom = Arc::clone(self);
        hooked(Arc::new(move |spec, _| {
            let mut gone = doom.gone.lock().unwrap();
            if doom.at.contains(&doom.calls.fetch_add(1, Ordering::SeqCst)) {
                gone.insert(spec.name.clone());
            }
            match gone.contains(&spec.name) {
                true => Err(BackendError::Lost { device: spec.name.clone(), why: "it fell off the bus".into() }),
                false => Ok(()),
            }
        }))
    }
}

/// Texts of requests that share beginnings, side by side, some with a context that overflows.
fn texts(engine: &mut Engine) -> Vec<Result<Vec<TokenId>, String>> {
    let tokenizer = engine.tokenizer().unwrap();
    let how = Encode { add_special: true, parse_special: true };
    let prompts = ["Once upon a time there was a girl who", "Once upon a time there was a dog. The dog had", "The end"];
    let prompts: Vec<Vec<TokenId>> = prompts.iter().map(|text| tokenizer.encode(text, how)).collect();
    let mut queue = Queue::new(engine, QueueLimits { sequences: 3, length: Tokens(96) }).unwrap();
    let mut ids = Vec::new();
    for (i, prompt) in prompts.iter().cycle().take(5).enumerate() {
        let temperature = if i % 2 == 0 { 0.0 } else { 0.7 };
        let sampler = Sampler::new(SampleOptions { temperature, ..SampleOptions::default() }).unwrap();
        let prompt: Vec<TokenId> = prompt.iter().copied().cycle().take(prompt.len() * (1 + i)).take(60).collect();
        ids.push(
            queue
                .submit(Request { sequence: None, prompt, most: Some(20), sampler, ignore_end: true, shift: None })
                .unwrap(),
        );
    }
    let mut found = vec![Err("never ended".to_owned()); ids.len()];
    for _ in 0..1000 {
        match queue.step(&mut |_, _| true) {
            Ok(true) => {}
            Ok(false) => break,
            Err(why) => {
                found.fill(Err(why.to_string()));
                return found;
            }
        }
    }
    while let Some(finished) = queue.finished() {
        let at = ids.iter().position(|&id| id == finished.id).unwrap();
        found[at] = finished.outcome.map(|made| made.tokens).map_err(|why| why.to_string());
    }
    found
}

#[test]
fn a_device_lost_at_any_call_costs_no_text() {
    let mut one = Engine::open(shipped(), sizes(), &|_, _| {}).unwrap();
    let expected: Vec<Vec<TokenId>> = texts(&mut one).into_iter().map(Result::unwrap).collect();
    assert!(expected.iter().all(|text| text.len() == 20));
    let run = |at: Vec<i64>| {
        let what = format!("{at:?}");
        let doom = Arc::new(Doom { at, ..Doom::default() });
        within(what, move || {
            let mut engine = match Engine::open_with(doom.opener(), cards(3), shipped(), sizes(), &|_, _| {}) {
                Ok(engine) => engine,
                Err(why) => return (doom.calls.load(Ordering::SeqCst), vec![Err(why.to_string())], Vec::new()),
            };
            let found = texts(&mut engine);
            assert_eq!(engine.usage().promised, 0);
            let gone = doom.gone.lock().unwrap().len();
            assert_eq!(engine.incidents().len(), gone, "{:?}", engine.incidents());
            (doom.calls.load(Ordering::SeqCst), found, engine.incidents().to_vec())
        })
    };
    let (calls, found, incidents) = run(Vec::new());
    assert!(incidents.is_empty() && found.into_iter().map(Result::unwrap).eq(expected.iter().cloned()));
    let (mut lost, mut read_again, mut refused) = (0, 0, 0);
    for i in 0..i64::from(crate::cases(200)) {
        // One device, or two of the three at some distance.
        let first = i * 7919 % calls;
        let at = if i % 3 == 0 { vec![first, first + 1 + i * 31 % calls] } else { vec![first] };
        let (_, found, incidents) = run(at.clone());
        lost += incidents.len();
        read_again += usize::from(incidents.iter().any(|incident| incident.read_again > 0));
        assert!(incidents.iter().all(|incident| incident.remedy == Remedy::Without), "{incidents:?}");
        for (at_text, (found, expected)) in found.iter().zip(&expected).enumerate() {
            match found {
                Ok(found) => assert!(found == expected, "text {at_text} after losses at {at:?} of {calls}"),
                Err(why) => {
                    assert!(why.contains("fell off the bus") || why.contains("was lost"), "{why}");
                    refused += 1;
                }
            }
        }
    }
    eprintln!("{calls} calls; {lost} losses, {read_again} runs that read again, {refused} texts refused");
    assert!(read_again > 20 && lost > 100 && refused < 20, "{lost} {read_again} {refused}");
}

/// A device that has less memory than it said is given less to hold, or nothing.
#[test]
fn refused_memory_is_done_without() {
    let mut one = Engine::open(shipped(), sizes(), &|_, _| {}).unwrap();
    let expected: Vec<Vec<TokenId>> = texts(&mut one).into_iter().map(Result::unwrap).collect();
    for has in [3_000_000, 600_000, 1000] {
        let taken = Arc::new(AtomicU64::new(0));
        let opener: Opener = Arc::new(move |spec: &DeviceSpec| {
            let taken = Arc::clone(&taken);
            taken.store(0, Ordering::SeqCst);
            hooked(Arc::new(move |spec, call| match call {
                Call::Alloc(need)
                    if spec.name == "cpu:1" && taken.fetch_add(need.0, Ordering::SeqCst) + need.0 > has =>
                {
                    let why = format!("it has {has}");
                    Err(BackendError::OutOfMemory { device: spec.name.clone(), need, why })
                }
                _ => Ok(()),
            }))(spec)
        });
        let mut machine = cards(2);
        machine.memories.ids().for_each(|id| machine.memories[id].free = Bytes(16 << 20));
        let mut engine = Engine::open_with(opener, machine, shipped(), sizes(), &|_, _| {}).unwrap();
        let incidents = engine.incidents();
        assert!(incidents.iter().all(|incident| incident.device == "cpu:1" && incident.read_again == 0));
        let last = incidents.last().map(|incident| incident.remedy);
        let held: Vec<(String, Bytes)> =
            engine.memories().map(|(name, held)| (name.to_owned(), held.total())).collect();
        eprintln!("{has} bytes: {} tries, {last:?}, {held:?}", incidents.len());
        match last {
            None => assert!(has > 2_000_000),
            Some(Remedy::Less(budget)) => assert!(held[1].1 <= budget && held[1].1 <= Bytes(has)),
            Some(Remedy::Without) => assert!(held.len() == 1 && has < 10_000),
        }
        assert!(texts(&mut engine).into_iter().map(Result::unwrap).eq(expected.iter().cloned()), "{has} bytes");
    }
}

/// What one device takes.
fn engine_memory() -> Bytes {
    let options = EngineOptions { context: Tokens(64), ..sizes() };
    Engine::open(shipped(), options, &|_, _| {}).unwrap().memory().total()
}

#[test]
fn where_no_device_is_left_the_error_says_so() {
    let doom = Arc::new(Doom::default());
    let options = EngineOptions { context: Tokens(64), ..sizes() };
    let mut engine = Engine::open_with(doom.opener(), cards(2), shipped(), options, &|_, _| {}).unwrap();
    let sequence = engine.start();
    engine.feed(sequence, &[1, 2, 3]).unwrap();
    doom.gone.lock().unwrap().extend(["cpu:0".to_owned(), "cpu:1".to_owned()]);
    let why = engine.feed(sequence, &[4]).unwrap_err().to_string();
    assert!(why.contains("went on without") && why.ends_with("which failed: cpu:1: it fell off the bus"), "{why}");
    assert_eq!(engine.length(sequence).unwrap(), Tokens(3));
    let why = engine.feed(sequence, &[4]).unwrap_err().to_string();
    assert_eq!(why, "the session was given up when a device failed");
    // A model that fits two devices, but not one.
    let doom = Arc::new(Doom::default());
    let mut machine = cards(2);
    let whole = engine_memory();
    machine.memories.ids().for_each(|id| machine.memories[id].free = Bytes(whole.0 / 4 * 3));
    let mut engine = Engine::open_with(doom.opener(), machine, shipped(), options, &|_, _| {}).unwrap();
    let sequence = engine.start();
    doom.gone.lock().unwrap().insert("cpu:1".to_owned());
    let why = engine.feed(sequence, &[1]).unwrap_err().to_string();
    assert!(why.contains("cpu:1: it fell off the bus") && why.contains("cpu:0 needs"), "{why}");
}

/// A text that a queue writes behind a prompt, and how many tokens of it were found.
fn greedy(engine: &mut Engine, prompt: &[u32]) -> (Vec<TokenId>, usize) {
    let mut queue = Queue::new(engine, QueueLimits { sequences: 1, length: Tokens(200) }).unwrap();
    let sampler = Sampler::new(SampleOptions { temperature: 0.0, ..SampleOptions::default() }).unwrap();
    let prompt = prompt.iter().copied().map(TokenId).collect();
    queue.submit(Request { sequence: None, prompt, most: Some(4), sampler, ignore_end: true, shift: None }).unwrap();
    while queue.step(&mut |_, _| true).unwrap() {}
    let made = queue.finished().unwrap().outcome.unwrap();
    (made.tokens, made.shared_tokens)
}

/// A fork that lost its beginning is read after the sequence that it came from, and spoils nothing of it; a text that had
/// dropped a part is said to have.
#[test]
fn forks_with_holes_and_shifted_texts_are_read_again() {
    let options = EngineOptions { context: Tokens(256), step: Tokens(16), sequences: 3, ..options() };
    for shape in ["llama-tiny", "gemma3-tiny"] {
        let gguf = || model(shape, DType::F16, 5);
        let mut one = Engine::open(gguf(), options, &|_, _| {}).unwrap();
        let doom = Arc::new(Doom::default());
        let mut engine = Engine::open_with(doom.opener(), cards(2), gguf(), options, &|_, _| {}).unwrap();
        let ids: Vec<u32> = (0..200).map(|i| i * 37 % 500).collect();
        let begin = |engine: &mut Engine| {
            let whole = engine.start();
            engine.feed(whole, &ids[..30]).unwrap();
            let fork = engine.fork(whole).unwrap();
            engine.remove(fork, 0, 16).unwrap();
            (whole, fork)
        };
        let ((whole, fork), (expected, _)) = (begin(&mut engine), begin(&mut one));
        doom.gone.lock().unwrap().insert("cpu:1".to_owned());
        assert_eq!(engine.feed(whole, &ids[30..34]).unwrap(), one.feed(expected, &ids[30..34]).unwrap(), "{shape}");
        assert!(engine.feed(fork, &ids[30..34]).unwrap().iter().all(|logit| logit.is_finite()));
        let [incident] = engine.incidents() else { panic!("{:?}", engine.incidents()) };
        assert_eq!(incident.shortened, 1, "{incident}");
        assert!(incident.to_string().ends_with("1 texts that had dropped a part go on as if it had never been"));
    }
}

/// Where reading again fails for another reason, nothing goes on from caches that were not read again.
#[test]
fn a_recovery_that_fails_leaves_no_session() {
    // Once the second device is lost, the first runs no split.
    let splits = Arc::new(AtomicI64::new(i64::MAX));
    let left = Arc::clone(&splits);
    let opener = hooked(Arc::new(move |spec, call| {
        let (device, now) = (spec.name.clone(), left.load(Ordering::SeqCst));
        let gone = now < 1000;
        match (device.as_str(), call) {
            ("cpu:1", _) if gone => Err(BackendError::Lost { device, why: "it fell off the bus".into() }),
            (_, Call::Submit) if gone && left.fetch_sub(1, Ordering::SeqCst) <= 0 => {
                Err(BackendError::Worker { device, why: "a fault".into() })
            }
            _ => Ok(()),
        }
    }));
    let mut engine = Engine::open_with(opener, cards(2), shipped(), sizes(), &|_, _| {}).unwrap();
    let sequence = engine.start();
    engine.feed(sequence, &[1, 2, 3]).unwrap();
    splits.store(0, Ordering::SeqCst);
    let why = engine.feed(sequence, &[4]).unwrap_err().to_string();
    assert!(
        why.contains("went on without cpu:1") && why.ends_with("which failed: cpu:0: a worker failed: a fault"),
        "{why}"
    );
    splits.store(i64::MAX, Ordering::SeqCst);
    let why = engine.feed(sequence, &[4]).unwrap_err().to_string();
    assert_eq!(why, "the session was given up when a device failed");
}

/// Layers with windows have what they reach read again, too, as long as they have given up nothing; then the sequence is lost.
#[test]
fn windows_are_read_again_while_they_are_whole() {
    let options = EngineOptions { context: Tokens(256), step: Tokens(16), sequences: 2, ..options() };
    let gguf = || model("gemma3-tiny", DType::F16, 5);
    let mut one = Engine::open(gguf(), options, &|_, _| {}).unwrap();
    let ids: Vec<u32> = (0..200).map(|i| i * 37 % 500).collect();
    for (first, whole) in [(20, true), (150, false)] {
        let doom = Arc::new(Doom::default());
        let mut engine = Engine::open_with(doom.opener(), cards(2), gguf(), options, &|_, _| {}).unwrap();
        let (mine, its) = (engine.start(), one.start());
        assert_eq!(engine.feed(mine, &ids[..first]).unwrap(), one.feed(its, &ids[..first]).unwrap());
        doom.gone.lock().unwrap().insert("cpu:1".to_owned());
        match engine.feed(mine, &ids[first..first + 5]) {
            Ok(found) => assert!(whole && *found == *one.feed(its, &ids[first..first + 5]).unwrap()),
            Err(why) => assert!(!whole && why.to_string().contains("was lost when a device failed"), "{why}"),
        }
        assert_eq!(engine.incidents().len(), 1);
        assert_eq!(engine.length(mine).is_ok(), whole);
        // What is read from now on is right in both cases, also by who could find what was lost.
        let (found, shared) = greedy(&mut engine, &ids[..first]);
        assert_eq!(found, greedy(&mut one, &ids[..first]).0, "{shared} tokens were found");
        assert!(whole || shared == 0, "{shared} tokens were found that nobody has read");
        let again = engine.start();
        let other = one.start();
        assert_eq!(engine.feed(again, &ids[..40]).unwrap(), one.feed(other, &ids[..40]).unwrap());
        [its, other].into_iter().for_each(|sequence| one.end(sequence).unwrap());
    }
}

/// A card that is given up in the middle of a text: what follows has the bits of the processor, which has read everything again.
#[test]
fn a_lost_adapter_costs_no_text() {
    let Some(gpu) = device() else { return };
    let opener: Opener = Arc::new(open_over(&gpu));
    let options = EngineOptions { context: Tokens(96), step: Tokens(16), ..options() };
    let gguf = || model("llama-tiny", DType::F16, 5);
    let machine = beside(1);
    assert_eq!(machine.devices[DeviceId(1)].memory, MemoryId(1));
    let mut engine = Engine::open_with(opener, machine, gguf(), options, &|_, _| {}).unwrap();
    let ids: Vec<u32> = (0..60).map(|i| i * 37 % 500).collect();
    let mut one = Engine::open(gguf(), options, &|_, _| {}).unwrap();
    let (mine, its) = (engine.start(), one.start());
    let (found, expected) =
        (engine.feed(mine, &ids[..40]).unwrap().to_vec(), one.feed(its, &ids[..40]).unwrap().to_vec());
    let error = nmse(&found, &expected);
    assert!(error < 1e-5 && error > 0.0, "{error:e}: the adapter has a part in it");
    gpu.give_up();
    assert_eq!(engine.feed(mine, &ids[40..]).unwrap(), one.feed(its, &ids[40..]).unwrap());
    let [incident] = engine.incidents() else { panic!("{:?}", engine.incidents()) };
    assert_eq!((incident.device.as_str(), incident.remedy), ("vulkan:0", Remedy::Without));
    assert!(incident.read_again >= 40 && incident.to_string().contains("went on without vulkan:0"), "{incident}");
}
