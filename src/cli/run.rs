//! `run`: a prompt → text as it comes, then how fast it came and what it took.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::args::{EngineArgs, MOST_TOKENS, SampleArgs};
use super::prompts::{self, Many};
use super::session::{self, SessionArgs};
use super::steps::Steps;
use super::{Usage, chat, interrupt, note, open, shipped, trace};
use crate::bench::host;
use crate::engine::{Engine, Finish, Generate, Generated, SavedFile};
use crate::inspect::prose;
use crate::sample::Sampler;
use crate::units::Tokens;

/// Write text: continue a prompt, or chat
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Model file (GGUF); of a split model any part [default: the built-in one]
    #[arg(value_name = "MODEL")]
    positional: Option<PathBuf>,
    /// The same as MODEL
    #[arg(short = 'm', long, value_name = "MODEL", conflicts_with = "positional")]
    model: Option<PathBuf>,
    /// Text to continue; \n, \t, \" and \\ stand for what they do in llama.cpp
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    prompt: Option<String>,
    /// File with the text to continue
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Continue every line of the file, so many at a time; \n in a line stands for a new one [-np]
    #[arg(long, value_name = "N", requires = "file", conflicts_with_all = ["prompt", "conversation"], allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=4096))]
    parallel: Option<u32>,
    /// With --parallel: an object a line instead of text
    #[arg(long, requires = "parallel")]
    json: bool,
    /// Write what every device did and when, on the rows of `sim --trace`, for Perfetto or Chrome; with --parallel also the
    /// steps and what was weighed between them. Work that a device would have under way together is waited for
    #[arg(long, value_name = "FILE", conflicts_with = "conversation")]
    trace: Option<PathBuf>,
    /// Chat: lines from the keyboard, answers from the model [-cnv]
    #[arg(long, conflicts_with_all = ["file", "no_conversation"])]
    conversation: bool,
    /// Continue the prompt, the default [-no-cnv]
    #[arg(long)]
    no_conversation: bool,
    /// What a chat's model is told first [-sys]
    #[arg(long, value_name = "TEXT", requires = "conversation", allow_hyphen_values = true)]
    system_prompt: Option<String>,
    /// Tokens to write at most; -1 until the model ends or the context is full
    #[arg(short = 'n', long = "n-predict", visible_alias = "predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    most: i64,
    /// Size of the context: tokens of prompt and answer that fit, of all prompts together [default: the model's, at most 4096; 0: the model's; times --parallel]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=super::args::MOST_TOKENS))]
    ctx_size: Option<u32>,
    /// When the context is full, drop the older half of what follows --keep and go on; without this the text ends
    #[arg(long, conflicts_with = "conversation")]
    context_shift: bool,
    /// Tokens at the beginning that --context-shift keeps, rounded up to whole pages of 16; -1 the whole prompt
    #[arg(long, value_name = "N", requires = "context_shift", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
    keep: i32,
    /// Go on after tokens that end a text
    #[arg(long)]
    ignore_eos: bool,
    /// Do not repeat the prompt before its continuation
    #[arg(long)]
    no_display_prompt: bool,
    /// Take the prompt as it is, backslashes too
    #[arg(long)]
    no_escape: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    sample: SampleArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster run                                           the built-in model tells a story
  loadmaster run model.gguf -p 'Once upon a time' -n 64 --temp 0
  loadmaster run -m model.gguf -f prompt.txt -c 8192 -t 4
  loadmaster run model.gguf --parallel 8 -f prompts.txt -n 64
  loadmaster run model.gguf -f book.txt -n 0 --save-session book.session
  loadmaster run model.gguf --load-session book.session -p 'In short:'
  loadmaster run model.gguf -cnv -sys 'Answer in one sentence.'

Text goes to stdout, speed and memory to stderr. Ctrl-C ends an answer, a second one the program.";

/// How answers are made, for one prompt and for chats.
pub(super) struct Style {
    /// Most tokens of an answer.
    pub most: Option<usize>,
    /// Whether ends are written over.
    pub ignore_end: bool,
    /// Tokens that a full context keeps, if it drops others.
    pub shift: Option<Tokens>,
    /// When the program started.
    pub start: Instant,
}

