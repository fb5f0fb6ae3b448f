//! SentencePiece's BPE: characters → tokens, the best-scored adjacent pair merging first, bytes for what has no token.
//! Never merges into control, unknown or byte tokens, whatever their text: only [`specials`](super::special) finds those.
//! Source of the algorithm: Kudo and Richardson, SentencePiece (2018), `bpe_model.cc` of its release.

use foldhash::HashMap;

use super::merge::{Merge, Merger, Symbol};
use super::vocab::{Note, TokenKind, Vocab, note_missing_bytes};
use super::{TextError, TokenId};

/// The character that stands for a space in SPM tokens.
pub(super) const SPACE: char = '\u{2581}';

/// The merges of an SPM vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    /// Text of a token (with [`SPACE`]) → what it merges to.
    pieces: HashMap<Box<str>, Merge>,
    bytes: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
    space_prefix: bool,
    /// Whether no token has [`SPACE`] after another character, so that words never merge with one another.
    words_apart: bool,
}

impl Spm {
    pub(super) fn new(vocab: &Vocab<'_>, kinds: &[TokenKind], notes: &mut Vec<Note>) -> Result<Spm, TextError> {
        let needed = vocab.tokens.len();
        if vocab.scores.len() != needed {
            return Err(TextError::Length { key: "tokenizer.ggml.scores", needed, found: vocab.scores.len() });
        }
        let mut pieces: HashMap<Box<str>, Merge> = HashMap::with_capacity_and_hasher(needed, Default::default());
        let mut bytes = [None; 256];
        for (i, ((text, kind), score)) in vocab.tokens.iter().zip(kinds).zip(&vocab.scores).enumerate() {
            let token = TokenId::from_row(i);
            match kind {
                TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => {
                    pieces.insert((*text).into(), Merge { rank: rank_of(*score), token });
                }
                TokenKind::Byte => {
                    if let Some(b) = byte_of(text) {
                        bytes[usize::from(b)] = Some(token);
                    }
                }
                TokenKind::Unknown | TokenKind::Control => {}
            }
        }
        note_missing_bytes(&bytes, vocab.special.unknown, notes);
        let words_apart = pieces.keys().all(|text| words(text).count() <= 1);
        let (unknown, space_prefix) = (vocab.special.unknown, vocab.add_space_prefix);
        Ok(Spm { pieces, bytes, unknown, space_prefix, words_apart })
    }

    /// Appends the tokens of `text`; `starts` says whether it begins the encoding or follows a special token.
    pub(super) fn encode(&self, text: &str, starts: bool, merger: &mut Merger, out: &mut Vec<TokenId>) {
        let prefix = if starts && self.space_prefix { " " } else { "" };
        let text: String = prefix.chars().chain(text.chars()).map(|c| if c == ' ' { SPACE } else { c }).collect();
        if self.words_apart {
            words(&text).for_each(|word| self.encode_run(word, merger, out));
        } else {
            self.encode_run(&text, merger, out);
        }
    }

    /// Appends the tokens of a text that has [`SPACE`] for spaces.
    fn encode_run(&self, text: &str, merger: &mut Merger, out: &mut Vec<TokenId>) {
        let symbols = text.char_indices().map(|(start, c)| {
            let end = start + c.len_utf8();
            Symbol { start, end, token: self.pieces.get(&text[start..end]).map(|m| m.token) }
        });
        let find = |left: &Symbol, right: &Symbol| self.pieces.get(&text[left.start..right.end]).copied();
        merger.run(symbols, find, |symbol| match symbol.token {
            Some(token) => out.push(token),
            None => self.spell(&text.as_bytes()[symbol.start..symbol.end], out),
        });
    }

    /// Bytes as byte tokens, or one unknown token where the vocabulary lacks one of them.
    fn spell(&self, bytes: &[u8], out: &mut Vec<TokenId>) {
        let before = out.len();
        out.extend(bytes.iter().filter_map(|b| self.bytes[usize::from(*b)]));
        if out.len() - before < bytes.len() {
            out.truncate(before);
            out.extend(self.unknown);
        }
    }
}

/// `text` cut before each [`SPACE`] that follows another character.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let body = rest.find(|c| c != SPACE).unwrap_or(rest.len());
        let end = rest[body..].find(SPACE).map_or(rest.len(), |i| body + i);
        let (word, later) = rest.split_at(end);
        rest = later;
        Some(word)
    })
}

/// The byte that a token written `<0x0A>` stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|d| d.is_ascii_hexdigit());
    if two { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Higher scores → lower ranks, equal scores → equal ranks, in the total order of floats.
fn rank_of(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // -0 becomes +0
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_rank_first() {
        let scores = [f32::INFINITY, 3.5, 1.0, 0.0, -0.5, -1e9, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| rank_of(w[0]) < rank_of(w[1])));
        assert_eq!(rank_of(0.0), rank_of(-0.0));
    }

    #[test]
    fn words_keep_the_spaces_in_front() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("▁▁a▁b▁▁cd"), ["▁▁a", "▁b", "▁▁cd"]);
        assert_eq!(cut("a▁▁"), ["a", "▁▁"]);
    }

    #[test]
    fn byte_tokens_are_exactly_two_hex_digits() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for text in ["<0xA>", "<0x00A>", "<0x+A>", "0x0A", "<0x0A", ""] {
            assert_eq!(byte_of(text), None, "{text}");
        }
    }
}
