//! Many sequences come, fork, drop what no longer fits and are cancelled, step after step: each writes what it writes
//! alone, and in the end nothing is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use loadmaster::device::{BackendKind, Machine};
use loadmaster::engine::{CHUNK, Engine, EngineOptions, Finish, Queue, QueueLimits, Request, RequestId};
use loadmaster::gguf::Gguf;
use loadmaster::kv::{Depth, KvLayout};
use loadmaster::sample::{SampleOptions, Sampler};
use loadmaster::synth::{ModelShape, Synth, WindowShape, named};
use loadmaster::tensor::DType;
use loadmaster::text::TokenId;
use loadmaster::units::Tokens;

use crate::batching::{open, options, shipped};
use crate::hooked::{Fuse, faulty};

/// Small numbers by turns (a linear congruential generator, constants of Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }
}

/// How a request came about.
#[derive(Clone)]
enum Origin {
    Asked(Request),
    /// Of another one once it had generated so many tokens.
    Fork {
        parent: usize,
        after: usize,
        sampler: Sampler,
    },
}

/// A request, and what it has generated when it ended.
struct Seen {
    origin: Origin,
    id: RequestId,
    ended: Option<(Vec<TokenId>, Finish)>,
}

const LENGTH: Tokens = Tokens(80);

fn sampler(dice: &mut Dice) -> Sampler {
    let temperature = if dice.below(2) == 0 { 0.0 } else { 0.9 };
    Sampler::new(SampleOptions { temperature, seed: dice.below(1000).into(), ..SampleOptions::default() }).unwrap()
}

fn request(dice: &mut Dice) -> Request {
    let shared = if dice.below(3) == 0 { 32 } else { 0 };
    let length = 1 + dice.below(40);
    let prompt = (0..shared).chain((0..length).map(|_| dice.below(900))).map(TokenId).collect();
    let shift = (dice.below(3) == 0).then_some(Tokens(dice.below(2) * 16));
    let room = LENGTH.index() - (shared + length) as usize;
    let most = if shift.is_some() { 20 + dice.below(200) as usize } else { 1 + dice.below(room as u32) as usize };
    Request { sequence: None, prompt, most: Some(most), sampler: sampler(dice), ignore_end: true, shift }
}

/// Steps in which requests come, fork and go. All that was seen.
fn churn(engine: &mut Engine, sequences: usize, steps: usize, dice: &mut Dice) -> (Vec<Seen>, u64) {
    let mut queue = Queue::new(engine, QueueLimits { sequences, length: LENGTH }).unwrap();
    let mut seen: Vec<Seen> = Vec::new();
    let add = |seen: &mut Vec<Seen>, origin, id| seen.push(Seen { origin, id, ended: None });
    for step in 0.. {
        let open: Vec<usize> = (0..seen.len()).filter(|&i| seen[i].ended.is_none()).collect();
        if step >= steps && open.is_empty() {
            break;
        }
        if step < steps && open.len() < sequences + 4 && dice.below(2) == 0 {
            let request = request(dice);
            let id = queue.submit(request.clone()).unwrap();
            add(&mut seen, Origin::Asked(request), id);
        }
        let any = |dice: &mut Dice| open.get(dice.below(open.len().max(1) as u32) as usize).copied();
        if let (0, Some(parent)) = (dice.below(8), any(dice)) {
            let after = queue.generated(seen[parent].id).map(<[TokenId]>::len);
            let sampler = sampler(dice);
            if let (Some(after @ 1..), Ok(id)) = (after, queue.fork(seen[parent].id, sampler.clone())) {
                add(&mut seen, Origin::Fork { parent, after, sampler }, id);
            }
        }
        if let (0, Some(at)) = (dice.below(16), any(dice)) {
            queue.cancel(seen[at].id).unwrap();
        }
        if dice.below(200) == 0 {
            queue.compact(Depth::Pages, CHUNK).unwrap();
        }
        queue.step(&mut |_, _| true).unwrap();
        while let Some(finished) = queue.finished() {
            let generated = finished.outcome.unwrap();
            let at = seen.iter().rposition(|seen| seen.id == finished.id).unwrap();
            seen[at].ended = Some((generated.tokens, generated.finish));
        }
    }
    (seen, queue.report().moved.moves)
}

