//! Byte-level BPE: text → words → tokens, the best-ranked adjacent pair of a word merging first.
//! Works on raw bytes; the files' byte alphabet is gone after loading. Source: Sennrich et al. 2016 and GPT-2's `encoder.py`.

use foldhash::{HashMap, HashMapExt};

use super::merge::{Merge, Merger, Symbol};
use super::pre::{PreTokenizer, Splitter};
use super::vocab::{Note, TokenKind, Vocab, note_missing_bytes};
use super::{TextError, TokenId, byte_level};

/// The words and merges of a byte-level BPE vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    splitter: Splitter,
    merges: HashMap<(TokenId, TokenId), Merge>,
    bytes: [Option<TokenId>; 256],
    /// Bytes of a word → its token, where words that are tokens skip the merges; empty elsewhere.
    words: HashMap<Box<[u8]>, TokenId>,
    unknown: Option<TokenId>,
}

impl Bpe {
    pub(super) fn new(
        vocab: &Vocab<'_>,
        kinds: &[TokenKind],
        pre: PreTokenizer,
        notes: &mut Vec<Note>,
    ) -> Result<Bpe, TextError> {
        let splitter = Splitter::new(pre)?;
        let by_text = mergeable(vocab, kinds);
        let mut bytes = [None; 256];
        let mut words = HashMap::new();
        for (text, token) in &by_text {
            let Some(raw) = byte_level::decode_exact(text) else { continue };
            if let [b] = raw[..] {
                bytes[usize::from(b)] = Some(*token);
            }
            if vocab.whole_words {
                words.insert(raw.into_boxed_slice(), *token);
            }
        }
        note_missing_bytes(&bytes, vocab.special.unknown, notes);
        let merges = ranked(&vocab.merges, &by_text, notes);
        Ok(Bpe { splitter, merges, bytes, words, unknown: vocab.special.unknown })
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, text: &str, merger: &mut Merger, out: &mut Vec<TokenId>) {
        self.splitter.split(text, &mut |word| match self.words.get(word.as_bytes()) {
            Some(token) => out.push(*token),
            None => self.encode_word(word.as_bytes(), merger, out),
        });
    }

    fn encode_word(&self, word: &[u8], merger: &mut Merger, out: &mut Vec<TokenId>) {
        let symbols = word.iter().enumerate().map(|(i, b)| {
            let token = self.bytes[usize::from(*b)];
            Symbol { start: i, end: i + 1, token }
        });
        let find = |left: &Symbol, right: &Symbol| self.merges.get(&(left.token?, right.token?)).copied();
        merger.run(symbols, find, |symbol| out.extend(symbol.token.or(self.unknown)));
    }
}

/// Tokens that merges may make, by their text in the file; of equal texts the last counts.
fn mergeable<'a>(vocab: &Vocab<'a>, kinds: &[TokenKind]) -> HashMap<&'a str, TokenId> {
    let ids = vocab.tokens.iter().zip(kinds).enumerate();
    ids.filter_map(|(i, (text, kind))| match kind {
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused | TokenKind::Byte => {
            Some((*text, TokenId::from_row(i)))
        }
        TokenKind::Unknown | TokenKind::Control => None,
    })
    .collect()
}

/// Merges by the tokens they join; those that name what is no token are counted in a note.
fn ranked(
    merges: &[&str],
    by_text: &HashMap<&str, TokenId>,
    notes: &mut Vec<Note>,
) -> HashMap<(TokenId, TokenId), Merge> {
    let mut ranked = HashMap::with_capacity_and_hasher(merges.len(), Default::default());
    let mut ignored = Vec::new();
    let mut joined = String::new();
    for (rank, merge) in (0..).zip(merges) {
        let resolved = halves(merge).and_then(|(left, right)| {
            joined.clear();
            joined.extend([left, right]);
            Some((*by_text.get(left)?, *by_text.get(right)?, *by_text.get(joined.as_str())?))
        });
        match resolved {
            Some((left, right, token)) => {
                ranked.entry((left, right)).or_insert(Merge { rank, token });
            }
            None => ignored.push(merge),
        }
    }
    if let Some(first) = ignored.first() {
        notes.push(Note::Merges { ignored: ignored.len(), first: (**first).to_string() });
    }
    ranked
}

/// The two sides of `left right`; a space in first place belongs to the left side.
fn halves(merge: &str) -> Option<(&str, &str)> {
    let (at, _) = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?;
    Some((&merge[..at], &merge[at + 1..]))
}
