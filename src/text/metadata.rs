//! A file's `tokenizer.ggml.*` metadata → a vocabulary. Keys as in ggml's GGUF specification; defaults that the format
//! leaves open are llama.cpp's, so that both read a file alike.

use super::pre::PreTokenizer;
use super::vocab::{Algorithm, Note, SpecialIds, TokenKind, Vocab};
use super::{TextError, TokenId, Tokenizer};
use crate::gguf::Metadata;

impl Tokenizer {
    /// The tokenizer of a file.
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`] when the file has none that is known here; keys of a wrong type, arrays of wrong lengths.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer, TextError> {
        Tokenizer::new(&Vocab::from_metadata(metadata)?)
    }
}

impl<'a> Vocab<'a> {
    /// The vocabulary of a file.
    ///
    /// # Errors
    /// As [`Tokenizer::from_metadata`].
    pub fn from_metadata(metadata: &'a Metadata) -> Result<Vocab<'a>, TextError> {
        let mut notes = Vec::new();
        let pre = metadata.str("tokenizer.ggml.pre")?;
        let algorithm = algorithm(metadata, pre, &mut notes)?;
        let spm = algorithm == Algorithm::Spm;
        let tokens: Vec<&str> = metadata.strs("tokenizer.ggml.tokens")?.map_or(Vec::new(), |t| t.iter().collect());
        if tokens.is_empty() {
            return Err(TextError::NoTokenizer { found: "no tokens".to_owned() });
        }
        let habits = PreTokenizer::habits(pre.unwrap_or_default());
        Ok(Vocab {
            algorithm,
            scores: metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
            kinds: token_kinds(metadata)?,
            merges: metadata.strs("tokenizer.ggml.merges")?.map_or(Vec::new(), |m| m.iter().collect()),
            special: special_ids(metadata, &tokens, spm, &mut notes)?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(spm || habits.add_bos),
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(spm),
            whole_words: !spm && habits.whole_words,
            strip_after_special: is_phi_3(metadata)?,
            tokens,
            notes,
        })
    }
}

fn algorithm(metadata: &Metadata, pre: Option<&str>, notes: &mut Vec<Note>) -> Result<Algorithm, TextError> {
    match metadata.str("tokenizer.ggml.model")? {
        Some("llama") => Ok(Algorithm::Spm),
        Some("gpt2") => {
            let known = pre.and_then(PreTokenizer::from_name);
            if known.is_none() {
                notes.push(Note::PreTokenizer { found: pre.map(str::to_owned) });
            }
            Ok(Algorithm::Bpe(known.unwrap_or(PreTokenizer::Default)))
        }
        Some(other) => Err(TextError::NoTokenizer { found: format!("tokenizer.ggml.model {other:?}") }),
        None => Err(TextError::NoTokenizer { found: "no tokenizer.ggml.model".to_owned() }),
    }
}

fn token_kinds(metadata: &Metadata) -> Result<Vec<TokenKind>, TextError> {
    let numbers = metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
    let kind = |(i, n)| TokenKind::from_number(n).ok_or(TextError::Kind { token: TokenId::from_row(i), found: n });
    numbers.into_iter().enumerate().map(kind).collect()
}

/// Special ids by their keys; SPM files that name none have unknown 0, bos 1 and eos 2. End-of-turn is also known by name.
fn special_ids(
    metadata: &Metadata,
    tokens: &[&str],
    spm: bool,
    notes: &mut Vec<Note>,
) -> Result<SpecialIds, TextError> {
    let mut id = |key: &'static str, usual: Option<u32>| {
        let found = metadata.u32(key)?.filter(|id| *id != NO_TOKEN);
        let token = found.or(usual).map(TokenId).filter(|t| t.index() < tokens.len());
        if let (Some(found), None) = (found, token) {
            notes.push(Note::SpecialId { key, found, tokens: tokens.len() });
        }
        Ok::<_, TextError>(token)
    };
    let usual = |n| spm.then_some(n);
    let named =
        |names: &[&str]| names.iter().find_map(|name| tokens.iter().position(|t| t == name)).map(TokenId::from_row);
    Ok(SpecialIds {
        bos: id("tokenizer.ggml.bos_token_id", usual(1))?,
        eos: id("tokenizer.ggml.eos_token_id", usual(2))?,
        eot: id("tokenizer.ggml.eot_token_id", None)?.or_else(|| named(TURN_ENDS)),
        eom: id("tokenizer.ggml.eom_token_id", None)?.or_else(|| named(&["<|eom_id|>"])),
        unknown: id("tokenizer.ggml.unknown_token_id", usual(0))?,
    })
}

/// What converters write for `there is none`: -1 in 32 bits.
const NO_TOKEN: u32 = u32::MAX;

/// Names by which vocabularies mark the end of a turn, likeliest first.
const TURN_ENDS: &[&str] = &["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "_<EOT>", "[EOT]"];

/// Phi-3 drops white space after its special tokens; files tell only by the model's name.
fn is_phi_3(metadata: &Metadata) -> Result<bool, TextError> {
    let name = metadata.str("general.name")?.unwrap_or_default().to_ascii_lowercase();
    Ok(name.contains("phi-3") || name.contains("phi3"))
}
