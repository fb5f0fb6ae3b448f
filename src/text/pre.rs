//! Pre-tokenizers of byte-level BPE: text → words, inside of which merges happen.
//! Patterns are those of each model's published `tokenizer.json` (names and aliases: `tokenizer.ggml.pre` as written by
//! llama.cpp's converter). An automaton without backtracking runs them, so time is linear in the text; the one
//! look-ahead they share, `\s+(?!\S)`, is done by hand (see [`Stage::cut_before_word`]).

use regex_automata::meta::Regex;
use regex_automata::{Input, Match};

use super::TextError;

/// A way of cutting text into words, named for the first well-known model that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PreTokenizer {
    /// For files that name none: punctuation apart, then as GPT-2, digits by three.
    Default,
    /// GPT-2.
    Gpt2,
    /// StarCoder, Refact, Command-R, SmolLM: as GPT-2, digits one by one.
    StarCoder,
    /// Falcon.
    Falcon,
    /// Llama 3, Smaug, DBRX, GLM-4: digits by up to three.
    Llama3,
    /// Qwen 2 and 3, StableLM 2: as Llama 3, digits one by one.
    Qwen2,
    /// Qwen 3.5: as Qwen 2, combining marks with their letters.
    Qwen35,
    /// DeepSeek LLM.
    DeepseekLlm,
    /// DeepSeek Coder.
    DeepseekCoder,
    /// DeepSeek V3 and R1.
    DeepseekV3,
    /// Mistral's Tekken: words also split where case changes.
    Tekken,
    /// GPT-4o, gpt-oss, Llama 4.
    Gpt4o,
    /// Ling (BailingMoE).
    BailingMoe,
    /// Seed-Coder.
    SeedCoder,
}

impl PreTokenizer {
    /// The pre-tokenizer that `tokenizer.ggml.pre = name` means, or `None` for an unknown name.
    pub fn from_name(name: &str) -> Option<PreTokenizer> {
        Some(match name {
            "default" => PreTokenizer::Default,
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "jina-es" | "jina-de"
            | "jina-v1-en" | "jina-v2-es" | "jina-v2-de" | "jina-v2-code" | "roberta-bpe" | "gigachat" | "a.x-4.0"
            | "mellum" | "modern-bert" | "exaone4" => PreTokenizer::Gpt2,
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
                PreTokenizer::StarCoder
            }
            "falcon" => PreTokenizer::Falcon,
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
            | "jina-v5-nano" | "smaug-bpe" | "dbrx" | "chatglm-bpe" | "glm4" | "glm5" => PreTokenizer::Llama3,
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "hunyuan" | "solar-open" | "megrez" | "kormo" | "f2llmv2"
            | "grok-2" => PreTokenizer::Qwen2,
            "qwen35" => PreTokenizer::Qwen35,
            "deepseek-llm" => PreTokenizer::DeepseekLlm,
            "deepseek-coder" => PreTokenizer::DeepseekCoder,
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => PreTokenizer::DeepseekV3,
            "tekken" => PreTokenizer::Tekken,
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => PreTokenizer::Gpt4o,
            "bailingmoe" | "bailingmoe2" | "llada-moe" => PreTokenizer::BailingMoe,
            "seed-coder" => PreTokenizer::SeedCoder,
            _ => return None,
        })
    }

    /// The stages in order; each cuts further what the one before it made.
    fn stages(self) -> &'static [&'static [&'static str]] {
        match self {
            PreTokenizer::Default => &[&[r"[\p{P}\$\+<=>\^~\|]+"], GPT2, &[r"\p{N}+"], &["[0-9][0-9][0-9]"]],
            PreTokenizer::Gpt2 => &[GPT2],
            PreTokenizer::StarCoder => &[&[r"\p{N}"], GPT2],
            PreTokenizer::Falcon => &[&[r"[\p{P}\$\+<=>\^~\|`]+"], GPT2, &["[0-9][0-9][0-9]"]],
            PreTokenizer::Llama3 => {
                &[&[CONTRACTION, WORD, r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", SPACES]]
            }
            PreTokenizer::Qwen2 => {
                &[&[CONTRACTION, WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", SPACES]]
            }
            PreTokenizer::Qwen35 => &[&[
                CONTRACTION,
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                r"\p{N}",
                r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
                r"\s*[\r\n]+",
                SPACES,
            ]],
            PreTokenizer::DeepseekLlm => {
                &[&[r"[\r\n]"], &[CASED_WORD], &[WIDE_PUNCTUATION], &[r"\s+$"], &[CJK_AND_HANGUL], &[r"\p{N}"]]
            }
            PreTokenizer::DeepseekCoder => {
                &[&[r"[\r\n]"], &[r"\s?\p{L}+"], &[r"\s?\p{P}+"], &[CJK_AND_HANGUL], &[r"\p{N}"]]
            }
            PreTokenizer::DeepseekV3 => &[
                &[r"\p{N}{1,3}"],
                &["[一-龥぀-ゟ゠-ヿ]+"],
                &[
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
                    r" ?[\p{P}\p{S}]+[\r\n]*",
                    r"\s*[\r\n]+",
                    SPACES,
                ],
            ],
            PreTokenizer::Tekken => {
                &[&[UPPER_LOWER, UPPER, r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", SPACES]]
            }
            PreTokenizer::Gpt4o => &[&[
                UPPER_LOWER_CONTRACTION,
                UPPER_CONTRACTION,
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                SPACES,
            ]],
            PreTokenizer::BailingMoe => {
                &[&[CONTRACTION, WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]", SPACES]]
            }
            PreTokenizer::SeedCoder => {
                &[&[CONTRACTION, WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+", r"\s*[\r\n]+", SPACES]]
            }
        }
    }

    /// Whether a word that is a token itself is never built from merges (`ignore_merges` of `tokenizer.json`), and
    /// whether an encoding starts with bos where the file does not say; both by the name of the pre-tokenizer.
    pub(super) fn habits(name: &str) -> Habits {
        match name {
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
            | "jina-v5-nano" | "tekken" => Habits { whole_words: true, add_bos: true },
            "glm4" | "glm5" => Habits { whole_words: true, add_bos: false },
            _ => Habits { whole_words: false, add_bos: false },
        }
    }
}

/// What a pre-tokenizer's name implies besides its patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Habits {
    pub whole_words: bool,
    pub add_bos: bool,
}

/// `\s+(?!\S)|\s+`; must be the last pattern of its stage.
const SPACES: &str = r"\s+";
const GPT2: &[&str] = &["'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", SPACES];
const CONTRACTION: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORD: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
const UPPER_LOWER: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+";
const UPPER: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*";
const UPPER_LOWER_CONTRACTION: &str =
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
const UPPER_CONTRACTION: &str =
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
const CJK_AND_HANGUL: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
/// Letters of scripts with case, as code points.
const CASED_WORD: &str = r"(?x)\s?
    [A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}
    \x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}
    \x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}
    \x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}
    \x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}
    \x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}
    \x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}
    \x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}
    \x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}
    \x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}
    \x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}
    \x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}
    \x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+";
