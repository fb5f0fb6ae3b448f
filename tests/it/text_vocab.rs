//! From a file's metadata to a tokenizer: what is taken, defaulted, noted, refused.

use loadmaster::gguf::{Gguf, MetaValue, Writer};
use loadmaster::text::{Encode, Note, TextError, TokenId, Tokenizer};
use proptest::prelude::*;

/// A file with these metadata and no tensors.
pub fn gguf(metadata: &[(&str, MetaValue)]) -> Gguf {
    let mut writer = Writer::new();
    for (key, value) in metadata {
        writer.set(key, value.clone()).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |_, _| Ok(())).unwrap();
    Gguf::from_bytes("test.gguf", bytes).unwrap()
}

fn texts(texts: &[&str]) -> MetaValue {
    texts.iter().map(|t| (*t).to_owned()).collect::<Vec<String>>().into()
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|t| t.0).collect()
}

const BOTH: Encode = Encode { add_special: true, parse_special: true };
const PLAIN: Encode = Encode { add_special: false, parse_special: false };

/// unknown 0, bos 1, eos 2, then text.
fn spm(extra: &[(&str, MetaValue)]) -> Gguf {
    let mut metadata: Vec<(&str, MetaValue)> = vec![
        ("tokenizer.ggml.model", "llama".into()),
        (
            "tokenizer.ggml.tokens",
            texts(&["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "ab", "▁ab", "<s", "s", ">", "<"]),
        ),
        (
            "tokenizer.ggml.scores",
            vec![0.0f32, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0, -1.0, -9.0, -9.0, -9.0].into(),
        ),
        ("tokenizer.ggml.token_type", vec![2i32, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1].into()),
    ];
    for (key, value) in extra {
        metadata.retain(|(k, _)| k != key);
        metadata.push((key, value.clone()));
    }
    gguf(&metadata)
}

#[test]
fn spm_defaults_are_bos_and_a_space_in_front() {
    let file = spm(&[]);
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    assert_eq!(ids(&tokenizer.encode("ab", BOTH)), [1, 8]);
    assert_eq!(ids(&tokenizer.encode("", BOTH)), [1]);
    assert_eq!(ids(&tokenizer.encode("", PLAIN)), [] as [u32; 0]);
    assert_eq!(ids(&tokenizer.encode("aA", PLAIN)), [4, 5, 3]);
    assert_eq!(ids(&tokenizer.encode("z", PLAIN)), [4, 0], "no byte token for z");
    assert_eq!(tokenizer.decode(&[TokenId(1), TokenId(8), TokenId(8), TokenId(3)]), "ab abA");
    assert_eq!((tokenizer.special_ids().bos, tokenizer.special_ids().eos), (Some(TokenId(1)), Some(TokenId(2))));
    assert!(tokenizer.is_end_of_generation(TokenId(2)) && !tokenizer.is_end_of_generation(TokenId(8)));
    assert_eq!(
        (tokenizer.vocab_len(), tokenizer.piece(TokenId(99)), tokenizer.piece(TokenId(8))),
        (13, &b""[..], &b" ab"[..])
    );
    assert!(tokenizer.notes().is_empty());
}

#[test]
fn written_marks_are_text_unless_asked_for() {
    let file = spm(&[]);
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    assert_eq!(ids(&tokenizer.encode("<s>ab", PLAIN)), [4, 9, 11, 7], "merges never make a control token");
    assert_eq!(ids(&tokenizer.encode("<s>ab</s>ab", Encode { add_special: false, parse_special: true })), [1, 8, 2, 8]);
    assert_eq!(ids(&tokenizer.encode("<0x41>", PLAIN)).last(), Some(&11), "nor a byte token");
}

#[test]
fn flags_of_the_file_are_obeyed() {
    let file = spm(&[
        ("tokenizer.ggml.add_bos_token", false.into()),
        ("tokenizer.ggml.add_eos_token", true.into()),
        ("tokenizer.ggml.add_space_prefix", false.into()),
        ("tokenizer.ggml.eos_token_id", 6u32.into()),
        ("tokenizer.ggml.eot_token_id", 5u32.into()),
    ]);
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    assert_eq!(ids(&tokenizer.encode("ab", BOTH)), [7, 6]);
    assert!([5, 6].iter().all(|t| tokenizer.is_end_of_generation(TokenId(*t))));
    assert!(!tokenizer.adds_bos());
}

/// Gemma's kind of vocabulary: marks of turns, runs of lines and spaces as user-defined tokens, all bytes, pieces.
fn gemma() -> Gguf {
    let marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<start_of_turn>", "<end_of_turn>"];
    let runs = ["\n", "\n\n", "  ", "   ", "<table>"];
    let bytes = (0..=255).map(|b| format!("<0x{b:02X}>"));
    let pieces = "us er user ▁u ▁user mod el model He ll Hell llo Hello ▁ a e h l o r s u H m d".split(' ');
    let tokens: Vec<String> = marks.iter().chain(&runs).map(|t| (*t).to_owned()).chain(bytes).collect();
    let tokens: Vec<String> = tokens.into_iter().chain(pieces.chain(["    ", "é"]).map(str::to_owned)).collect();
    let kind = |(i, token): (usize, &String)| match i {
        5 | 8..13 => 4i32,
        0..8 => 3,
        13..269 => 6,
        _ => {
            if token == "    " {
                4
            } else {
                1
            }
        }
    };
    let kinds: Vec<i32> = tokens.iter().enumerate().map(kind).collect();
    let score = |(i, &kind): (usize, &i32)| if kind == 1 { 269.0 - i as f32 } else { -1000.0 };
    let scores: Vec<f32> = kinds.iter().enumerate().map(score).collect();
    gguf(&[
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.pre", "default".into()),
        ("tokenizer.ggml.tokens", tokens.into()),
        ("tokenizer.ggml.scores", scores.into()),
        ("tokenizer.ggml.token_type", kinds.into()),
        ("tokenizer.ggml.bos_token_id", 2u32.into()),
        ("tokenizer.ggml.eos_token_id", 1u32.into()),
        ("tokenizer.ggml.unknown_token_id", 3u32.into()),
        ("tokenizer.ggml.padding_token_id", 0u32.into()),
        ("tokenizer.ggml.add_bos_token", true.into()),
        ("tokenizer.ggml.add_eos_token", false.into()),
        ("tokenizer.ggml.add_space_prefix", false.into()),
    ])
}

/// The ids are those that llama.cpp gives for this vocabulary.
#[test]
fn vocabularies_like_gemmas_read_as_in_llama_cpp() {
    let file = gemma();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    let turns = "<start_of_turn>user\nHello  user<end_of_turn>\n<start_of_turn>model\n";
    let cases: [(&str, bool, &[u32]); 9] = [
        ("Hello user", false, &[291, 275, 286, 287, 273]),
        (" Hello", true, &[2, 282, 291, 275, 286, 287]),
        (turns, true, &[2, 6, 271, 8, 291, 275, 286, 287, 10, 271, 7, 8, 6, 292, 287, 293, 275, 8]),
        ("<end_of_turn>", false, &[73, 284, 123, 293, 108, 287, 115, 108, 129, 290, 288, 123, 75]),
        ("a\n\n\nb   c    d     é", false, &[283, 9, 8, 111, 11, 112, 294, 293, 294, 282, 295]),
        ("<table>[multimodal]z", false, &[12, 5, 135]),
        ("日", true, &[2, 243, 164, 178]),
        ("<mask> <unk>", false, &[73, 292, 283, 289, 120, 75, 282, 73, 290, 123, 120, 75]),
        ("<mask> <unk>", true, &[2, 4, 282, 3]),
    ];
    for (text, special, expected) in cases {
        let found = tokenizer.encode(text, if special { BOTH } else { PLAIN });
        assert_eq!(ids(&found), expected, "{text:?}");
        if !special {
            assert_eq!(tokenizer.decode(&found), text);
        }
    }
    assert!(tokenizer.notes().is_empty(), "{:?}", tokenizer.notes());
    let ends = (0..296).map(TokenId).filter(|&token| tokenizer.is_end_of_generation(token));
    assert!(ends.eq([TokenId(1), TokenId(7)]));
}

#[test]
fn phi_3_drops_space_after_marks() {
    let spoken = |name: &str| {
        let file = spm(&[("general.name", name.into()), ("tokenizer.ggml.add_space_prefix", false.into())]);
        ids(&Tokenizer::from_metadata(file.metadata()).unwrap().encode("</s> \n ab<s> ab", BOTH))
    };
    assert_eq!(spoken("Phi-3-mini"), [1, 2, 7, 1, 8]);
    assert_eq!(spoken("Llama"), [1, 2, 4, 0, 8, 1, 8]);
}

#[test]
fn odd_files_are_noted_and_still_work() {
    let file = gguf(&[
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.pre", "of-tomorrow".into()),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "", "<|im_end|>", "Ġ"])),
        ("tokenizer.ggml.token_type", vec![1i32, 1, 1, 3, 3, 1].into()),
        ("tokenizer.ggml.merges", texts(&["a b", "ab c", "nonsense", "a  b", ""])),
        ("tokenizer.ggml.bos_token_id", 77u32.into()),
        ("tokenizer.ggml.eos_token_id", u32::MAX.into()),
    ]);
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    assert_eq!(ids(&tokenizer.encode("ab ba?<|im_end|>", BOTH)), [2, 5, 1, 0, 4], "what has no token is left out");
    assert_eq!(tokenizer.special_ids().eot, Some(TokenId(4)));
    assert!(tokenizer.is_end_of_generation(TokenId(4)));
    let expected = [
        Note::PreTokenizer { found: Some("of-tomorrow".into()) },
        Note::SpecialId { key: "tokenizer.ggml.bos_token_id", found: 77, tokens: 6 },
        Note::Bytes { missing: 240 },
        Note::Merges { ignored: 4, first: "ab c".into() },
    ];
    assert_eq!(tokenizer.notes(), expected);
}

#[test]
fn ends_are_known_by_name_where_the_file_does_not_say() {
    let ends = |tokens: &[&str], kinds: Vec<i32>| {
        let file = gguf(&[
            ("tokenizer.ggml.model", "gpt2".into()),
            ("tokenizer.ggml.pre", "qwen2".into()),
            ("tokenizer.ggml.tokens", texts(tokens)),
            ("tokenizer.ggml.token_type", kinds.into()),
        ]);
        let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
        let all = (0..tokens.len() as u32).map(TokenId);
        let written: Vec<bool> = tokens.iter().map(|t| tokenizer.encode(t, BOTH).len() == 1).collect();
        (ids(&all.filter(|t| tokenizer.is_end_of_generation(*t)).collect::<Vec<_>>()), written)
    };
    let chat = ["a", "<|im_end|>", "</s>", "<|endoftext|>", "<end_of_turn>"];
    assert_eq!(ends(&chat, vec![1, 3, 3, 3, 3]), (vec![1, 2, 3, 4], vec![true; 5]));
    // Written as normal text, `<|...|>` is a mark all the same, `</s>` is HTML.
    let written = vec![true, true, false, true, false];
    assert_eq!(ends(&chat, vec![1, 1, 1, 1, 1]), (vec![1, 3], written));
    assert_eq!(ends(&["<|end|>", "<|return|>", "<|call|>"], vec![3, 3, 3]).0, [1, 2]);
    assert_eq!(ends(&["<|end|>", "<|return|>"], vec![3, 3]).0, [0, 1]);
}

#[test]
fn files_without_a_usable_tokenizer_are_told_apart() {
    let found = |metadata: &[(&str, MetaValue)]| match Tokenizer::from_metadata(gguf(metadata).metadata()) {
        Err(TextError::NoTokenizer { found }) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&[]), "no tokenizer.ggml.model");
    assert_eq!(found(&[("tokenizer.ggml.model", "bert".into())]), "tokenizer.ggml.model \"bert\"");
    assert_eq!(found(&[("tokenizer.ggml.model", "gpt2".into())]), "no tokens");
}

#[test]
fn broken_vocabularies_are_refused_by_name() {
    let refused = |key: &str, value: MetaValue| {
        let file = spm(&[(key, value)]);
        Tokenizer::from_metadata(file.metadata()).unwrap_err().to_string()
    };
    let cases = [
        refused("tokenizer.ggml.scores", vec![0.0f32, 1.0].into()),
        refused("tokenizer.ggml.token_type", vec![1i32; 14].into()),
        refused("tokenizer.ggml.token_type", vec![7i32; 13].into()),
        refused("tokenizer.ggml.tokens", vec![1i32; 13].into()),
        refused("tokenizer.ggml.model", 3u32.into()),
        refused("tokenizer.ggml.add_bos_token", "yes".into()),
    ];
    let wanted = [
        "tokenizer.ggml.scores has 2 entries, needed 13, one a token",
        "tokenizer.ggml.token_type has 14 entries, needed 13, one a token",
        "tokenizer.ggml.token_type[0] is 7, needed 0 to 6",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.model",
        "tokenizer.ggml.add_bos_token",
    ];
    for (case, wanted) in cases.iter().zip(wanted) {
        assert!(case.contains(wanted), "{case}");
    }
}

#[test]
fn too_much_text_of_special_tokens_is_refused() {
    let tokens: Vec<String> = (0..20_000).map(|i| format!("<{i:060}>")).collect();
    let file = gguf(&[
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.tokens", tokens.into()),
        ("tokenizer.ggml.token_type", vec![4i32; 20_000].into()),
    ]);
    let refused = Tokenizer::from_metadata(file.metadata()).unwrap_err().to_string();
    assert!(refused.contains("20000 special tokens of 1240000 bytes"), "{refused}");
}

/// Metadata of a vocabulary that no one would train.
fn nonsense() -> impl Strategy<Value = Vec<(&'static str, MetaValue)>> {
    let token =
        prop_oneof!["[ab ▁Ġ<>|0x4é]{0,4}", Just("<|end|>".to_owned()), Just("<0x41>".to_owned()), any::<String>()];
    let tokens = prop::collection::vec(token, 1..40);
    let rest = (any::<u64>(), prop_oneof![Just("llama"), Just("gpt2")], 0usize..8, 0u32..60, any::<bool>());
    (tokens, rest).prop_map(|(tokens, (noise, model, pre, id, flag))| {
        let n = tokens.len();
        let bits = |i: usize| (noise.rotate_left(i as u32 * 7) >> 3) as usize;
        let scores: Vec<f32> = (0..n).map(|i| [0.0, -1.0, f32::NAN, f32::INFINITY, -3.5][bits(i) % 5]).collect();
        let kinds: Vec<i32> = (0..n).map(|i| [1, 1, 1, 4, 3, 6, 2, 5, 0][bits(i) % 9]).collect();
        let merges: Vec<String> =
            (0..n).map(|i| format!("{} {}", tokens[bits(i) % n], tokens[bits(i + 9) % n])).collect();
        let pre = ["llama-bpe", "qwen2", "gpt-2", "deepseek-llm", "tekken", "deepseek-v3", "falcon", "?"][pre];
        vec![
            ("tokenizer.ggml.model", model.into()),
            ("tokenizer.ggml.pre", pre.into()),
            ("tokenizer.ggml.tokens", tokens.into()),
            ("tokenizer.ggml.scores", scores.into()),
            ("tokenizer.ggml.token_type", kinds.into()),
            ("tokenizer.ggml.merges", merges.into()),
            ("tokenizer.ggml.bos_token_id", id.into()),
            ("tokenizer.ggml.add_bos_token", flag.into()),
            ("tokenizer.ggml.add_eos_token", flag.into()),
            ("tokenizer.ggml.add_space_prefix", flag.into()),
            ("general.name", if flag { "phi-3" } else { "x" }.into()),
        ]
    })
}

proptest! {
    #[test]
    fn nonsense_vocabularies_give_tokens_of_their_own(metadata in nonsense(), text in "[ab <>|end▁é\\n]{0,30}", any: String) {
        let file = gguf(&metadata);
        let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
        for text in [&text, &any] {
            for parse_special in [false, true] {
                let tokens = tokenizer.encode(text, Encode { add_special: true, parse_special });
                prop_assert!(tokens.iter().all(|t| t.index() < tokenizer.vocab_len()));
                prop_assert!(tokens.len() <= 4 * text.len() + 6);
                tokenizer.decode(&tokens);
            }
        }
    }
}
