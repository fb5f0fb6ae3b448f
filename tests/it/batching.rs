//! Many requests at a time: each writes what it writes alone, whatever runs beside it, and leaves nothing behind.

use loadmaster::engine::{
    Engine, EngineError, EngineOptions, Finish, Generate, Queue, QueueLimits, Request, RequestId,
};
use loadmaster::gguf::Gguf;
use loadmaster::sample::{SampleOptions, Sampler};
use loadmaster::text::TokenId;
use loadmaster::units::Tokens;

pub fn options() -> EngineOptions {
    let sizes = crate::reference::options();
    EngineOptions { context: Tokens(512), step: Tokens(32), outputs: Tokens(8), ..sizes }
}

pub fn shipped() -> Gguf {
    Gguf::from_static("shipped", include_bytes!("../../graphs/shipped/stories-1m.gguf")).unwrap()
}

pub fn open(options: EngineOptions) -> Engine {
    Engine::open(shipped(), options, &|_, _| {}).unwrap()
}

fn sampler(temperature: f32) -> Sampler {
    Sampler::new(SampleOptions { temperature, seed: 7, ..SampleOptions::default() }).unwrap()
}

/// Requests of all lengths; some begin alike, and some are drawn at random.
fn requests(vocab: u32) -> Vec<Request> {
    let token = |i: u32| TokenId(i.wrapping_mul(2_654_435_761).rotate_right(7) % vocab);
    let request = |i: u32| {
        let common = if i.is_multiple_of(3) { 40 } else { 0 };
        let prompt = (0..common).map(token).chain((0..1 + i * 37 % 90).map(|j| token(1000 * i + j))).collect();
        let temperature = if i % 4 == 1 { 0.9 } else { 0.0 };
        let most = Some(1 + (i * 13 % 30) as usize);
        Request { sequence: None, prompt, most, sampler: sampler(temperature), ignore_end: true, shift: None }
    };
    (0..20).map(request).collect()
}

fn alone(engine: &mut Engine, request: &Request) -> Vec<TokenId> {
    let sequence = engine.start();
    let mut sampler = request.sampler.clone();
    let Request { prompt, most, ignore_end, .. } = request;
    let request =
        Generate { sequence, prompt, most: *most, sampler: &mut sampler, ignore_end: *ignore_end, shift: None };
    let generated = engine.generate(request, |_| true).unwrap();
    engine.end(sequence).unwrap();
    generated.tokens
}

#[test]
fn every_request_writes_what_it_writes_alone() {
    let mut single = open(options());
    let requests = requests(single.model().hparams().vocab);
    let expected: Vec<Vec<TokenId>> = requests.iter().map(|request| alone(&mut single, request)).collect();
    assert!(expected.iter().all(|tokens| !tokens.is_empty()));
    // Enough of everything; too few rows of logits for all; too few pages for all; steps of a token.
    for (context, step, outputs, sequences) in [(4096, 64, 20, 20), (1024, 32, 3, 8), (160, 32, 8, 6), (512, 1, 1, 4)] {
        let sizes =
            EngineOptions { context: Tokens(context), step: Tokens(step), outputs: Tokens(outputs), ..options() };
        let mut engine = open(sizes);
        let pages = engine.usage().free;
        let mut queue = Queue::new(&mut engine, QueueLimits { sequences, length: Tokens(160) }).unwrap();
        for request in &requests {
            queue.submit(request.clone()).unwrap();
        }
        let (mut most, mut shared) = (0, 0);
        while queue.step(&mut |_, _| true).unwrap() {
            most = most.max(queue.load().1);
        }
        let mut found = vec![Vec::new(); requests.len()];
        while let Some(finished) = queue.finished() {
            let generated = finished.outcome.unwrap();
            shared += generated.shared_tokens;
            let prompt = &requests[finished.id.0 as usize].prompt;
            assert_eq!(generated.prompt_tokens + generated.shared_tokens, prompt.len());
            found[finished.id.0 as usize] = generated.tokens;
        }
        drop(queue);
        assert_eq!(found, expected, "{context} cells, steps of {step} tokens, {outputs} rows, {sequences} at a time");
        assert!(most > 1, "{most} ran at a time");
        assert!(shared > 0 || context == 4096, "no prompt was found in the cache");
        assert_eq!(engine.usage().free, pages);
        assert_eq!(engine.usage().promised, 0);
    }
}

