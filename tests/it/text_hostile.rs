//! Vocabularies and chat templates that want to do harm: a clear error, or something known, in bounded time and memory.

use std::process::Command;

use loadmaster::gguf::{Gguf, MetaValue, Writer};
use loadmaster::text::{ChatTemplate, Conversation, Encode, Message, Note, TokenId, Tokenizer};

use crate::text_vocab::gguf;

const PLAIN: Encode = Encode { add_special: false, parse_special: false };

fn texts(texts: &[&str]) -> MetaValue {
    texts.iter().map(|t| (*t).to_owned()).collect::<Vec<String>>().into()
}

fn vocab(model: &str, extra: &[(&str, MetaValue)]) -> Gguf {
    let mut metadata: Vec<(&str, MetaValue)> = vec![("tokenizer.ggml.model", model.into())];
    metadata.extend_from_slice(extra);
    gguf(&metadata)
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, PLAIN).iter().map(|t| t.0).collect()
}

#[test]
fn a_wrong_array_is_named_with_what_was_needed_and_found() {
    let tokens = || ("tokenizer.ggml.tokens", texts(&["a", "b", "ab"]));
    let scores = || ("tokenizer.ggml.scores", MetaValue::from(vec![0.0f32; 3]));
    let cases: [(&str, (&str, MetaValue), &[&str]); 9] = [
        ("llama", ("tokenizer.ggml.scores", vec![0.0f32; 4].into()), &["scores has 4 entries, needed 3"]),
        ("llama", ("tokenizer.ggml.scores", vec![1i32; 3].into()), &["tokenizer.ggml.scores", "floats", "i32"]),
        ("llama", ("tokenizer.ggml.scores", 1.0f32.into()), &["tokenizer.ggml.scores", "array of floats", "f32"]),
        ("llama", ("tokenizer.ggml.token_type", vec![1i32; 2].into()), &["token_type has 2 entries, needed 3"]),
        ("gpt2", ("tokenizer.ggml.token_type", vec![-1i32; 3].into()), &["token_type[0] is -1, needed 0 to 6"]),
        ("gpt2", ("tokenizer.ggml.token_type", texts(&["x", "y", "z"])), &["tokenizer.ggml.token_type", "integers"]),
        ("gpt2", ("tokenizer.ggml.merges", vec![1i32; 3].into()), &["tokenizer.ggml.merges", "array of text"]),
        ("gpt2", ("tokenizer.ggml.bos_token_id", "first".into()), &["tokenizer.ggml.bos_token_id"]),
        ("gpt2", ("tokenizer.ggml.add_bos_token", 2u32.into()), &["tokenizer.ggml.add_bos_token"]),
    ];
    for (model, (key, value), parts) in cases {
        let mut metadata = vec![tokens(), scores()];
        metadata.retain(|(k, _)| *k != key);
        metadata.push((key, value));
        let refused = Tokenizer::from_metadata(vocab(model, &metadata).metadata()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| refused.contains(part)), "{model} {key}: {refused}");
    }
}

#[test]
fn text_that_is_no_utf_8_is_refused_by_its_place() {
    let mut writer = Writer::new();
    writer.set("tokenizer.ggml.model", MetaValue::from("llama")).unwrap();
    writer.set("tokenizer.ggml.tokens", texts(&["good", "QQQQ"])).unwrap();
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |_, _| Ok(())).unwrap();
    let at = bytes.windows(4).position(|w| w == b"QQQQ").unwrap();
    bytes[at + 1] = 0xff;
    let refused = Gguf::from_bytes("bad.gguf", bytes).err().unwrap().to_string();
    assert!(refused.contains("tokenizer.ggml.tokens") && refused.contains("needs UTF-8"), "{refused}");
}

#[test]
fn empty_and_repeated_tokens_and_scores_that_are_no_numbers_have_a_meaning() {
    let nan = f32::NAN;
    let file = vocab(
        "llama",
        &[
            ("tokenizer.ggml.tokens", texts(&["<unk>", "", "a", "b", "ab", "ab", "ba", "", "▁"])),
            ("tokenizer.ggml.scores", vec![0.0, nan, -1.0, -1.0, -2.0, -3.0, nan, -nan, -9.0].into()),
            ("tokenizer.ggml.token_type", vec![2i32, 1, 1, 1, 1, 1, 1, 3, 1].into()),
            ("tokenizer.ggml.add_space_prefix", false.into()),
            ("tokenizer.ggml.eos_token_id", 4_000_000_000u32.into()),
        ],
    );
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    assert_eq!(ids(&tokenizer, "ab"), [5], "of equal texts the last counts");
    assert_eq!(ids(&tokenizer, "aba"), [2, 6], "NaN is above all numbers");
    assert_eq!((tokenizer.piece(TokenId(1)), tokenizer.piece(TokenId(u32::MAX))), (&b""[..], &b""[..]));
    let note = Note::SpecialId { key: "tokenizer.ggml.eos_token_id", found: 4_000_000_000, tokens: 9 };
    assert_eq!((tokenizer.notes(), tokenizer.special_ids().eos), (&[note][..], None));
}

