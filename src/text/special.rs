//! Finds special tokens written out in a text: text → runs of plain text and tokens, leftmost and longest first.
//! Time is linear in the text, whatever the tokens.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::vocab::{TokenKind, Vocab};
use super::{TextError, TokenId};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Plain text, never empty.
    Text(&'t str),
    /// A special token.
    Token(TokenId),
}

/// The searches for special tokens.
#[derive(Debug)]
pub(super) struct Specials {
    /// User-defined tokens, which are never split.
    always: Search,
    /// Control and unknown tokens too.
    parsed: Search,
    strip_after: bool,
}

/// One automaton; pattern `i` is `tokens[i]`.
#[derive(Debug)]
struct Search {
    automaton: Option<AhoCorasick>,
    tokens: Vec<TokenId>,
}

impl Specials {
    pub(super) fn new(vocab: &Vocab<'_>, kinds: &[TokenKind]) -> Result<Specials, TextError> {
        let of = |wanted: &[TokenKind]| {
            let ids = vocab.tokens.iter().zip(kinds).enumerate();
            let found = ids.filter(|(_, (text, kind))| wanted.contains(kind) && !text.is_empty());
            Search::new(found.map(|(i, (text, _))| (TokenId::from_row(i), *text)).collect())
        };
        Ok(Specials {
            always: of(&[TokenKind::UserDefined])?,
            parsed: of(&[TokenKind::UserDefined, TokenKind::Control, TokenKind::Unknown])?,
            strip_after: vocab.strip_after_special,
        })
    }

    /// Gives the parts of `text` in order; `parse` says whether control tokens count too.
    pub(super) fn partition<'t>(&self, text: &'t str, parse: bool, part: &mut impl FnMut(Part<'t>)) {
        let search = if parse { &self.parsed } else { &self.always };
        let mut at = 0;
        while let Some((token, range)) = search.next(text, at) {
            if at < range.start {
                part(Part::Text(&text[at..range.start]));
            }
            part(Part::Token(token));
            at = range.end;
            if self.strip_after && !KEEP_SPACE_AFTER.contains(&&text[range]) {
                at = text.len() - text[at..].trim_ascii_start().len();
            }
        }
        if at < text.len() {
            part(Part::Text(&text[at..]));
        }
    }
}

/// Phi-3's special tokens after which white space stays (its `tokenizer.json`).
const KEEP_SPACE_AFTER: &[&str] = &["<unk>", "<s>", "<|endoftext|>"];

/// The most text of special tokens; the automaton takes some 60 times as much. Gemma's 6,000 have 50 KB.
const MOST_BYTES: usize = 1 << 20;

impl Search {
    fn new(found: Vec<(TokenId, &str)>) -> Result<Search, TextError> {
        if found.is_empty() {
            return Ok(Search { automaton: None, tokens: Vec::new() });
        }
        let (count, bytes) = (found.len(), found.iter().map(|(_, text)| text.len()).sum());
        let failed = |reason: String| TextError::Specials { count, bytes, reason };
        if bytes > MOST_BYTES {
            return Err(failed(format!("needed at most {MOST_BYTES} bytes")));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(found.iter().map(|(_, text)| text))
            .map_err(|e| failed(e.to_string()))?;
        Ok(Search { automaton: Some(automaton), tokens: found.into_iter().map(|(token, _)| token).collect() })
    }

    fn next(&self, text: &str, at: usize) -> Option<(TokenId, std::ops::Range<usize>)> {
        let found = self.automaton.as_ref()?.find(aho_corasick::Input::new(text).range(at..))?;
        Some((self.tokens[found.pattern().as_usize()], found.range()))
    }
}