/// What a request generates when nothing runs beside it.
fn alone(engine: &mut Engine, seen: &[Seen], at: usize) -> (Vec<TokenId>, Finish) {
    let mut path = vec![at];
    while let Origin::Fork { parent, .. } = seen[path[path.len() - 1]].origin {
        path.push(parent);
    }
    let mut queue = Queue::new(engine, QueueLimits { sequences: 2, length: LENGTH }).unwrap();
    let mut id = RequestId(0);
    for &at in path.iter().rev() {
        match &seen[at].origin {
            Origin::Asked(request) => id = queue.submit(request.clone()).unwrap(),
            Origin::Fork { after, sampler, .. } => {
                while queue.generated(id).is_none_or(|tokens| tokens.len() < *after) {
                    assert!(queue.step(&mut |_, _| true).unwrap());
                }
                let fork = queue.fork(id, sampler.clone()).unwrap();
                assert!(queue.cancel(id).unwrap());
                queue.finished().unwrap();
                id = fork;
            }
        }
    }
    while queue.step(&mut |_, _| true).unwrap() {}
    let generated = queue.finished().unwrap().outcome.unwrap();
    (generated.tokens, generated.finish)
}

#[test]
fn sequences_that_come_fork_shift_and_go_write_what_they_write_alone() {
    compare(&open, KvLayout::default(), crate::cases(500) as usize);
    compare(&open, KvLayout::Contiguous, crate::cases(120) as usize);
}

/// The same where most layers keep a window of each sequence; alone, all layers keep all.
#[test]
fn sequences_behind_windows_write_what_they_write_alone_with_all_their_rows() {
    compare(&windowed, KvLayout::default(), crate::cases(200) as usize);
    compare(&windowed, KvLayout::Contiguous, crate::cases(80) as usize);
}

/// Three layers, two of them with windows of two pages.
fn windowed(options: EngineOptions) -> Engine {
    let shape = named("gemma3-tiny").unwrap();
    let windows = shape.windows.map(|windows| WindowShape { length: 32, period: 3, ..windows });
    let shape = ModelShape { layers: 3, vocab: 1024, windows, ..shape };
    let bytes = Synth::new(&shape, DType::Q8_0, 3).unwrap().to_bytes().unwrap();
    Engine::open(Gguf::from_bytes("windowed", bytes).unwrap(), options, &|_, _| {}).unwrap()
}

fn compare(open: &dyn Fn(EngineOptions) -> Engine, layout: KvLayout, steps: usize) {
    let sizes = |context, outputs, sequences| EngineOptions {
        context: Tokens(context),
        layout,
        step: Tokens(96),
        outputs: Tokens(outputs),
        sequences,
        ..options()
    };
    let mut engine = open(sizes(64 * 60, 64, 20));
    let classes = engine.session().classes().len();
    let before = engine.usages();
    let (seen, moves) = churn(&mut engine, 64, steps, &mut Dice(5));
    for (class, usage) in engine.usages().iter_ids() {
        assert_eq!((usage.free, usage.promised), (before[class].free, 0), "{class}");
    }
    let mut single = open(sizes(400, 4, 8));
    assert_eq!(single.session().classes().len(), 1);
    let (mut forks, mut stopped, mut long) = (0, 0, 0);
    for at in 0..seen.len() {
        let (found, finish) = seen[at].ended.as_ref().unwrap();
        let (expected, end) = alone(&mut single, &seen, at);
        let same = match finish {
            // A cancelled one is a beginning.
            Finish::Stopped => expected.starts_with(found),
            Finish::ContextFull | Finish::Length | Finish::EndOfGeneration => *found == expected && *finish == end,
        };
        assert!(same, "request {at} of {}: {finish:?} after {found:?}, alone {end:?} after {expected:?}", seen.len());
        forks += usize::from(matches!(seen[at].origin, Origin::Fork { .. }));
        stopped += usize::from(*finish == Finish::Stopped);
        long += usize::from(found.len() > LENGTH.index());
    }
    assert_eq!(moves > 0, layout == KvLayout::Contiguous, "{moves} moves where compaction pays");
    eprintln!("{classes} classes: {} requests, {forks} forks, {stopped} cancelled, {long} dropped a part", seen.len());
    assert!(seen.len() > 30 && forks > 5 && stopped > 5 && long > 5, "{} {forks} {stopped} {long}", seen.len());
}