#[test]
fn a_million_merges_of_nothing_are_one_note() {
    let merges: Vec<String> = (0..1_000_000).map(|i| format!("x{i} y")).chain(["a b".to_owned()]).collect();
    let file = vocab(
        "gpt2",
        &[
            ("tokenizer.ggml.pre", "gpt-2".into()),
            ("tokenizer.ggml.tokens", texts(&["a", "b", "ab"])),
            ("tokenizer.ggml.scores", vec![f32::NAN; 1].into()),
            ("tokenizer.ggml.merges", merges.into()),
        ],
    );
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    assert_eq!(ids(&tokenizer, &"ab".repeat(100_000)), vec![2; 100_000], "scores are SPM's alone");
    assert!(tokenizer.notes().contains(&Note::Merges { ignored: 1_000_000, first: "x0 y".into() }));
}

/// Templates that build without end, by each way in which values grow. `X` stands for a million bytes.
fn bombs() -> Vec<String> {
    let doubling = |step: &str| {
        format!(
            "{{% set n = namespace(x='ab', l=['ab']) %}}{{% for i in range(60) %}}{step}{{% endfor %}}{{{{ n.l }}}}"
        )
    };
    let mut bombs: Vec<String> = [
        "{% set n.x = n.x ~ n.x %}",
        "{% set n.x = n.x + n.x %}",
        "{% set n.x = n.x * 2 %}",
        "{% set n.x = [n.x, n.x] | join %}",
        "{% set n.x = n.x.join([n.x, n.x]) %}",
        "{% set n.x = n.x.replace('a', n.x) %}",
        "{% set n.x = n.x | replace('', n.x) %}",
        "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}",
        "{% set n.x = ('{0}' * 99).format(n.x) %}",
        "{% set n.x = (n.x ~ '\\n') | indent(1000, true) * 2 %}",
        "{% set n.l = n.l + n.l %}",
        "{% set n.l = n.l * 2 %}",
        "{% set n.l = [n.l, n.l] %}",
        "{% set n.x = [n.x, n.x] | tojson %}",
        "{% set n.x = [n.x, n.x] | string %}",
        "{% set n.l = (n.l * 1000) | map('upper') | list %}",
    ]
    .map(doubling)
    .into();
    bombs.extend([
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('abcdefgh') }}".to_owned(),
        format!("{{{{ [{}] | length }}}}", vec!["'a' * 99999999"; 50].join(",")),
        format!("{{% set x = 'abcdefgh' %}}{}", "{% set x = x ~ x %}".repeat(60)),
        format!("{{% set y %}}{{% for i in range(20000) %}}{}{{% endfor %}}{{% endset %}}", "r".repeat(100_000)),
    ]);
    let million = [
        "{{ ([X] * 9000) is startingwith('b') }}",
        "{{ ([X] * 9000) in 'abc' }}",
        "{{ ([X] * 9000) | sum(start='') | length }}",
        "{{ ([1] * 9000) | join(d=X) | length }}",
        "{{ [1] | default(*(range(100000) | list * 1000)) }}",
        "{% set a, b = range(100000) | list * 1000 %}",
        "{% set n = namespace(l=[]) %}{% for i in range(9000) %}{% set n.l = n.l + [X[i:]] %}{% endfor %}",
        "{% filter upper %}{% for i in range(9000) %}{{ X }}{% endfor %}{% endfilter %}",
    ];
    bombs.extend(million.map(|t| t.replace('X', "('a' * 1000000)")));
    bombs
}

fn rendered(source: &str) -> Result<String, String> {
    let messages = [Message::new("user", "Hi"), Message::new("assistant", "Ho")];
    let given = Conversation { messages: &messages, add_generation_prompt: true, bos: "<s>", eos: "</s>" };
    let template = ChatTemplate::new(source).map_err(|e| e.to_string())?;
    template.render(&given).map_err(|e| e.to_string())
}

/// The most memory that this process ever had, in KiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

const CHILD: &str = "TEMPLATE_BOMBS";

