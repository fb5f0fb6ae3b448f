"""Trains two tiny vocabularies and writes them with what reference tokenizers make of many texts.

Needs `pip install tokenizers sentencepiece protobuf`; run it from the repository's root. Writes tests/it/fixtures/bpe.json and
spm.json. The pre-tokenizers are those of the named models' `tokenizer.json`, given to the `tokenizers` package as the
models give them; merges are trained across words, so that every boundary a pre-tokenizer sets shows in the ids.
"""

import io
import json
import random
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

FIXTURES = Path(__file__).parent.parent / "it" / "fixtures"

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n",
    "\t\t x",
    " \n \r\n \t a\n",
    "a\r\nb\rc\n\n d",
    "hello",
    " hello",
    "hello world",
    "Hello  World   again    and",
    "HELLO WORLD, HelloWorld helloWORLD hELLO",
    "I'm you're he'll we've she'd it's don't I'M YOU'RE IT'S 'Tis ''s 'ſ",
    "don’t “quote” — dash… ‘x’",
    "1 12 123 1234 12345 123456 1234567890",
    "3.14159 1,000,000 -5e-10 0x1F v2.0.1",
    "½ ²³ Ⅷ ١٢٣ 四百 १२३ 𝟙𝟚",
    "!!! ??? ... --- === +++ $$$ <<>> ^~| ` @#%&*()[]{}",
    "a!b?c a.b.c x_y_z foo_bar fooBar FooBar FOO_BAR",
    "if (x == 1) {\n    return y[0] + 'z';\n}\n\n\tdone();",
    "/* c */ // d\n# e <!-- f -->",
    "https://example.org/a?b=c&d=%20#e",
    "été naïve café Straße ÅÄÖ ñ ÇA",
    "e\u0301te\u0301 n\u0303 a\u0308\u0323",
    "Привет, мир! ЁЛКА Ёлка",
    "Ελληνικά ΑΒΓ αβγ",
    "שלום עולם مرحبا بالعالم",
    "नमस्ते दुनिया বাংলা தமிழ் తెలుగు",
    "สวัสดีชาวโลก ภาษาไทย",
    "你好，世界！中文测试。",
    "日本語のテキスト、カタカナとひらがな。漢字123",
    "한국어 문장입니다 가나다라",
    "㐀𠀀 〇 ꀀ",
    "ǅ ǈ ʰ ª º ﬁ Ⓐ ℵ",
    "😀 🎉🎉 👍🏽 👨‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ ☃",
    "a\u200bb\u200dc\ufeffd\u00ade",
    "x\u00a0y\u2003z\u3000w\u2028v\u0085u",
    "\x00\x01\x02\x7f\x1b[31m",
    "\u0080\u009f\ufffd\uffff\U0010ffff",
    "tab\tsep\tvals",
    "trailing   ",
    "trailing\n  ",
    "  leading",
    "a  b   c    d     e",
    "ends with newline\n",
    "word\n\nword\n \nword",
    "   \n   \n   x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abcabcabcabcabcabcabcabcabc",
    "the cat sat on the mat and the dog ran to the park",
    "Once upon a time, there was a little girl named Lily.",
    "x/y\\z a/b\n/c //",
    "(a) [b] {c} <d> \"e\" 'f'",
    "A1B2C3 abc123def 4th 1st",
    "<s>hello</s> <unk> <0x41> <|end|><|end|> x <tool>y</tool>",
    "  <|end|>  hello  <|end|>  ",
    "<|end|",
    "<tool><tool> <tool >",
    "mixed 中文 and English, 数字42 și română",
    "ĠĊ Ġhello ▁hello ▁▁",
]

APOSTROPHE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = APOSTROPHE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = APOSTROPHE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = f"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|" + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
GPT4O = (
    f"{LEAD}{UPPER}*{LOWER}+{APOSTROPHE}?|{LEAD}{UPPER}+{LOWER}*{APOSTROPHE}?|"
    + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    + TAIL
)
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + TAIL
)
CASED = (
    r"\s?"
    r"[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}"
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}"
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}"
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}"
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}"
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}"
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}"
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}"
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}"
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}"
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}"
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+"
)
CJK_AND_HANGUL = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def digits(individual):
    return pre_tokenizers.Digits(individual_digits=individual)