/// Whichever call to a device fails, in a step or between two: what still ends well has the right text, what does not says
/// so, and nothing stays held.
#[test]
fn a_fault_anywhere_ends_some_requests_and_spoils_none() {
    let mut dice = Dice(11);
    let requests: Vec<Request> = (0..14).map(|_| request(&mut dice)).collect();
    let fuse: Fuse = Arc::new(AtomicI64::new(-1));
    let opened = faulty(&fuse);
    for layout in [KvLayout::default(), KvLayout::Contiguous] {
        let sizes = EngineOptions { context: Tokens(320), layout, ..options() };
        let machine = Machine::isolated(BackendKind::Cpu, 2, 1, sizes.budget);
        let mut engine = Engine::open_with(Arc::clone(&opened), machine, shipped(), sizes, &|_, _| {}).unwrap();
        let pages = engine.usage().free;
        let all = served(&mut engine, &requests);
        let expected: Vec<Vec<TokenId>> = all.into_iter().map(Result::unwrap).collect();
        fuse.store(1 << 40, Ordering::SeqCst);
        served(&mut engine, &requests);
        let calls = (1 << 40) - fuse.load(Ordering::SeqCst);
        let (mut failed, mut burnt) = (0, 0);
        for n in (0..crate::cases(24)).map(|i| i64::from(i) * 7919 % calls) {
            fuse.store(n, Ordering::SeqCst);
            for (found, expected) in served(&mut engine, &requests).into_iter().zip(&expected) {
                match found {
                    Ok(found) => assert_eq!(found, *expected, "{layout:?}: a fault in call {n} of {calls}"),
                    Err(why) => failed += usize::from(why.contains("a fault") || why.contains("lost")),
                }
            }
            // What the cache still has decides how many calls there are.
            burnt += usize::from(fuse.swap(-1, Ordering::SeqCst) < 0);
            assert_eq!((engine.usage().free, engine.usage().promised), (pages, 0));
        }
        eprintln!("{layout:?}: {calls} calls, {burnt} faults, {failed} requests ended by one");
        assert!(burnt > 12 && (failed > 0 || layout == KvLayout::default()), "{burnt} {failed}");
    }
}

/// The tokens of each request, or why it ended.
fn served(engine: &mut Engine, requests: &[Request]) -> Vec<Result<Vec<TokenId>, String>> {
    let mut queue = Queue::new(engine, QueueLimits { sequences: 6, length: LENGTH }).unwrap();
    let ids: Vec<RequestId> = requests.iter().map(|request| queue.submit(request.clone()).unwrap()).collect();
    let mut found = vec![Err("never ended".to_owned()); requests.len()];
    let mut faults = 0;
    loop {
        match queue.step(&mut |_, _| true) {
            Ok(true) => {}
            Ok(false) => break,
            Err(why) => {
                assert!(why.to_string().contains("a fault"), "{why}");
                faults += 1;
            }
        }
        assert!(faults < 2, "the same fault twice");
    }
    while let Some(finished) = queue.finished() {
        let at = ids.iter().position(|&id| id == finished.id).unwrap();
        found[at] = finished.outcome.map(|generated| generated.tokens).map_err(|why| why.to_string());
    }
    assert!(found.iter().all(|found| found.as_ref().err().is_none_or(|why| why != "never ended")));
    found
}
