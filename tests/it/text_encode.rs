//! Encodings against reference tokenizers (`tests/scripts/tokenizer_fixtures.py`), round trips, and work on hostile text.

use std::path::Path;
use std::time::{Duration, Instant};

use loadmaster::gguf::Gguf;
use loadmaster::text::{Algorithm, Encode, PreTokenizer, SpecialIds, TokenId, TokenKind, Tokenizer, Vocab};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const PARSED: Encode = Encode { add_special: false, parse_special: true };

/// A vocabulary of byte-level BPE, texts, and the ids of each text by pre-tokenizer.
#[derive(Deserialize)]
struct BpeFixture {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    merges: Vec<String>,
    texts: Vec<String>,
    ids: BTreeMap<String, Ids>,
}

#[derive(Deserialize)]
struct Ids {
    plain: Vec<Vec<u32>>,
    parsed: Vec<Vec<u32>>,
}

/// A vocabulary of SPM, texts, and the ids of each text, `None` where the reference cannot take it.
#[derive(Deserialize)]
struct SpmFixture {
    tokens: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<i32>,
    texts: Vec<String>,
    with_space: Vec<Option<Vec<u32>>>,
    without_space: Vec<Option<Vec<u32>>>,
}

fn bpe_fixture() -> BpeFixture {
    serde_json::from_str(include_str!("fixtures/bpe.json")).unwrap()
}

fn spm_fixture() -> SpmFixture {
    serde_json::from_str(include_str!("fixtures/spm.json")).unwrap()
}

fn vocab<'a>(algorithm: Algorithm, tokens: &'a [String], kinds: &[i32]) -> Vocab<'a> {
    Vocab {
        algorithm,
        tokens: tokens.iter().map(String::as_str).collect(),
        scores: Vec::new(),
        kinds: kinds.iter().map(|n| TokenKind::from_number(*n).unwrap()).collect(),
        merges: Vec::new(),
        special: SpecialIds::default(),
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
        whole_words: false,
        strip_after_special: false,
        notes: Vec::new(),
    }
}

fn bpe(fixture: &BpeFixture, pre: &str) -> Tokenizer {
    let algorithm = Algorithm::Bpe(PreTokenizer::from_name(pre).unwrap());
    let merges = fixture.merges.iter().map(String::as_str).collect();
    let whole_words = ["llama-bpe", "tekken"].contains(&pre);
    let vocab = Vocab { merges, whole_words, ..vocab(algorithm, &fixture.tokens, &fixture.kinds) };
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert!(tokenizer.notes().is_empty(), "{:?}", tokenizer.notes());
    tokenizer
}

fn spm(fixture: &SpmFixture, add_space_prefix: bool) -> Tokenizer {
    let plain = vocab(Algorithm::Spm, &fixture.tokens, &fixture.kinds);
    let special = SpecialIds { unknown: Some(TokenId(0)), ..SpecialIds::default() };
    Tokenizer::new(&Vocab { scores: fixture.scores.clone(), add_space_prefix, special, ..plain }).unwrap()
}

/// Checks that `tokenizer` encodes each text to its ids; gives how many it checked.
fn check(name: &str, tokenizer: &Tokenizer, how: Encode, texts: &[String], ids: &[Option<Vec<u32>>]) -> usize {
    assert_eq!(texts.len(), ids.len());
    let known = texts.iter().zip(ids).filter_map(|(text, ids)| Some((text, ids.as_ref()?)));
    let wrong: Vec<String> = known
        .clone()
        .map(|(text, ids)| (text, ids, tokenizer.encode(text, how)))
        .filter(|(_, ids, found)| !found.iter().map(|t| t.0).eq(ids.iter().copied()))
        .map(|(text, ids, found)| {
            let pieces = |ids: &mut dyn Iterator<Item = TokenId>| {
                ids.map(|t| String::from_utf8_lossy(tokenizer.piece(t)).into_owned()).collect::<Vec<_>>()
            };
            let wanted = pieces(&mut ids.iter().map(|t| TokenId(*t)));
            format!("{name} {text:?}\n wanted {wanted:?}\n found  {:?}", pieces(&mut found.into_iter()))
        })
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    known.count()
}

#[test]
fn bpe_encodes_as_hugging_face_does() {
    let fixture = bpe_fixture();
    assert_eq!(fixture.ids.len(), 10);
    for (pre, ids) in &fixture.ids {
        let tokenizer = bpe(&fixture, pre);
        let plain: Vec<_> = ids.plain.iter().cloned().map(Some).collect();
        let parsed: Vec<_> = ids.parsed.iter().cloned().map(Some).collect();
        assert!(check(pre, &tokenizer, PLAIN, &fixture.texts, &plain) > 50);
        assert!(check(pre, &tokenizer, PARSED, &fixture.texts, &parsed) > 50);
    }
}

