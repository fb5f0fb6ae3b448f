//! `run --save-session`, `run --load-session`: a text that goes on where another run has ended.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::{Usage, note};
use crate::engine::{Engine, Finish, Generated, SavedFile};
use crate::kv::SequenceId;
use crate::text::{Encode, TokenId};
use crate::units::Tokens;

/// Sessions on disk.
#[derive(Debug, Args)]
pub(super) struct SessionArgs {
    /// Save the text with its KV cache behind the end of the run, to be continued with --load-session
    #[arg(long, value_name = "FILE", conflicts_with_all = ["parallel", "conversation"])]
    pub save_session: Option<PathBuf>,
    /// Continue a saved text, by the prompt if there is one; the model and the types of the cache must be the same
    #[arg(long, value_name = "FILE", conflicts_with_all = ["parallel", "conversation"])]
    pub load_session: Option<PathBuf>,
}

/// A text that is continued: what of it is in the cache.
pub(super) struct History {
    /// The sequence, empty where nothing was loaded.
    pub sequence: SequenceId,
    /// Its tokens, and those that are still to be read.
    tokens: Vec<TokenId>,
    next: Vec<TokenId>,
}

impl SessionArgs {
    /// Where the session will be saved, if it will.
    pub fn target(&self) -> Result<Option<SavedFile>> {
        Ok(self.save_session.as_deref().map(SavedFile::at).transpose()?)
    }

    /// What was loaded, or nothing.
    pub fn history(&self, engine: &mut Engine) -> Result<History> {
        let Some(path) = &self.load_session else {
            return Ok(History { sequence: engine.start(), tokens: Vec::new(), next: Vec::new() });
        };
        let loaded = engine.load_file(path)?;
        let tokens = loaded.tokens.len() + loaded.next.len();
        note(&format!("session: {tokens} tokens from {}", path.display()));
        Ok(History { sequence: loaded.sequence, tokens: loaded.tokens, next: loaded.next })
    }
}

impl History {
    /// The tokens to be read next: those that are left, and those of the prompt; without either the last one again. The
    /// sequence ends where they begin.
    pub fn continued_by(&mut self, engine: &mut Engine, prompt: &str) -> Result<Vec<TokenId>> {
        let add_special = self.tokens.is_empty() && self.next.is_empty();
        let how = Encode { add_special, parse_special: true };
        let mut tokens = std::mem::take(&mut self.next);
        tokens.extend(engine.tokenizer().map_or_else(|_| Vec::new(), |t| t.encode(prompt, how)));
        if tokens.is_empty() {
            let Some(last) = self.tokens.pop() else {
                bail!(Usage("the saved session is empty, needed a prompt: give -p TEXT or -f FILE".to_owned()))
            };
            engine.truncate(self.sequence, self.length())?;
            tokens.push(last);
        }
        Ok(tokens)
    }

    /// Tokens that have been read.
    pub fn length(&self) -> Tokens {
        Tokens(self.tokens.len() as u32)
    }
}

/// Saves what was read and written, if that was asked for.
pub(super) fn save(
    engine: &mut Engine,
    sequence: SequenceId,
    prompt: &[TokenId],
    generated: &Generated,
    target: Option<&SavedFile>,
) -> Result<()> {
    let Some(target) = target else { return Ok(()) };
    let next = unread(prompt, generated);
    engine.save_file(sequence, next, target)?;
    let tokens = engine.length(sequence)?.index() + next.len();
    note(&format!("session: {tokens} tokens to {}", target.name()));
    Ok(())
}

/// What of prompt and text is not in the sequence: the rest of a prompt that was interrupted, or the last token.
fn unread<'a>(prompt: &'a [TokenId], generated: &'a Generated) -> &'a [TokenId] {
    let read = generated.prompt_tokens + generated.shared_tokens;
    let text = &generated.tokens;
    match generated.finish {
        _ if read < prompt.len() => &prompt[read..],
        Finish::EndOfGeneration => &[],
        Finish::Length | Finish::ContextFull | Finish::Stopped => &text[text.len().saturating_sub(1)..],
    }
}
