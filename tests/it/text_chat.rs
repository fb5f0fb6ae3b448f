//! Chat templates: the manners of Hugging Face's environment, and ends for templates that want none.

use std::time::{Duration, Instant};

use loadmaster::text::{ChatTemplate, Conversation, Message, TemplateError, TemplateOrigin};
use serde::Deserialize;

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", " Wie geht's? 日本 🎉 "),
        Message::new("assistant", "Fine,\n\"thanks\" & <b>you</b>"),
        Message::new("user", "Bye"),
    ]
}

fn render(source: &str) -> Result<String, TemplateError> {
    let messages = conversation();
    let template = ChatTemplate::new(source)?;
    template.render(&Conversation { messages: &messages, add_generation_prompt: true, bos: "<s>", eos: "</s>" })
}

/// Templates and what jinja2 makes of each conversation (`tests/scripts/chat_fixtures.py`), `None` where it fails.
#[derive(Deserialize)]
struct Fixture {
    conversations: Vec<Vec<Message>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    texts: Vec<Option<String>>,
}

/// Renders every case with every conversation; gives what differs and how many are right.
fn check(fixture: &Fixture) -> (Vec<String>, usize) {
    let (mut wrong, mut right) = (Vec::new(), 0);
    for Case { name, source, texts } in &fixture.cases {
        let name = if name.is_empty() { source } else { name };
        let template = ChatTemplate::new(source);
        for (i, (messages, text)) in fixture.conversations.iter().zip(texts).enumerate() {
            let given = Conversation { messages, add_generation_prompt: i != 2, bos: "<s>", eos: "</s>" };
            let found = template.as_ref().map_err(ToString::to_string);
            match (found.and_then(|t| t.render(&given).map_err(|e| e.to_string())), text) {
                (Ok(found), Some(wanted)) if found == *wanted => right += 1,
                (Err(_), None) => right += 1,
                (found, wanted) => wrong.push(format!("{name}, {i}:\n wanted {wanted:?}\n found {found:?}")),
            }
        }
    }
    (wrong, right)
}

#[test]
fn templates_read_as_in_hugging_face() {
    let fixture = serde_json::from_str(include_str!("fixtures/chat.json")).unwrap();
    let (wrong, right) = check(&fixture);
    assert!(wrong.is_empty(), "{} wrong, {right} right:\n{}", wrong.len(), wrong.join("\n"));
    assert!(right > 70, "{right}");
}

#[test]
fn real_templates_read_as_in_hugging_face() {
    let Some(path) = std::env::var_os("CHAT_TEMPLATE_CASES") else {
        eprintln!("skipped: CHAT_TEMPLATE_CASES names no file that tests/scripts/chat_fixtures.py made");
        return;
    };
    let fixture = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (wrong, right) = check(&fixture);
    eprintln!("{right} right, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dates_are_dates() {
    let date = render("{{ strftime_now('%Y-%m-%d|%d %b %Y|%B') }}").unwrap();
    let parts: Vec<&str> = date.split('|').collect();
    assert_eq!((parts.len(), parts[0].len(), parts[1].len()), (3, 10, 11), "{date}");
    assert!(parts[0].starts_with("20") && parts[1].ends_with(&parts[0][..4]), "{date}");
    assert!(matches!(render("{{ strftime_now('%') }}"), Err(TemplateError::Render { .. })));
}

#[test]
fn a_refusal_says_what_the_template_says() {
    let refused = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(matches!(refused, TemplateError::Render { .. }));
    assert!(refused.to_string().contains("roles must alternate"), "{refused}");
    let broken = ChatTemplate::new("{% for %}").unwrap_err();
    assert!(matches!(broken, TemplateError::Syntax { .. }), "{broken}");
}

#[test]
fn hostile_templates_end_in_an_error() {
    let nested = format!("{}1{}", "{{ (".to_owned() + &"(".repeat(5000), ")".repeat(5001) + " }}");
    let blocks = "{% if 1 %}".repeat(5000) + &"{% endif %}".repeat(5000);
    let range = "{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}";
    // Few instructions, each of them slow.
    let slow = "{% for a in range(12) %}{% set x = ('ab' * 49999999) | replace('ab', 'ba') %}{% endfor %}";
    let long = "{% for a in range(1000) %}{{ 'abcdefgh' * 1000000 }}{% endfor %}";
    let hostile = [
        range,
        slow,
        long,
        nested.as_str(),
        blocks.as_str(),
        "{% for a in range(10000000000) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include 'chat_template' %}",
        "{% extends 'chat_template' %}",
        "{% import '/etc/passwd' as p %}",
        "{{ 'x' | indent(100000000000000000) }}",
        "{{ 'x' | indent(width=100000000000000000) }}",
        "{{ 'x' | tojson(indent=100000000000000000) }}",
        "{{ 'x' | slice(1000000000000) }}",
        "{{ 'x' * 100000000000 }}",
        "{{ strftime_now('%100000000000Y') }}",
        "{{ 1 // 0 }}",
        "{{ messages[9].content.x }}",
    ];
    for source in hostile {
        let start = Instant::now();
        let result = render(source);
        let head: String = source.chars().take(80).collect();
        assert!(result.is_err(), "{head}: {:.80}", result.unwrap());
        assert!(start.elapsed() < Duration::from_secs(8), "{head}: {:?}", start.elapsed());
    }
}

#[test]
fn a_file_without_a_template_gets_chatml() {
    let none = crate::text_vocab::gguf(&[]);
    let template = ChatTemplate::from_metadata(none.metadata()).unwrap();
    assert_eq!(template.origin(), TemplateOrigin::Fallback);
    let messages = [Message::new("user", "Hi")];
    let text = template.render(&Conversation { messages: &messages, add_generation_prompt: true, bos: "", eos: "" });
    assert_eq!(text.unwrap(), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}
