"""Renders chat templates with jinja2, set up as Hugging Face's `apply_chat_template` sets it up.

Needs `pip install jinja2`; run it from the repository's root. Writes tests/it/fixtures/chat.json. With a folder of
`*.jinja` files (say, models/templates of a llama.cpp source tree) and the name of an output, it renders those instead;
the test reads that output where CHAT_TEMPLATE_CASES names it.
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONVERSATIONS = [
    [("system", "Be brief."), ("user", " Wie geht's? 日本 🎉 "), ("assistant", 'Fine,\n"thanks" & <b>you</b>'), ("user", "Bye")],
    [("user", "Hi")],
    [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "{{ 5 }} {% raw %}")],
]

SOURCES = [
    "{{ bos_token }}{{ messages | length }}{{ eos_token }}",
    "{% for m in messages %}{{ m['role'][0] }}{% endfor %}",
    "{% for m in messages %}\n  {% if loop.first %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n",
    "{%- for m in messages[1:] -%}\n {{ m.content | trim }}|\n{%- endfor -%}",
    "{{ messages[0] | tojson }}{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}{{ messages | tojson(indent=4, ensure_ascii=False) }}",
    "{{ '日🎉\\t' | tojson(ensure_ascii=True) }}{{ '<a href=\"x\">&\\'' | tojson }}",
    "{{ {'b': [1, 2.5, none, true], 'a': {}} | tojson }} {{ {'b': [1], 'a': []} | tojson(indent=2) }}",
    "{{ none }} {{ true }} {{ missing }} {{ messages[0].tool_calls }}.",
    "{{ tools is none }} {{ missing is defined }} {{ messages is iterable }} {{ messages[0] is mapping }}",
    "{{ 'a,b'.split(',')[-1] }} {{ ' x '.strip() }} {{ 'Ab'.lower() }} {{ 'x'.startswith('x') }} {{ 'a-b'.replace('-', '+') }}",
    "{{ messages[0].get('name', 'nobody') }} {% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role != 'user' %}{% continue %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ loop.index0 }}{{ loop.last }}{% endfor %}",
    "{% macro hi(x, y='!') %}{{ x }}{{ y }}{% endmacro %}{{ hi('a') }}{{ hi('b', y='?') }}",
    "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{%- generation -%} x {%- endgeneration -%}{% endfor %}",
    "{{ messages[::-1][0].content }} {{ messages | map(attribute='role') | join('+') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') | list | count }}",
    "{{ 'yes' if add_generation_prompt else 'no' }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 'ab' * 2 }} {{ 1 ~ 'x' }} {{ 2 ** 3 }}",
    "{% set x %}\n captured {{ 1 }}\n{% endset %}[{{ x }}]",
    "{# note #}\n{%- if messages[0]['role'] == 'system' %}\n  {%- set system = messages[0]['content'] %}\n{%- else %}\n  {%- set system = '' %}\n"
    "{%- endif %}\n{{ system }}!\n\n",
    "{{ messages[0].content[:3] }}{{ messages[0].content[-2:] }}{{ 'x' in messages[0].content }}{{ 'role' in messages[0] }}",
    "{{ messages[0].content | upper | replace('B', 'C') }}{{ 'ab c' | title }}{{ ['a', 'b'] | first }}{{ [3, 1, 2] | sort | last }}",
    "{%- for m in messages %}{{ loop.cycle('odd', 'even') }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{{ 'a\\nb' | indent(2) }}|{{ 'a\\nb' | indent(2, true) }}|{{ messages[0].content | default('none') }}|{{ missing | default('none') }}",
    "{{ '%s is %d' | length }}{{ 'abc' | list | join('.') }}{{ range(3) | list | length }}{{ (1, 2) | length }}",
    "{{ none is iterable }}{{ 'ab' is iterable }}{{ [] is iterable }}{{ {} is iterable }}{{ 1 is iterable }}{{ missing is iterable }}",
    "{{ none is string }}{{ 'ab' is sequence }}{{ {} is mapping }}{{ 1 is number }}{{ true is boolean }}{{ [] is sequence }}",
    "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n  {%- if messages[0]['content'] is string -%}\n"
    "    {%- set first = messages[0]['content'] + '\n\n' -%}\n  {%- else -%}\n    {%- set first = messages[0]['content'][0]['text'] -%}\n"
    "  {%- endif -%}\n  {%- set rest = messages[1:] -%}\n{%- else -%}\n  {%- set first = '' -%}\n  {%- set rest = messages -%}\n"
    "{%- endif -%}\n{%- for m in rest -%}\n  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
    "    {{ raise_exception('turns must alternate') }}\n  {%- endif -%}\n"
    "  {%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}\n"
    "  {{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}\n  {%- if m['content'] is string -%}\n"
    "    {{ m['content'] | trim }}\n  {%- elif m['content'] is iterable -%}\n    {%- for item in m['content'] -%}{{ item['text'] | trim }}{%- endfor -%}\n"
    "  {%- endif -%}\n  {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n  {{ '<start_of_turn>model\n' }}\n{%- endif -%}\n",
    "{% if messages | length % 2 == 0 %}{{ raise_exception('roles must alternate') }}{% endif %}fine",
]


class Generation(Extension):
    """The tag that marks what an assistant wrote; its body is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, LoopControlExtension])
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return env


def render(source, conversation, prompt):
    messages = [{"role": role, "content": content} for role, content in conversation]
    try:
        template = environment().from_string(source)
        return template.render(
            messages=messages, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>", tools=None, documents=None
        )
    except Exception as error:
        print("no text:", type(error).__name__, str(error)[:100])
        return None


def cases(sources):
    for name, source in sources:
        texts = [render(source, c, i != 2) for i, c in enumerate(CONVERSATIONS)]
        if any(texts):
            yield {"name": name, "source": source, "texts": texts}


def main():
    sources, output = [("", s) for s in SOURCES], Path(__file__).parent.parent / "it/fixtures/chat.json"
    if len(sys.argv) == 3:
        sources = [(p.name, p.read_text(encoding="utf-8")) for p in sorted(Path(sys.argv[1]).glob("*.jinja"))]
        output = Path(sys.argv[2])
    conversations = [[{"role": r, "content": c} for r, c in conversation] for conversation in CONVERSATIONS]
    fixture = {"conversations": conversations, "cases": list(cases(sources))}
    output.write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(output.name, len(sources), "templates,", output.stat().st_size, "bytes")


main()
