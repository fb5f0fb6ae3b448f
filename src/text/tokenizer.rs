//! The tokenizer: text ↔ token ids, by one of the two algorithms, around special tokens.
//! Never prints; what was odd in the file is in [`Tokenizer::notes`].

use super::bpe::Bpe;
use super::merge::Merger;
use super::special::{Part, Specials};
use super::spm::{self, Spm};
use super::vocab::{Algorithm, Note, SpecialIds, TokenKind, Vocab};
use super::{TextError, TokenId, byte_level};

/// Text ↔ tokens of one vocabulary.
#[derive(Debug)]
pub struct Tokenizer {
    model: Model,
    specials: Specials,
    /// Bytes of all tokens, end to end; token `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    special: SpecialIds,
    end_of_generation: Vec<TokenId>,
    add_bos: bool,
    add_eos: bool,
    space_prefix: bool,
    notes: Vec<Note>,
}

/// How to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encode {
    /// Whether bos and eos are put around, as far as the vocabulary asks for them.
    pub add_special: bool,
    /// Whether control tokens written out in the text count as such; false for text from a person.
    pub parse_special: bool,
}

/// The part of the work that the two algorithms do differently.
#[derive(Debug)]
enum Model {
    Spm(Spm),
    Bpe(Bpe),
}

impl Tokenizer {
    /// A tokenizer of `vocab`.
    ///
    /// # Errors
    /// An array whose length is not the number of tokens; special tokens too many for one automaton.
    pub fn new(vocab: &Vocab<'_>) -> Result<Tokenizer, TextError> {
        let kinds = kinds(vocab)?;
        let mut notes = vocab.notes.clone();
        let model = match vocab.algorithm {
            Algorithm::Spm => Model::Spm(Spm::new(vocab, &kinds, &mut notes)?),
            Algorithm::Bpe(pre) => Model::Bpe(Bpe::new(vocab, &kinds, pre, &mut notes)?),
        };
        let (bytes, ends) = spelled(vocab, &kinds);
        Ok(Tokenizer {
            model,
            specials: Specials::new(vocab, &kinds)?,
            bytes,
            ends,
            special: vocab.special,
            end_of_generation: end_of_generation(vocab, &kinds),
            add_bos: vocab.add_bos,
            add_eos: vocab.add_eos,
            space_prefix: vocab.algorithm == Algorithm::Spm && vocab.add_space_prefix,
            kinds,
            notes,
        })
    }

    /// The tokens of `text`. Linear in its length but for a logarithm, whatever it holds.
    pub fn encode(&self, text: &str, how: Encode) -> Vec<TokenId> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if how.add_special && self.add_bos {
            out.extend(self.special.bos);
        }
        let mut merger = Merger::default();
        let mut starts = true;
        self.specials.partition(text, how.parse_special, &mut |part| {
            starts = match part {
                Part::Token(token) => {
                    out.push(token);
                    true
                }
                Part::Text(text) => {
                    match &self.model {
                        Model::Spm(spm) => spm.encode(text, starts, &mut merger, &mut out),
                        Model::Bpe(bpe) => bpe.encode(text, &mut merger, &mut out),
                    }
                    false
                }
            };
        });
        if how.add_special && self.add_eos {
            out.extend(self.special.eos);
        }
        out
    }

    /// The raw bytes of a token, often no whole characters; control tokens give the text of their mark.
    /// Nothing for an id past the vocabulary (padding rows of the logits).
    pub fn piece(&self, token: TokenId) -> &[u8] {
        let end = self.ends.get(token.index()).copied();
        let start = token.index().checked_sub(1).map_or(0, |i| self.ends.get(i).copied().unwrap_or(0));
        end.map_or(&[], |end| &self.bytes[start..end])
    }

    /// The text of `tokens` without control tokens, invalid UTF-8 as U+FFFD, and without the space that
    /// encoding put in front.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let texts = tokens.iter().filter(|t| !self.is_control(**t));
        let bytes: Vec<u8> = texts.flat_map(|t| self.piece(*t)).copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let body = if self.space_prefix { text.strip_prefix(' ').unwrap_or(&text) } else { &text };
        body.to_owned()
    }

    /// Whether the token is a mark, or stands for the unknown, rather than text.
    pub fn is_control(&self, token: TokenId) -> bool {
        match self.kinds.get(token.index()) {
            Some(TokenKind::Control | TokenKind::Unknown) => true,
            Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused | TokenKind::Byte) | None => false,
        }
    }

    /// Whether a model that gives this token has finished: eos, eot, eom, and tokens known by name as such.
    pub fn is_end_of_generation(&self, token: TokenId) -> bool {
        self.end_of_generation.binary_search(&token).is_ok()
    }

    /// Tokens with a part of their own.
    pub fn special_ids(&self) -> SpecialIds {
        self.special
    }

    /// Whether [`Encode::add_special`] puts bos in front.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.special.bos.is_some()
    }

    /// The number of tokens.
    pub fn vocab_len(&self) -> usize {
        self.ends.len()
    }

    /// What was odd in the file.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}

