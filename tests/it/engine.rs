//! What the engine promises of numbers: a row's bits depend on nothing but the row.

use loadmaster::engine::{Engine, EngineOptions, Finish, Generate};
use loadmaster::gguf::Gguf;
use loadmaster::sample::{SampleOptions, Sampler};
use loadmaster::synth::{Synth, named};
use loadmaster::tensor::DType;
use loadmaster::text::{Encode, TokenId};
use loadmaster::units::{Bytes, Tokens};

use crate::reference::{logits, options};

pub fn model(shape: &str, dtype: DType, seed: u64) -> Gguf {
    let bytes = Synth::new(&named(shape).unwrap(), dtype, seed).unwrap().to_bytes().unwrap();
    Gguf::from_bytes(shape, bytes).unwrap()
}

pub fn engine(shape: &str, dtype: DType, options: EngineOptions) -> Engine {
    Engine::open(model(shape, dtype, 5), options, &|_, _| {}).unwrap()
}

fn ids(n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + 3 * i + 1) % vocab) as u32).collect()
}

/// Bits, so that NaN would compare too.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_on_every_thread_and_page() {
    let cases = [
        ("llama-tiny", DType::Q4_0),
        ("llama-tiny", DType::F16),
        ("llama-tiny", DType::Q5_1),
        ("qwen2-tiny", DType::Q8_0),
        ("qwen3-tiny", DType::Q6K),
        ("qwen3moe-tiny", DType::Q4K),
        ("mixtral-tiny", DType::Q5K),
        ("deepseek2-tiny", DType::Q4K),
        ("deepseek2-lite-tiny", DType::F16),
        ("deepseek2-lite-tiny", DType::F32),
        ("gemma3-tiny", DType::Q4_0),
        ("gemma3-tiny", DType::F16),
    ];
    for (shape, dtype) in cases {
        let wide = EngineOptions { context: Tokens(640), sequences: 64, ..options() };
        let mut whole = engine(shape, dtype, wide);
        let ids = ids(300, whole.logits_width());
        let expected = bits(&logits(&mut whole, &ids, 64));
        assert!(expected.iter().all(|&x| f32::from_bits(x).is_finite()), "{shape} {dtype}");
        for batch in [1, 3, 17] {
            assert!(bits(&logits(&mut whole, &ids, batch)) == expected, "{shape} {dtype}: batch {batch}");
        }
        for threads in [1, 3] {
            let mut other = engine(shape, dtype, EngineOptions { threads, sequences: 1, ..wide });
            assert!(bits(&logits(&mut other, &ids, 64)) == expected, "{shape} {dtype}: {threads} threads");
        }
        let mut mapped = engine(shape, dtype, EngineOptions { keep_mapping: true, ..wide });
        assert!(bits(&logits(&mut mapped, &ids, 64)) == expected, "{shape} {dtype}: from the mapping");
        assert!(bits(&scattered(&mut whole, &ids)) == expected, "{shape} {dtype}: scattered pages");
    }
}

/// Logits of all rows of a sequence among others that hold every page and leave every other one, a few before each step,
/// high ones and low ones in turn: its pages come apart and out of order.
fn scattered(engine: &mut Engine, ids: &[u32]) -> Vec<f32> {
    let others: Vec<_> = (0..engine.context().pages()).map(|_| engine.start()).collect();
    for &other in &others {
        engine.feed(other, &[1, 2, 3]).unwrap();
    }
    let mut leaving = others.iter().skip(1).step_by(2);
    let sequence = engine.start();
    let mut all = Vec::new();
    for (at, piece) in ids.chunks(64).enumerate() {
        for _ in piece.chunks(Tokens::PAGE.index()) {
            let other = if at % 2 == 0 { leaving.next_back() } else { leaving.next() };
            engine.end(*other.unwrap()).unwrap();
        }
        engine.feed_all(sequence, piece, |_, rows| all.extend_from_slice(rows)).unwrap();
    }
    all
}