#[test]
fn a_prompt_that_waits_does_not_hold_up_what_generates() {
    let mut engine = open(EngineOptions { context: Tokens(1024), ..options() });
    let mut queue = Queue::new(&mut engine, QueueLimits { sequences: 4, length: Tokens(600) }).unwrap();
    let request = |length: u32, most| {
        let prompt = (0..length).map(|i| TokenId(i % 900)).collect();
        Request { sequence: None, prompt, most: Some(most), sampler: sampler(0.0), ignore_end: true, shift: None }
    };
    let short = queue.submit(request(3, 30)).unwrap();
    let step = |queue: &mut Queue<'_>| {
        let mut told = Vec::new();
        let mut text = |id, text: &str| {
            told.extend((!text.is_empty()).then_some(id));
            true
        };
        queue.step(&mut text).unwrap();
        told
    };
    step(&mut queue);
    let long = queue.submit(request(400, 5)).unwrap();
    let other = queue.submit(request(40, 5)).unwrap();
    let steps: Vec<Vec<RequestId>> = (0..16).map(|_| step(&mut queue)).collect();
    // 31 tokens a step are left for prompts: the short one does not wait until the long one is through.
    let first = |id| steps.iter().position(|told| told.contains(&id)).unwrap();
    assert!(first(other) <= 3 && first(long) >= 13, "{steps:?}");
    assert!(steps.iter().filter(|told| told.contains(&short)).count() >= 12, "{steps:?}");
}

#[test]
fn what_can_never_run_is_refused_and_what_is_cancelled_frees_its_pages_at_once() {
    let mut engine = open(EngineOptions { context: Tokens(256), ..options() });
    let pages = engine.usage().free;
    let mut queue = Queue::new(&mut engine, QueueLimits { sequences: 3, length: Tokens(128) }).unwrap();
    let request = |length: usize, most| {
        let prompt = vec![TokenId(length as u32); length];
        Request { sequence: None, prompt, most, sampler: sampler(0.0), ignore_end: true, shift: None }
    };
    let refused = |found: Result<RequestId, EngineError>| found.unwrap_err().to_string();
    assert!(refused(queue.submit(request(0, None))).contains("no tokens"));
    assert!(refused(queue.submit(request(129, Some(1)))).starts_with("129 tokens do not fit the context of 128"));
    assert!(refused(queue.submit(request(100, Some(30)))).starts_with("129 tokens do not fit"));
    let stranger = Request { prompt: vec![TokenId(1 << 20)], ..request(1, None) };
    assert!(refused(queue.submit(stranger)).contains("token id 1048576"));
    let (a, b, c) = (request(100, Some(29)), request(20, None), request(9, Some(4)));
    let [a, b, c] = [a, b, c].map(|request| queue.submit(request).unwrap());
    for _ in 0..4 {
        queue.step(&mut |_, _| true).unwrap();
    }
    // Two sequences of 128 tokens have set all pages aside.
    assert_eq!(queue.load(), (1, 2));
    assert!(queue.cancel(b).unwrap());
    assert!(!queue.cancel(b).unwrap());
    queue.step(&mut |_, _| true).unwrap();
    assert_eq!(queue.load(), (0, 2));
    let stopped = queue.finished().unwrap();
    assert!((stopped.id, stopped.outcome.unwrap().finish) == (b, Finish::Stopped));
    while queue.step(&mut |id, _| id != a).unwrap() {}
    let ended: Vec<_> = std::iter::from_fn(|| queue.finished()).map(|f| (f.id, f.outcome.unwrap().finish)).collect();
    assert_eq!(ended, [(a, Finish::Stopped), (c, Finish::Length)]);
    let d = queue.submit(request(20, Some(100))).unwrap();
    queue.step(&mut |_, _| true).unwrap();
    assert_eq!(queue.load(), (0, 1));
    assert!(queue.cancel(d).unwrap());
    queue.submit(request(20, Some(100))).unwrap();
    queue.step(&mut |_, _| true).unwrap();
    drop(queue);
    assert_eq!((engine.usage().free, engine.usage().promised), (pages, 0));
}
