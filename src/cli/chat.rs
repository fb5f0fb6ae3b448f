//! `run -cnv`: lines → answers, through the model's chat template. What a turn shares with the one before stays in the
//! cache.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};

use super::note;
use super::run::{Style, report, stream};
use crate::engine::{Engine, EngineError, Finish, Generate, Generated};
use crate::kv::{KvError, SequenceId};
use crate::sample::Sampler;
use crate::text::{ChatTemplate, Conversation, Encode, Message, TemplateOrigin, TokenId};
use crate::units::Tokens;

/// A conversation and what of it is in the cache.
struct Chat<'a> {
    engine: &'a mut Engine,
    template: ChatTemplate,
    messages: Vec<Message>,
    sequence: SequenceId,
    held: Vec<TokenId>,
}

/// Reads lines until there are no more.
pub(super) fn chat(
    engine: &mut Engine,
    mut sampler: Sampler,
    style: &Style,
    system: Option<String>,
    first: Option<String>,
) -> Result<()> {
    let template = ChatTemplate::from_metadata(engine.gguf().metadata())?;
    if template.origin() == TemplateOrigin::Fallback {
        note("note: the file has no chat template; ChatML is used, which the model may not know");
    }
    let messages = system.map(|text| Message::new("system", text)).into_iter().collect();
    let sequence = engine.start();
    let mut chat = Chat { engine, template, messages, sequence, held: Vec::new() };
    let mut last: Option<Generated> = None;
    let mut first = first;
    while let Some(line) = first.take().map_or_else(read_line, |line| Ok(Some(line)))? {
        if !line.trim().is_empty() {
            last = Some(chat.turn(line, &mut sampler, style)?);
        }
    }
    if let Some(generated) = last {
        report(chat.engine, &generated, None);
    }
    Ok(())
}

/// A line of standard input, what is no UTF-8 as U+FFFD; a terminal gets a prompt.
fn read_line() -> Result<Option<String>> {
    if io::stdin().is_terminal() {
        let mut out = io::stdout().lock();
        write!(out, "\n> ")?;
        out.flush()?;
    }
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut line).context("standard input: cannot read the line")?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned()))
}

impl Chat<'_> {
    fn turn(&mut self, line: String, sampler: &mut Sampler, style: &Style) -> Result<Generated> {
        self.messages.push(Message::new("user", line));
        let tokens = self.fitting()?;
        // One token at least must be evaluated to have logits.
        let alike = self.held.iter().zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        let shared = self.go_back(alike)?;
        let request = Generate {
            sequence: self.sequence,
            prompt: &tokens[shared..],
            most: style.most,
            sampler,
            ignore_end: style.ignore_end,
            shift: style.shift,
        };
        let generated = stream(self.engine, request)?;
        writeln!(io::stdout())?;
        if generated.finish == Finish::ContextFull {
            note("note: the context is full, so the answer ends here; give a larger -c");
        }
        self.held = tokens;
        self.held.extend(&generated.tokens);
        self.held.truncate(self.engine.length(self.sequence)?.index());
        let answer = self.engine.tokenizer().map_or_else(|_| String::new(), |t| t.decode(&generated.tokens));
        self.messages.push(Message::new("assistant", answer));
        Ok(generated)
    }

    /// Shortens what was read to the first `alike` tokens, or to none where windows have given up what precedes these; to
    /// how many.
    fn go_back(&mut self, alike: usize) -> Result<usize> {
        match self.engine.truncate(self.sequence, Tokens(alike as u32)) {
            Ok(()) => Ok(alike),
            Err(EngineError::Kv(KvError::Window { .. })) => {
                self.engine.end(self.sequence)?;
                self.sequence = self.engine.start();
                Ok(0)
            }
            Err(why) => Err(why.into()),
        }
    }

    /// The conversation, up to where the answer starts; the oldest turns are forgotten until it leaves room for one.
    fn fitting(&mut self) -> Result<Vec<TokenId>> {
        let room = self.engine.context().index();
        loop {
            let tokens = self.tokens()?;
            if tokens.len() < room - room / 8 {
                return Ok(tokens);
            }
            let oldest = self.messages.iter().position(|m| m.role != "system").unwrap_or(0);
            if oldest + 2 >= self.messages.len() {
                bail!(
                    "the last line has {} tokens with its marks, the context of {room} has no room for an answer: give a larger -c",
                    tokens.len()
                );
            }
            self.messages.drain(oldest..oldest + 2);
            note("note: the context is full, so the oldest turn is forgotten; give a larger -c");
        }
    }

    /// The whole conversation, up to where the answer starts.
    fn tokens(&self) -> Result<Vec<TokenId>> {
        let Ok(tokenizer) = self.engine.tokenizer() else { bail!("a chat needs a tokenizer") };
        let special = tokenizer.special_ids();
        let mark = |id: Option<TokenId>| {
            id.map_or(String::new(), |id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned())
        };
        let (bos, eos) = (mark(special.bos), mark(special.eos));
        let conversation = Conversation { messages: &self.messages, add_generation_prompt: true, bos: &bos, eos: &eos };
        let text = self.template.render(&conversation)?;
        let add_special = bos.is_empty() || !text.starts_with(&bos);
        let tokens = tokenizer.encode(&text, Encode { add_special, parse_special: true });
        if tokens.is_empty() {
            bail!("the chat template made no text of the conversation");
        }
        Ok(tokens)
    }
}