/// The kind of each token. Some converters write the marks that end a turn as normal text; by their names they are
/// control tokens all the same.
fn kinds(vocab: &Vocab<'_>) -> Result<Vec<TokenKind>, TextError> {
    let needed = vocab.tokens.len();
    let mut kinds = match vocab.kinds.len() {
        0 => vec![TokenKind::Normal; needed],
        found if found == needed => vocab.kinds.clone(),
        found => return Err(TextError::Length { key: "tokenizer.ggml.token_type", needed, found }),
    };
    for (text, kind) in vocab.tokens.iter().zip(&mut kinds) {
        if *kind == TokenKind::Normal && text.starts_with("<|") && END_NAMES.contains(text) {
            *kind = TokenKind::Control;
        }
    }
    Ok(kinds)
}

/// The bytes of all tokens, end to end, and where each ends.
fn spelled(vocab: &Vocab<'_>, kinds: &[TokenKind]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let spell = |(text, kind): (&&str, &TokenKind)| {
        match (kind, vocab.algorithm) {
            (TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined, _) => bytes.extend(text.bytes()),
            (TokenKind::Byte, Algorithm::Spm) if spm::byte_of(text).is_some() => bytes.extend(spm::byte_of(text)),
            (TokenKind::Normal | TokenKind::Unused | TokenKind::Byte, Algorithm::Spm) => {
                bytes.extend(text.replace(spm::SPACE, " ").bytes());
            }
            (TokenKind::Normal | TokenKind::Unused | TokenKind::Byte, Algorithm::Bpe(_)) => {
                byte_level::decode(text, &mut bytes);
            }
        }
        bytes.len()
    };
    let ends = vocab.tokens.iter().zip(kinds).map(spell).collect();
    (bytes, ends)
}

/// Names by which vocabularies mark the end of a turn or of a text, where metadata does not.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
];

/// Ends of generation, sorted. A name counts only on a mark: `</s>` may also be HTML. With `<|return|>` and `<|call|>`
/// (gpt-oss), `<|end|>` only ends a message.
fn end_of_generation(vocab: &Vocab<'_>, kinds: &[TokenKind]) -> Vec<TokenId> {
    let SpecialIds { bos: _, eos, eot, eom, unknown: _ } = vocab.special;
    let named = |name: &str| vocab.tokens.iter().position(|t| *t == name).map(TokenId::from_row);
    let inner = if named("<|return|>").and(named("<|call|>")).is_some() { named("<|end|>") } else { None };
    let marks = vocab.tokens.iter().zip(kinds).enumerate().filter(|(_, (text, kind))| {
        matches!(kind, TokenKind::Control | TokenKind::UserDefined) && END_NAMES.contains(text)
    });
    let marks = marks.map(|(i, _)| TokenId::from_row(i));
    let mut ends: Vec<TokenId> = marks.chain(eos).chain(eot).chain(eom).filter(|t| Some(*t) != inner).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}
