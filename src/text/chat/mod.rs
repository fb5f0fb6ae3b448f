//! Chat templates: a conversation → the one text that a model was trained to continue, through the file's Jinja template.
//! The environment is that of Hugging Face's `apply_chat_template` (`trim_blocks`, `lstrip_blocks`, Python's methods,
//! `tojson`, `raise_exception`, `strftime_now`). A template is foreign code: it gets no files, no other templates, a
//! budget of instructions, of memory and of time, and a thread of its own.

mod calls;
mod guard;
mod ledger;
mod python;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use minijinja::machinery::{self, CompiledTemplate, TemplateConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::gguf::{GgufError, Metadata};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    fn value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// What a template is given.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// The messages, oldest first.
    pub messages: &'a [Message],
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// The text of the beginning-of-sequence token; empty without one.
    pub bos: &'a str,
    /// The text of the end-of-sequence token; empty without one.
    pub eos: &'a str,
}

/// Where a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateOrigin {
    /// `tokenizer.chat_template` of the file.
    File,
    /// The file has none: ChatML, `<|im_start|>role\ncontent<|im_end|>\n` for each message.
    Fallback,
}

/// Why a conversation has no text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// `tokenizer.chat_template` is no text.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// The template is no Jinja that is understood here.
    #[error("the chat template does not parse: {reason}")]
    Syntax {
        /// What and where.
        reason: String,
    },
    /// The template refused the conversation (`raise_exception`) or failed on it.
    #[error("the chat template failed: {reason}")]
    Render {
        /// What and where.
        reason: String,
    },
    /// The template did not end within its budget.
    #[error("the chat template did not end within {needed}")]
    Budget {
        /// The budget.
        needed: String,
    },
    /// The system gave no thread to render in.
    #[error("no thread for the chat template: {reason}")]
    Thread {
        /// What the system said.
        reason: String,
    },
}

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: Arc<str>,
    origin: TemplateOrigin,
}

/// Bytes of a template; the largest published ones have some 20,000.
const SOURCE: usize = 1 << 17;
/// Instructions of a template: a fixed part, and a part for each message. Of seventy published templates, none used
/// more than 1,003 for five messages, not counting those of [`guard`].
const FUEL: u64 = 50_000;
const FUEL_A_MESSAGE: u64 = 5_000;
/// Bytes of values that a template may build in all, by the measure of [`ledger`]: a fixed part, a part for each message,
/// and so many for each byte of the conversation.
const MEMORY: usize = 64 << 20;
const MEMORY_A_MESSAGE: usize = 64 << 10;
const MEMORY_A_BYTE: usize = 128;
const MEMORY_AT_MOST: usize = 1 << 30;
/// Text that a template may write besides four times what it was given.
const OUTPUT: usize = 4 << 20;
/// Time for one rendering.
const TIME: Duration = Duration::from_secs(2);
/// Stack of the rendering thread: the engine's recursion limit needs a part of it.
const STACK: usize = 16 << 20;

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
                      + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const NAME: &str = "chat_template";

impl ChatTemplate {
    /// The file's template, or ChatML where it has none.
    ///
    /// # Errors
    /// A template that is no text or does not parse.
    pub fn from_metadata(metadata: &Metadata) -> Result<ChatTemplate, TemplateError> {
        match metadata.str("tokenizer.chat_template")? {
            Some(source) => ChatTemplate::new(source),
            None => ChatTemplate::compile(CHATML, TemplateOrigin::Fallback),
        }
    }