pub(super) fn run(args: Args, start: Instant) -> Result<()> {
    let shift = args.context_shift.then_some(Tokens(u32::try_from(args.keep).unwrap_or(u32::MAX)));
    let target = args.session.target()?;
    let mut style = Style { most: usize::try_from(args.most).ok(), ignore_end: args.ignore_eos, shift, start };
    let path = args.model.as_deref().or(args.positional.as_deref());
    let task = task(&args, path)?;
    let sampler = Sampler::new(args.sample.options()).map_err(|e| Usage(e.to_string()))?;
    let gguf = path.map_or_else(shipped::open, open::gguf)?;
    let context = open::context(&gguf, args.ctx_size)?;
    let parallel = task.parallel(&args);
    let trace = args.trace.as_deref().map(|path| File::create(path).with_context(|| path.display().to_string()));
    let trace = trace.transpose()?;
    let context = match args.ctx_size {
        Some(1..) => context,
        Some(0) | None => Tokens(context.0.saturating_mul(parallel).min(MOST_TOKENS as u32)),
    };
    let most = open::Most { outputs: parallel, sequences: parallel };
    let mut engine = open::engine(gguf, &args.engine, context, most)?;
    let tokenizer = engine.tokenizer().map_err(|e| anyhow::anyhow!("text needs a tokenizer: {e}"))?;
    // What begins every text is never dropped: models lean on it.
    style.shift = style.shift.map(|keep| keep.max(Tokens(tokenizer.adds_bos().into())));
    open::tokenizer_notes(tokenizer).iter().for_each(|n| note(&format!("note: {n}")));
    interrupt::listen()?;
    let mut steps = trace.as_ref().map(|_| {
        engine.session().trace();
        Steps::new(engine.session().machine().devices.len())
    });
    let done = match task {
        Task::Lines(prompts) => {
            let many = Many { style: &style, parallel, echo: !args.no_display_prompt, json: args.json };
            many.run(&mut engine, &sampler, &prompts, steps.as_mut())
        }
        Task::Text(prompt) => {
            let text = Text { style: &style, session: &args.session, target, echo: !args.no_display_prompt };
            text.run(&mut engine, sampler, &prompt)
        }
        Task::Chat(first) => chat::chat(&mut engine, sampler, &style, args.system_prompt, first),
    };
    let traced = trace.zip(steps).map_or(Ok(()), |(file, steps)| trace::write(file, engine.session(), steps));
    done.and(traced)
}

/// What is asked for.
enum Task {
    /// A text is continued.
    Text(String),
    /// Several are, side by side.
    Lines(Vec<String>),
    /// Lines from the keyboard are answered; the first may be given.
    Chat(Option<String>),
}

impl Task {
    /// Sequences at a time.
    fn parallel(&self, args: &Args) -> u32 {
        match self {
            Task::Lines(prompts) => args.parallel.unwrap_or(1).min(prompts.len() as u32),
            Task::Text(_) | Task::Chat(_) => 1,
        }
    }
}

fn task(args: &Args, path: Option<&Path>) -> Result<Task> {
    let escaped = |text: &str| if args.no_escape { text.to_owned() } else { unescape(text) };
    Ok(match (args.conversation, args.parallel) {
        (true, _) => Task::Chat(args.prompt.as_deref().map(escaped)),
        (false, None) => Task::Text(prompt(args, path)?),
        (false, Some(_)) => Task::Lines(prompts::lines(&prompt(args, path)?, escaped)?),
    })
}

/// The text to continue.
fn prompt(args: &Args, path: Option<&Path>) -> Result<String> {
    let text = match (&args.prompt, &args.file, path) {
        (Some(text), _, _) if args.no_escape => text.clone(),
        (Some(text), _, _) => unescape(text),
        (None, Some(file), _) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("{}: cannot read the prompt", file.display()))?;
            // Editors end files with a newline that is not meant.
            text.strip_suffix('\n').map_or(text.clone(), str::to_owned)
        }
        (None, None, _) if args.session.load_session.is_some() => return Ok(String::new()),
        (None, None, None) => shipped::PROMPT.to_owned(),
        (None, None, Some(_)) => bail!(Usage("needed a prompt, found none: give -p TEXT, -f FILE or -cnv".to_owned())),
    };
    if text.is_empty() {
        bail!(Usage("the prompt is empty, needed text to continue".to_owned()));
    }
    Ok(text)
}