#[test]
fn cache_types_agree_within_their_rounding() {
    let exact = options();
    let with = |dtype| EngineOptions { cache_keys: dtype, cache_values: dtype, ..exact };
    for shape in ["llama-tiny", "deepseek2-lite-tiny"] {
        let run = |options| {
            let mut engine = engine(shape, DType::F32, options);
            let ids = ids(60, engine.logits_width());
            logits(&mut engine, &ids, 16)
        };
        let reference = run(with(DType::F32));
        for (dtype, most) in [(DType::F16, 1e-5), (DType::Bf16, 1e-3), (DType::Q8_0, 1e-3), (DType::Q4_0, 5e-2)] {
            let error = crate::reference::nmse(&run(with(dtype)), &reference);
            assert!(error > 0.0 && error < most, "{shape} {dtype}: {error:e}");
        }
    }
}

#[test]
fn sequences_do_not_see_each_other_and_end_cleanly() {
    let mut engine = engine("llama-tiny", DType::Q8_0, options());
    let ids = ids(20, engine.logits_width());
    let alone = logits(&mut engine, &ids, 20);
    let (a, b) = (engine.start(), engine.start());
    for piece in ids.chunks(5) {
        engine.feed(b, &[9, 8, 7]).unwrap();
        engine.feed(a, piece).unwrap();
    }
    engine.truncate(a, Tokens(19)).unwrap();
    let last = engine.feed(a, &ids[19..]).unwrap();
    assert!(bits(last) == bits(&alone[alone.len() - last.len()..]));
    engine.end(a).unwrap();
    assert!(engine.feed(a, &[1]).is_err());
    engine.end(b).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let mut engine = engine("llama-tiny", DType::Q8_0, EngineOptions { context: Tokens(30), ..options() });
    assert_eq!(engine.context(), Tokens(32));
    let sequence = engine.start();
    let refused = |result: Result<&[f32], loadmaster::engine::EngineError>| result.unwrap_err().to_string();
    assert!(refused(engine.feed(sequence, &[])).contains("no tokens"));
    assert!(refused(engine.feed(sequence, &[1; 33])).contains("33 tokens do not fit the context of 32"));
    assert!(refused(engine.feed(sequence, &[1, 1 << 30])).contains("token id 1073741824"));
    assert_eq!(engine.length(sequence).unwrap(), Tokens(0), "a refused step leaves nothing behind");
    engine.feed(sequence, &[1; 32]).unwrap();
    assert!(refused(engine.feed(sequence, &[1])).contains("33 tokens do not fit"));
    let small = EngineOptions { budget: Bytes(1 << 16), ..options() };
    let error = Engine::open(model("llama-tiny", DType::Q8_0, 5), small, &|_, _| {}).err().unwrap().to_string();
    assert!(error.contains("host needs") && error.contains("its budget is 64.0 KiB"), "{error}");
}

/// Tokens and text at temperature 0.
fn greedy(engine: &mut Engine, prompt: &str, most: usize) -> (Vec<u32>, Vec<u32>, String) {
    let how = Encode { add_special: true, parse_special: false };
    let prompt = engine.tokenizer().unwrap().encode(prompt, how);
    let mut sampler = Sampler::new(SampleOptions { temperature: 0.0, ..SampleOptions::default() }).unwrap();
    let (sequence, mut text) = (engine.start(), String::new());
    let request =
        Generate { sequence, prompt: &prompt, most: Some(most), sampler: &mut sampler, ignore_end: false, shift: None };
    let generated = engine.generate(request, |piece| {
        text.push_str(piece);
        true
    });
    engine.end(sequence).unwrap();
    let numbers = |tokens: &[TokenId]| tokens.iter().map(|t| t.0).collect();
    (numbers(&prompt), numbers(&generated.unwrap().tokens), text)
}