    /// A template from its source.
    ///
    /// # Errors
    /// A source that does not parse.
    pub fn new(source: &str) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::compile(source, TemplateOrigin::File)
    }

    /// Where the template comes from.
    pub fn origin(&self) -> TemplateOrigin {
        self.origin
    }

    /// The text of a conversation. Marks such as `<|im_start|>` are in it as text: encode it with
    /// `parse_special`, and without `add_special` where it starts with bos itself.
    ///
    /// # Errors
    /// The template's own refusal, a failure in it, or a budget it exceeds.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TemplateError> {
        let messages = conversation.messages.len();
        let given: usize = conversation.messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let limits = Limits {
            fuel: FUEL + FUEL_A_MESSAGE * messages as u64,
            memory: MEMORY
                .saturating_add(messages.saturating_mul(MEMORY_A_MESSAGE))
                .saturating_add(given.saturating_mul(MEMORY_A_BYTE))
                .min(MEMORY_AT_MOST),
            output: OUTPUT.saturating_add(given.saturating_mul(4)),
        };
        let source = Arc::clone(&self.source);
        let context = context! {
            messages => conversation.messages.iter().map(Message::value).collect::<Vec<Value>>(),
            add_generation_prompt => conversation.add_generation_prompt,
            bos_token => conversation.bos,
            eos_token => conversation.eos,
            tools => (),
            documents => (),
        };
        in_thread(move || render(&source, context, limits))
    }

    fn compile(source: &str, origin: TemplateOrigin) -> Result<ChatTemplate, TemplateError> {
        if source.len() > SOURCE {
            let reason = format!("it has {} bytes, needed at most {SOURCE}", source.len());
            return Err(TemplateError::Syntax { reason });
        }
        let source = python::without_generation_marks(source);
        in_thread(move || {
            let source: Arc<str> = guard::unfolded(&source, &syntax()?).into();
            compiled(&source)?;
            Ok(ChatTemplate { source, origin })
        })
    }
}

/// What one rendering may use.
struct Limits {
    /// Instructions.
    fuel: u64,
    /// Bytes of values, of all that were ever built.
    memory: usize,
    /// Bytes of text.
    output: usize,
}

fn syntax() -> Result<SyntaxConfig, TemplateError> {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.map_err(|e| TemplateError::Syntax { reason: explain(&e) })
}

fn compiled(source: &str) -> Result<CompiledTemplate<'_>, TemplateError> {
    let config = TemplateConfig { syntax_config: syntax()?, default_auto_escape: Arc::new(|_| AutoEscape::None) };
    let compiled = CompiledTemplate::new(NAME, source, &config);
    let mut template = compiled.map_err(|e| TemplateError::Syntax { reason: explain(&e) })?;
    guard::guard(&mut template);
    Ok(template)
}

fn render(source: &str, context: Value, limits: Limits) -> Result<String, TemplateError> {
    let Limits { fuel, memory, output } = limits;
    let template = compiled(source)?;
    let mut environment = Environment::new();
    calls::install(&mut environment);
    guard::install(&mut environment);
    python::install(&mut environment);
    environment.set_fuel(Some(fuel));
    ledger::open(memory);
    let mut text = String::new();
    let mut writer = machinery::make_string_output(&mut text);
    let (code, blocks) = (&template.instructions, &template.blocks);
    let rendered = machinery::eval(&environment, code, context, blocks, &mut writer, AutoEscape::None);
    let rendered = rendered.map(drop).map_err(|e| match e.kind() {
        minijinja::ErrorKind::OutOfFuel if ledger::is_spent() => {
            TemplateError::Budget { needed: format!("{memory} bytes of values") }
        }
        minijinja::ErrorKind::OutOfFuel => TemplateError::Budget { needed: format!("{fuel} instructions") },
        _ => TemplateError::Render { reason: explain(&e) },
    });
    rendered?;
    if text.len() > output {
        return Err(TemplateError::Budget { needed: format!("{output} bytes of text") });
    }
    Ok(text)
}

/// Runs `work` with its own stack and for at most [`TIME`]; a thread that takes longer is left to its budget.
fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TemplateError> + Send + 'static,
) -> Result<T, TemplateError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name("chat-template".into()).stack_size(STACK).spawn(move || {
        // Nobody listens any more when the time is over.
        drop(sender.send(work()));
    });
    spawned.map_err(|e| TemplateError::Thread { reason: e.to_string() })?;
    match receiver.recv_timeout(TIME) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(TemplateError::Budget { needed: format!("{TIME:?}") }),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(TemplateError::Render { reason: "the template engine gave up".to_owned() })
        }
    }
}

/// The error with the line of the template and its causes, on one line.
fn explain(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
