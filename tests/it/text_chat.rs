//! Chat templates: the manners of Hugging Face's environment, and ends for templates that want none.

use std::time::{Duration, Instant};

use loadmaster::text::{ChatTemplate, Conversation, Message, TemplateError, TemplateOrigin};

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

/// Template → what Hugging Face's environment (jinja2 3.1) makes of `conversation()`.
const CASES: &[(&str, &str)] = &[
    ("{{ bos_token }}{{ messages | length }}{{ eos_token }}", "<s>4</s>"),
    ("{% for m in messages %}{{ m['role'][0] }}{% endfor %}", "suau"),
    ("{% for m in messages %}\n  {% if loop.first %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n", "system\n"),
    ("{%- for m in messages[1:] -%}\n {{ m.content | trim }}|\n{%- endfor -%}", "Wie geht's? 日本 🎉|Fine,\n\"thanks\" & <b>you</b>|Bye|"),
    ("{{ messages[2] | tojson }}", "{\"role\": \"assistant\", \"content\": \"Fine,\\n\\\"thanks\\\" & <b>you</b>\"}"),
    ("{{ messages[1].content | tojson }}", "\" Wie geht's? 日本 🎉 \""),
    ("{{ '日🎉' | tojson(ensure_ascii=True) }}", "\"\\u65e5\\ud83c\\udf89\""),
    ("{{ {'b': [1, 2.5, none, true], 'a': {}} | tojson }}", "{\"b\": [1, 2.5, null, true], \"a\": {}}"),
    ("{{ {'b': [1], 'a': []} | tojson(indent=2) }}", "{\n  \"b\": [\n    1\n  ],\n  \"a\": []\n}"),
    ("{{ none }} {{ true }} {{ missing }} {{ messages[0].tool_calls }}.", "None True  ."),
    ("{{ tools is none }} {{ missing is defined }}", "True False"),
    ("{{ 'a,b'.split(',')[-1] }} {{ ' x '.strip() }} {{ 'Ab'.lower() }} {{ 'x'.startswith('x') }}", "b x ab True"),
    ("{{ messages[0].get('name', 'nobody') }} {% for k, v in messages[3].items() %}{{ k }}={{ v }};{% endfor %}",
     "nobody role=user;content=Bye;"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role != 'user' %}{% continue %}{% endif %}\
      {% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
    ("{% macro hi(x, y='!') %}{{ x }}{{ y }}{% endmacro %}{{ hi('a') }}{{ hi('b', y='?') }}", "a!b?"),
    ("{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{%- generation -%} x {%- endgeneration -%}{% endfor %}",
     "systemxuserxassistantxuserx"),
    ("{{ messages[::-1][0].content }} {{ messages | map(attribute='role') | join('+') }}", "Bye system+user+assistant+user"),
    ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "2"),
    ("{{ 'yes' if add_generation_prompt else 'no' }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 'ab' * 2 }} {{ 1 ~ 'x' }}", "yes 3 2 abab 1x"),
];

#[test]
fn templates_read_as_in_hugging_face() {
    for (source, wanted) in CASES {
        match render(source) {
            Ok(found) => assert_eq!(found, *wanted, "{source}"),
            Err(e) => panic!("{source}: {e}"),
        }
    }
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
    let slow = "{% for a in range(100000) %}{% set x = 'a' * 99999999 %}{% endfor %}";
    let lists = "{% for a in range(100000) %}{% set x = [1] * 99999999 %}{{ x | length }}{% endfor %}";
    let long = "{% for a in range(1000) %}{{ 'abcdefgh' * 1000000 }}{% endfor %}";
    let hostile = [
        range,
        slow,
        lists,
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