#[test]
fn templates_that_grow_without_end_end_in_bounded_memory() {
    let Some(before) = peak() else {
        eprintln!("skipped: the system does not tell a process's peak memory");
        return;
    };
    if std::env::var_os(CHILD).is_none() {
        let name = "text_hostile::templates_that_grow_without_end_end_in_bounded_memory";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ran = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && said.contains("peak grew"), "{said}");
        return;
    }
    for source in bombs() {
        let head: String = source.chars().take(120).collect();
        let refused = rendered(&source).map(|text| text.len()).expect_err(&head);
        assert!(refused.contains("bytes of values") || refused.contains("deep in one another"), "{head}: {refused}");
        let grew = (peak().unwrap() - before) / 1024;
        assert!(grew < 320, "{head}: the peak grew by {grew} MiB");
    }
    println!("peak grew by {} MiB", (peak().unwrap() - before) / 1024);
}

#[test]
fn a_value_that_holds_itself_is_refused() {
    for shown in
        ["{{ n }}", "{{ n | tojson }}", "{{ n ~ 'x' }}", "{{ [n] | join }}", "{{ n in 'x' }}", "{% set y = [n] %}"]
    {
        let refused = rendered(&format!("{{% set n = namespace() %}}{{% set n.x = n %}}{shown}")).unwrap_err();
        assert!(refused.contains("deep in one another"), "{shown}: {refused}");
    }
    let nested = "{% set n = namespace(x=[]) %}{% for i in range(9000) %}{% set n.x = [n.x] %}{% endfor %}";
    assert!(rendered(nested).unwrap_err().contains("more than 64 deep"));
    for format in ["'{:9999}'.format(1)", "'{:{}}'.format(1, 9)", "'{:{0}}'.format(9)"] {
        let refused = rendered(&format!("{{{{ {format} }}}}")).unwrap_err();
        assert!(refused.contains("widths up to 999"), "{format}: {refused}");
    }
    for odd in ["{%}", "{%%}", "{%-%}", "{% é %}", "{%", "a{%}b%}"] {
        assert!(rendered(odd).is_err(), "{odd}");
    }
    assert!(rendered(&"x".repeat(200_000)).unwrap_err().contains("200000 bytes, needed at most"));
}

#[test]
fn operators_behind_a_question_give_what_they_gave() {
    let cases = [
        ("{{ 'a' ~ 1 ~ 'b' }}{{ 'x' + 'y' }}{{ 7 - 2 + 1 }}{{ 2 * 3 * 4 }}{{ 2 ** 3 }}{{ 7 // 2 * 2 }}", "a1bxy624 86"),
        ("{{ '=' * 3 }}{{ 2 * 'ab' }}{{ ([1, 2] * 2) | length }}{{ (1, 2) + (3,) }}", "===abab4(1, 2, 3)"),
        (
            "{% set a, b = [1, 'z'] %}{{ a }}{{ b }}{{ 'abcdef'[1:4] }}{{ 'abcdef'[::-2] }}{{ [1, 2, 3][1:] }}",
            "1zbcdfdb[2, 3]",
        ),
        (
            "{{ 'a' in 'cat' }}{{ 'x' not in ['y'] }}{{ 1 in {1: 2} }}{{ 1 < 2 < 3 }}{{ 1 < 2 in [2] }}",
            "TrueTrueTrueTrueTrue",
        ),
        ("{% macro m(a, b='-') %}{{ a ~ b }}{% endmacro %}{{ m(1) }}{{ m(*[2, 3]) }}{{ m(4, b=5) }}", "1-2345"),
        (
            "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v * 2 }}{% else %}x{% endfor %}{% for x in [] %}{% else %}y{% endfor %}",
            "a2y",
        ),
        (
            "{% set n = namespace(s='') %}{% for i in range(3) if i != 1 %}{% if i %}b{% elif true %}a{% endif %}{% set n.s = n.s + '*' %}{% endfor %}{{ n.s }}",
            "ab**",
        ),
        ("{{ '{}-{:>4}{{}}2026'.format('a', 7) }}", "a-   7{}2026"),
    ];
    for (source, expected) in &cases {
        let found = rendered(source);
        let (found, expected) = (found.as_deref().map(|t| t.replace(' ', "")), expected.replace(' ', ""));
        assert_eq!(found, Ok(expected), "{source}");
    }
}

#[test]
fn a_long_conversation_that_a_template_gathers_up_stays_within_its_budget() {
    let messages: Vec<Message> = (0..1000).map(|i| Message::new("user", format!("{i} </think> Hello"))).collect();
    let gathered = "{% set n = namespace(text='', list=[]) %}{% for m in messages %}\
                    {% set n.text = n.text ~ m.content.split('</think>')[-1] | trim %}{% set n.list = n.list + [m] %}\
                    {% endfor %}{{ n.text }}{{ n.list | length }}";
    let given = Conversation { messages: &messages, add_generation_prompt: true, bos: "", eos: "" };
    let text = ChatTemplate::new(gathered).unwrap().render(&given).unwrap();
    assert_eq!(text, "Hello".repeat(1000) + "1000");
}