/// ASCII, full-width and typographic punctuation.
const WIDE_PUNCTUATION: &str = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";

/// Runs the stages of one pre-tokenizer.
#[derive(Debug)]
pub(super) struct Splitter {
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    regex: Regex,
    /// The pattern that is [`SPACES`], if the stage has it.
    spaces: Option<usize>,
}

impl Splitter {
    /// Compiles the patterns of `pre`.
    pub(super) fn new(pre: PreTokenizer) -> Result<Splitter, TextError> {
        let stage = |patterns: &&[&str]| {
            let spaces = patterns.iter().position(|p| *p == SPACES);
            let regex = Regex::new_many(patterns).map_err(|e| TextError::Pattern { pre, reason: e.to_string() })?;
            Ok::<_, TextError>(Stage { regex, spaces })
        };
        Ok(Splitter { stages: pre.stages().iter().map(stage).collect::<Result<_, _>>()? })
    }

    /// Gives the words of `text` to `word`, in order; together they are `text`.
    pub(super) fn split(&self, text: &str, word: &mut impl FnMut(&str)) {
        split_from(&self.stages, text, word);
    }
}

fn split_from(stages: &[Stage], text: &str, word: &mut impl FnMut(&str)) {
    let Some((stage, later)) = stages.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let mut at = 0;
    while at < text.len() {
        let Some(found) = stage.regex.search(&Input::new(text).range(at..)) else { break };
        let end = stage.cut_before_word(text, &found);
        split_from(later, &text[at..found.start()], word);
        split_from(later, &text[found.start()..end], word);
        at = end;
    }
    split_from(later, &text[at..], word);
}

impl Stage {
    /// Where `found` ends. White space in front of a word leaves its last character to that word: what `\s+(?!\S)`
    /// gives by backtracking one character when the run does not end the text.
    fn cut_before_word(&self, text: &str, found: &Match) -> usize {
        let is_spaces = self.spaces == Some(found.pattern().as_usize());
        if !is_spaces || found.end() == text.len() {
            return found.end();
        }
        let last = text[found.range()].char_indices().next_back().map_or(0, |(i, _)| i);
        if last == 0 { found.end() } else { found.start() + last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every variant under one of its names.
    const NAMES: [&str; 14] = [
        "default",
        "gpt-2",
        "starcoder",
        "falcon",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
        "tekken",
        "gpt-4o",
        "bailingmoe",
        "seed-coder",
    ];

    #[test]
    fn every_pattern_compiles_and_takes_at_least_a_character() {
        let mut seen = std::collections::HashSet::new();
        for name in NAMES {
            let pre = PreTokenizer::from_name(name).unwrap();
            assert!(seen.insert(pre), "{name}");
            for stage in Splitter::new(pre).unwrap().stages {
                assert!(!stage.regex.is_match(""), "{name}");
                assert!(stage.spaces.is_none_or(|i| i + 1 == stage.regex.pattern_len()), "{name}");
            }
        }
    }

    #[test]
    fn words_together_are_the_text() {
        let text = "I'm  12345 \r\n\n  x\u{301}y中文、カナ!?\u{3000}\u{85}HTMLPage\t\t";
        for name in NAMES {
            let splitter = Splitter::new(PreTokenizer::from_name(name).unwrap()).unwrap();
            let mut words = Vec::new();
            splitter.split(text, &mut |word| words.push(word.to_owned()));
            assert_eq!(words.concat(), text, "{name}");
            assert!(words.len() > 5 && words.iter().all(|w| !w.is_empty()), "{name}: {words:?}");
        }
    }

    #[test]
    fn white_space_leaves_one_character_to_the_next_word() {
        let cases = [
            ("a   b", vec!["a", "  ", " b"]),
            ("a   ", vec!["a", "   "]),
            ("a \u{a0} b", vec!["a", " \u{a0}", " b"]),
            ("a\n b", vec!["a", "\n", " b"]),
            (" \t!", vec![" ", "\t", "!"]),
        ];
        let splitter = Splitter::new(PreTokenizer::Gpt2).unwrap();
        for (text, wanted) in cases {
            let mut words = Vec::new();
            splitter.split(text, &mut |word| words.push(word.to_owned()));
            assert_eq!(words, wanted, "{text:?}");
        }
    }
}
