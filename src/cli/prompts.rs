//! `run --parallel`: the prompts of a file, side by side → their texts in the order of the file.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::run::{Style, show_memory};
use super::steps::Steps;
use super::{Usage, interrupt, note};
use crate::engine::{Compacted, Engine, Finish, Finished, Generated, Queue, QueueLimits, Request, RequestId};
use crate::inspect::prose;
use crate::sample::Sampler;
use crate::text::{Encode, TokenId};
use crate::units::Tokens;

/// How prompts are run and shown.
pub(super) struct Many<'a> {
    pub style: &'a Style,
    /// Most sequences at a time.
    pub parallel: u32,
    /// Whether a prompt is repeated before its text.
    pub echo: bool,
    /// Whether each text is an object on a line of its own.
    pub json: bool,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    prompt: &'a str,
    text: Option<&'a str>,
    finish: Option<&'static str>,
    error: Option<String>,
    prompt_tokens: usize,
    shared_tokens: usize,
    generated_tokens: usize,
    first_token_ms: f64,
}

/// One prompt on its way.
struct Asked<'a> {
    prompt: &'a str,
    text: String,
    outcome: Option<Result<Generated>>,
}

impl Asked<'_> {
    /// Whether there is a text to show: not where it could not be continued, or was stopped before its turn.
    fn ran(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| {
            outcome.as_ref().is_ok_and(|made| made.finish != Finish::Stopped || !made.tokens.is_empty())
        })
    }
}

impl Many<'_> {
    /// Continues every prompt; what the steps did goes to `steps`.
    ///
    /// # Errors
    /// A device failed, or a prompt could not be continued; the others are then shown all the same.
    pub fn run(
        &self,
        engine: &mut Engine,
        sampler: &Sampler,
        prompts: &[String],
        steps: Option<&mut Steps>,
    ) -> Result<()> {
        let context = engine.context();
        // A text without an end of its own, or that may drop what it had, has its part of the cache.
        let part = context.0 / self.parallel / Tokens::PAGE.0 * Tokens::PAGE.0;
        let bounded = self.style.most.is_some() && self.style.shift.is_none();
        let length = if bounded { context } else { Tokens(part.max(Tokens::PAGE.0)) };
        let encoded = encoded(engine, prompts)?;
        let started = Instant::now();
        let mut queue = Queue::new(engine, QueueLimits { sequences: self.parallel as usize, length })?;
        let (mut places, mut asked) = (BTreeMap::new(), Vec::new());
        for (prompt, tokens) in prompts.iter().zip(encoded) {
            let Style { most, ignore_end, shift, .. } = *self.style;
            let request = Request { sequence: None, prompt: tokens, most, sampler: sampler.clone(), ignore_end, shift };
            let outcome = match queue.submit(request) {
                Ok(id) => {
                    places.insert(id, asked.len());
                    None
                }
                Err(why) => Some(Err(why.into())),
            };
            asked.push(Asked { prompt, text: String::new(), outcome });
        }
        let shown = self.serve(&mut queue, &places, &mut asked, steps);
        let moved = queue.report().moved;
        drop(queue);
        shown?;
        report(engine, &asked, started.elapsed(), moved);
        match asked.iter().filter(|asked| matches!(asked.outcome, Some(Err(_)) | None)).count() {
            0 => Ok(()),
            failed => bail!("{failed} of {} prompts could not be continued", asked.len()),
        }
    }

    /// Runs all requests; each text is shown once all before it are.
    fn serve(
        &self,
        queue: &mut Queue<'_>,
        places: &BTreeMap<RequestId, usize>,
        asked: &mut [Asked<'_>],
        mut steps: Option<&mut Steps>,
    ) -> Result<()> {
        let mut next = 0;
        interrupt::begin();
        loop {
            let since = Instant::now();
            let more = queue.step(&mut |id, piece| {
                asked[places[&id]].text.push_str(piece);
                !interrupt::asked()
            });
            if let Some(steps) = &mut steps {
                steps.note(since, queue.report());
            }
            if interrupt::asked() {
                places.keys().try_for_each(|&id| queue.cancel(id).map(|_| ()))?;
            }
            while let Some(Finished { id, outcome, .. }) = queue.finished() {
                asked[places[&id]].outcome = Some(outcome.map_err(anyhow::Error::from));
            }
            // After a failure nothing more comes: what is there is shown, with what did not come left out.
            while let Some(done) = asked.get(next).filter(|asked| more.is_err() || asked.outcome.is_some()) {
                self.show((next + 1, asked.len()), done)?;
                next += 1;
            }
            if next == asked.len() {
                interrupt::end();
                return Ok(more.map(|_| ())?);
            }
        }
    }

    fn show(&self, (at, of): (usize, usize), asked: &Asked<'_>) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&line(asked))?)?;
        } else if asked.ran() {
            let prompt = if self.echo { asked.prompt } else { "" };
            let text = format!("[{at}/{of}] {prompt}{}", asked.text);
            let text = if out.is_terminal() { prose(&text) } else { text };
            writeln!(out, "{text}\n")?;
        }
        if let Some(Err(why)) = &asked.outcome {
            note(&format!("prompt {at}: {why}"));
        }
        Ok(out.flush()?)
    }
}