# The name in `tokenizer.ggml.pre` → the pre-tokenizers of `tokenizer.json`, and its `ignore_merges`.
PRE = {
    "gpt-2": ([byte_level(True)], False),
    "starcoder": ([digits(True), byte_level(True)], False),
    "llama-bpe": ([split(LLAMA3), byte_level(False)], True),
    "smaug-bpe": ([split(LLAMA3), byte_level(False)], False),
    "qwen2": ([split(QWEN2), byte_level(False)], False),
    "tekken": ([split(TEKKEN), byte_level(False)], True),
    "gpt-4o": ([split(GPT4O), byte_level(False)], False),
    "deepseek-llm": (
        [
            split("[\r\n]"),
            split(CASED),
            split(r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"),
            split(r"\s+$"),
            split(CJK_AND_HANGUL),
            digits(True),
            byte_level(False),
        ],
        False,
    ),
    "deepseek-coder": (
        [
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split(CJK_AND_HANGUL),
            digits(True),
            byte_level(False),
        ],
        False,
    ),
    "deepseek-v3": (
        [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), byte_level(False)],
        False,
    ),
}


def corpus():
    """Sentences over words that recur, and the texts without marks, the same on every run."""
    plain = [t for t in TEXTS if t and "<" not in t]
    rng = random.Random(7)
    words = sorted({w for t in plain for w in t.split()} | {"the", "a", "and", "hello", "world", "123", "456"})
    lines = list(plain)
    lines += ["".join(rng.choice(words) + rng.choice([" ", " ", "  ", "\n", "", ", "]) for _ in range(9)) for _ in range(600)]
    return lines


def write(name, data):
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace('],"', '],\n"').replace("},{", "},\n{")
    path = FIXTURES / name
    path.write_text(text + "\n", encoding="utf-8")
    print(path.name, path.stat().st_size, "bytes")


def bpe():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = byte_level(False)
    trainer = trainers.BpeTrainer(vocab_size=768, initial_alphabet=alphabet, max_token_length=12, show_progress=False)
    raw.train_from_iterator(corpus(), trainer)
    model = json.loads(raw.to_str())["model"]
    # Words that no merge makes: only `ignore_merges` finds them.
    vocab = dict(model["vocab"])
    for word in ["Ġworld", "Hello", "Ġcat", "HELLO", "!!!", "Ġ中文", "123"]:
        vocab.setdefault(word, len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    merges = [m for m in merges if "".join(m) not in {"ĠHello", "HELLO"}]
    special, defined = ["<|end|>", "<|end|", "<s>"], ["<tool>", "</tool>"]
    cases = {}
    for name, (stages, ignore) in PRE.items():
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
        tokenizer.add_tokens([AddedToken(t, normalized=False) for t in defined])
        cases[name] = {}
        for key, plain in [("plain", True), ("parsed", False)]:
            tokenizer.encode_special_tokens = plain
            cases[name][key] = [tokenizer.encode(t).ids for t in TEXTS]
    tokens = [t for t, _ in sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda kv: kv[1])]
    write("bpe.json", {
        "tokens": tokens,
        "kinds": [3 if t in special else 4 if t in defined else 1 for t in tokens],
        "merges": [" ".join(m) for m in merges],
        "texts": TEXTS,
        "ids": cases,
    })


def spm():
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in corpus() for line in text.split("\n") if line and "\0" not in line),
        model_writer=trained,
        model_type="bpe",
        vocab_size=900,
        character_coverage=0.98,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_by_whitespace=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<tool>", "</tool>"],
        control_symbols=["<|end|>"],
        minloglevel=2,
    )
    files = {}
    for prefix in [True, False]:
        proto = sentencepiece_model(trained.getvalue(), prefix)
        model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        # U+0000 ends a text for sentencepiece. It has no space after user-defined tokens, where llama.cpp has one.
        skip = lambda t: "\0" in t or (prefix and "<tool>" in t)
        files[prefix] = [None if skip(t) else model.encode(t) for t in TEXTS]
    count = range(model.get_piece_size())
    kind = lambda i: 2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
    write("spm.json", {
        "tokens": [model.id_to_piece(i) for i in count],
        "scores": [round(model.get_score(i), 4) for i in count],
        "kinds": [4 if model.id_to_piece(i) in ("<tool>", "</tool>") else kind(i) for i in count],
        "texts": TEXTS,
        "with_space": files[True],
        "without_space": files[False],
    })


def sentencepiece_model(serialized, prefix):
    from sentencepiece import sentencepiece_model_pb2 as schema

    proto = schema.ModelProto.FromString(serialized)
    proto.normalizer_spec.add_dummy_prefix = prefix
    return proto.SerializeToString()


bpe()
spm()