#[test]
fn spm_encodes_as_sentencepiece_does() {
    let fixture = spm_fixture();
    assert!(check("with space", &spm(&fixture, true), PLAIN, &fixture.texts, &fixture.with_space) > 50);
    assert!(check("without space", &spm(&fixture, false), PLAIN, &fixture.texts, &fixture.without_space) > 50);
}

/// A text and its ids in llama.cpp's `llama-tokenize --no-bos`, without and with `--no-parse-special`.
#[derive(Deserialize)]
struct Stories {
    text: String,
    parsed: Vec<u32>,
    plain: Vec<u32>,
}

#[test]
fn stories_vocabulary_encodes_as_in_llama_cpp() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models/stories260K.gguf");
    if !path.exists() {
        eprintln!("skipped: there is no {}", path.display());
        return;
    }
    let file = Gguf::open(&path).unwrap();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    let cases: Vec<Stories> = serde_json::from_str(include_str!("fixtures/stories260k_tokens.json")).unwrap();
    let texts: Vec<String> = cases.iter().map(|c| c.text.clone()).collect();
    let plain: Vec<_> = cases.iter().map(|c| Some(c.plain.clone())).collect();
    let parsed: Vec<_> = cases.iter().map(|c| Some(c.parsed.clone())).collect();
    assert_eq!(check("stories", &tokenizer, PLAIN, &texts, &plain), 20);
    assert_eq!(check("stories", &tokenizer, PARSED, &texts, &parsed), 20);
}

#[test]
fn decoding_gives_the_text_back() {
    let bpe_fixture = bpe_fixture();
    let tokenizers: Vec<Tokenizer> = bpe_fixture.ids.keys().map(|pre| bpe(&bpe_fixture, pre)).collect();
    let spm = spm(&spm_fixture(), true);
    let texts = prop_oneof![any::<String>(), "[ a-cA-C\\n'1-9é中🎉]{0,60}"];
    proptest!(|(text in texts)| {
        for tokenizer in &tokenizers {
            prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(&text, PLAIN)), &text);
        }
        // SPM writes a space as U+2581, so that character itself does not come back.
        let text = text.replace('\u{2581}', " ");
        prop_assert_eq!(&spm.decode(&spm.encode(&text, PLAIN)), &text);
    });
}

/// Texts of about `n` bytes on which a careless tokenizer takes quadratic time.
fn hostile(n: usize) -> Vec<(&'static str, String)> {
    let fill = |part: &str| part.repeat(n.div_ceil(part.len()));
    vec![
        ("one letter", fill("a")),
        ("one capital", fill("A")),
        ("spaces", fill(" ")),
        ("spaces, then a word", fill(" ") + "x"),
        ("newlines", fill("\n")),
        ("spaces and newlines", fill("   \n")),
        ("carriage returns and spaces", fill("\r ")),
        ("digits", fill("1")),
        ("apostrophes", fill("'")),
        ("punctuation", fill("!")),
        ("combining marks", fill("\u{301}")),
        ("ideographs", fill("中")),
        ("emoji", fill("👨\u{200d}")),
        ("half a mark", fill("<|end")),
        ("marks", fill("<|end|><tool>")),
        ("words", fill("the cat sat, ")),
        ("line separators", fill("\u{2028}")),
        ("no-break spaces", fill("\u{a0} ")),
    ]
}

#[test]
fn hostile_text_takes_no_quadratic_time() {
    let (bpe_fixture, spm_fixture) = (bpe_fixture(), spm_fixture());
    let mut tokenizers: Vec<(String, Tokenizer)> =
        bpe_fixture.ids.keys().map(|pre| (pre.clone(), bpe(&bpe_fixture, pre))).collect();
    tokenizers.push(("spm".into(), spm(&spm_fixture, true)));
    for (name, tokenizer) in &tokenizers {
        for (what, text) in hostile(100_000) {
            let start = Instant::now();
            assert!(!tokenizer.encode(&text, PARSED).is_empty());
            // Some 10 ms when idle; a pass over the text for each of its characters would be 1e10 steps.
            assert!(start.elapsed() < Duration::from_secs(2), "{name}, {what}: {:?}", start.elapsed());
        }
    }
}