/// Prompts of a file: its lines that are not empty.
pub(super) fn lines(text: &str, unescape: impl Fn(&str) -> String) -> Result<Vec<String>> {
    let prompts: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(unescape).collect();
    if prompts.is_empty() {
        bail!(Usage("the file has no prompts, needed one a line".to_owned()));
    }
    Ok(prompts)
}

fn encoded(engine: &Engine, prompts: &[String]) -> Result<Vec<Vec<TokenId>>> {
    let tokenizer = engine.tokenizer().map_err(|why| anyhow::anyhow!("text needs a tokenizer: {why}"))?;
    let how = Encode { add_special: true, parse_special: true };
    Ok(prompts.iter().map(|prompt| tokenizer.encode(prompt, how)).collect())
}

fn line<'a>(asked: &'a Asked<'_>) -> Line<'a> {
    let (generated, error) = match &asked.outcome {
        Some(Ok(generated)) => (Some(generated), None),
        Some(Err(why)) => (None, Some(why.to_string())),
        None => (None, None),
    };
    Line {
        prompt: asked.prompt,
        text: generated.map(|_| asked.text.as_str()),
        finish: generated.map(|generated| match generated.finish {
            Finish::EndOfGeneration => "stop",
            Finish::Length => "length",
            Finish::ContextFull => "context",
            Finish::Stopped => "interrupted",
        }),
        error,
        prompt_tokens: generated.map_or(0, |g| g.prompt_tokens + g.shared_tokens),
        shared_tokens: generated.map_or(0, |g| g.shared_tokens),
        generated_tokens: generated.map_or(0, |g| g.tokens.len()),
        first_token_ms: generated.map_or(0.0, |g| g.first_token.as_secs_f64() * 1e3),
    }
}

fn report(engine: &Engine, asked: &[Asked<'_>], time: Duration, moved: Compacted) {
    let done: Vec<&Generated> = asked.iter().filter_map(|asked| asked.outcome.as_ref()?.as_ref().ok()).collect();
    let sum = |of: fn(&Generated) -> usize| done.iter().map(|generated| of(generated)).sum::<usize>();
    let (prompt, shared, text) = (sum(|g| g.prompt_tokens), sum(|g| g.shared_tokens), sum(|g| g.tokens.len()));
    let seconds = time.as_secs_f64();
    let ran = asked.iter().filter(|asked| asked.ran()).count();
    note(&format!("texts:       {ran} of {} in {seconds:.2} s", asked.len()));
    note(&format!("prompts:     {prompt} tokens evaluated, {shared} found in the cache"));
    note(&format!("generation:  {text} tokens, {:.1} tokens/s in all", text as f64 / seconds.max(1e-9)));
    if moved.moves > 0 {
        note(&format!("compaction:  {} moves in {} chunks, {} copied", moved.moves, moved.chunks, moved.bytes));
    }
    show_memory(engine);
}