/// The escapes that llama.cpp's `-p` knows, without `\x`; others stay as they are.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let next = if c == '\\' { chars.clone().next() } else { None };
        let meant = match next {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(same @ ('\'' | '"' | '\\')) => same,
            Some(_) | None => {
                out.push(c);
                continue;
            }
        };
        chars.next();
        out.push(meant);
    }
    out
}

/// How one text is continued.
struct Text<'a> {
    style: &'a Style,
    session: &'a SessionArgs,
    target: Option<SavedFile>,
    /// Whether the prompt is shown.
    echo: bool,
}

impl Text<'_> {
    fn run(&self, engine: &mut Engine, mut sampler: Sampler, prompt: &str) -> Result<()> {
        let mut history = self.session.history(engine)?;
        let tokens = history.continued_by(engine, prompt)?;
        self.fits(engine, history.length(), tokens.len())?;
        let ready = self.style.start.elapsed();
        if self.echo {
            show(prompt)?;
        }
        let Style { most, ignore_end, shift, .. } = *self.style;
        let sequence = history.sequence;
        let request = Generate { sequence, prompt: &tokens, most, sampler: &mut sampler, ignore_end, shift };
        let generated = stream(engine, request)?;
        writeln!(io::stdout())?;
        report(engine, &generated, Some(ready));
        session::save(engine, sequence, &tokens, &generated, self.target.as_ref())
    }

    /// Refuses a prompt that leaves no room behind what is `held`.
    fn fits(&self, engine: &Engine, held: Tokens, tokens: usize) -> Result<()> {
        let (room, follow) = (engine.context().index(), self.style.most.unwrap_or(1));
        let read = held.index() + tokens;
        let needed = read.saturating_add(follow);
        if needed > room && (self.style.shift.is_none() || read > room) {
            let before = if held.0 > 0 { format!("{} are held, ", held.0) } else { String::new() };
            bail!(
                "the prompt has {tokens} tokens, {before}and {follow} shall follow, which makes {needed}; the context \
                 has room for {room}: give a larger -c or a smaller -n"
            );
        }
        Ok(())
    }
}

/// Runs a request; a reader that has gone, or Ctrl-C, stops it.
pub(super) fn stream(engine: &mut Engine, request: Generate<'_>) -> Result<Generated> {
    let mut written = Ok(());
    interrupt::begin();
    let generated = engine.generate(request, |text| {
        written = show(text);
        written.is_ok() && !interrupt::asked()
    });
    interrupt::end();
    let generated = generated?;
    written?;
    Ok(generated)
}

/// Text to stdout at once; what could drive a terminal does not reach one.
fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.is_terminal() {
        true => out.write_all(prose(text).as_bytes())?,
        false => out.write_all(text.as_bytes())?,
    }
    out.flush()
}

/// Speed and memory on stderr; `ready` is the time from the program's start to the prompt's evaluation, where that counts.
pub(super) fn report(engine: &Engine, generated: &Generated, ready: Option<Duration>) {
    let Generated { tokens, finish, prompt_tokens, shared_tokens: _, first_token, rest } = generated;
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let why = match finish {
        Finish::EndOfGeneration => "the model ended",
        Finish::Length => "as many as asked for",
        Finish::ContextFull => "the context is full",
        Finish::Stopped => "stopped",
    };
    note("");
    note(&format!("prompt:      {prompt_tokens} tokens, {:.1} tokens/s", rate(*prompt_tokens, *first_token)));
    note(&format!(
        "generation:  {} tokens, {:.1} tokens/s; {why}",
        tokens.len(),
        rate(tokens.len().saturating_sub(1), *rest)
    ));
    let since_start = ready.map_or(String::new(), |r| format!(", {:.1} ms after the start", ms(r + *first_token)));
    note(&format!("first token: {:.1} ms after the prompt{since_start}", ms(*first_token)));
    show_memory(engine);
}

/// What was allocated, on stderr, and what devices did that it had to be allocated again for.
pub(super) fn show_memory(engine: &Engine) {
    engine.incidents().iter().for_each(|incident| note(&format!("note: {incident}")));
    let memory = engine.memory();
    let resident = host::resident().map_or("unknown".to_owned(), |b| b.to_string());
    note(&format!(
        "memory:      weights {}, cache {}, arena {}, resident {resident}",
        memory.weights, memory.states, memory.arenas
    ));
    for (name, held) in engine.memories().filter(|_| engine.memories().len() > 1) {
        note(&format!("  {name}: weights {}, cache {}, arena {}", held.weights, held.states, held.arenas));
    }
}