#[test]
fn the_shipped_model_writes_what_llama_cpp_writes_with_it() {
    let bytes = include_bytes!("../../graphs/shipped/stories-1m.gguf");
    let mut engine = Engine::open(Gguf::from_static("shipped", bytes).unwrap(), options(), &|_, _| {}).unwrap();
    let cases: serde_json::Value = serde_json::from_str(include_str!("fixtures/shipped_greedy.json")).unwrap();
    let ids = |case: &serde_json::Value, key: &str| -> Vec<u32> {
        case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 4);
    for case in cases {
        let (prompt, tokens, text) = greedy(&mut engine, case["prompt"].as_str().unwrap(), 48);
        assert_eq!(prompt, ids(case, "prompt_ids"));
        assert_eq!(tokens, ids(case, "ids"), "{}", case["prompt"]);
        assert_eq!(text, case["text"].as_str().unwrap());
    }
}

#[test]
fn a_trained_model_continues_as_with_llama_cpp() {
    let Some(folder) = crate::reference::models() else { return };
    let mut engine = crate::reference::open(&folder.join("stories260K.gguf"), options());
    let (_, _, text) = greedy(&mut engine, "Once upon a time", 48);
    let expected = ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball.";
    assert!(text.starts_with(expected), "{text:?}");
}

#[test]
fn a_feed_that_fails_in_a_later_step_leaves_the_sequence_as_it_was() {
    let small = EngineOptions { context: Tokens(48), step: Tokens(16), ..options() };
    let mut engine = engine("llama-tiny", DType::Q8_0, small);
    let (a, b) = (engine.start(), engine.start());
    engine.feed(a, &[1, 2, 3]).unwrap();
    let bad: Vec<u32> = [vec![4; 20], vec![1 << 30]].concat();
    for all in [false, true] {
        let failed = if all { engine.feed_all(a, &bad, |_, _| {}) } else { engine.feed(a, &bad).map(|_| ()) };
        assert!(failed.unwrap_err().to_string().contains("token id 1073741824"));
        assert_eq!(engine.length(a).unwrap(), Tokens(3));
    }
    // One page is a's, two are left: three steps of a page do not fit, though no sequence is longer than the cache.
    assert!(engine.feed(b, &[5; 48]).unwrap_err().to_string().contains("page"));
    assert_eq!(engine.length(b).unwrap(), Tokens(0));
    let fresh = engine.feed(b, &[5; 32]).unwrap().to_vec();
    engine.end(b).unwrap();
    let again = engine.start();
    assert!(bits(engine.feed(again, &[5; 32]).unwrap()) == bits(&fresh));
    engine.feed(a, &[4]).unwrap();
}

#[test]
fn a_prompt_stops_between_its_steps_and_goes_on_later() {
    let mut engine = engine("llama-tiny", DType::Q8_0, EngineOptions { step: Tokens(16), ..options() });
    let prompt: Vec<TokenId> = ids(40, engine.logits_width()).into_iter().map(TokenId).collect();
    let run = |engine: &mut Engine, sequence, prompt: &[TokenId], calls: usize| {
        let mut sampler = Sampler::new(SampleOptions { temperature: 0.0, ..SampleOptions::default() }).unwrap();
        let request =
            Generate { sequence, prompt, most: Some(4), sampler: &mut sampler, ignore_end: true, shift: None };
        let mut left = calls;
        engine
            .generate(request, |_| {
                left = left.saturating_sub(1);
                left > 0
            })
            .unwrap()
    };
    let (whole, halves) = (engine.start(), engine.start());
    let expected = run(&mut engine, whole, &prompt, 100);
    assert_eq!((expected.finish, expected.prompt_tokens), (Finish::Length, 40));
    let stopped = run(&mut engine, halves, &prompt, 1);
    assert_eq!((stopped.finish, stopped.prompt_tokens, stopped.tokens.len()), (Finish::Stopped, 16, 0));
    assert_eq!(engine.length(halves).unwrap(), Tokens(16));
    assert_eq!(run(&mut engine, halves, &prompt[16..], 100).tokens, expected.tokens);
}
