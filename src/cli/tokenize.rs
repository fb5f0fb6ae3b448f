//! `tokenize`: text → token ids, with the text of each.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;

use super::{Usage, note, open};
use crate::inspect::escape;
use crate::text::{Encode, TokenId, Tokenizer};

/// Show the tokens of a text
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Model file (GGUF), then the text [default: standard input]
    #[arg(value_names = ["MODEL", "TEXT"], num_args = 0..=2)]
    words: Vec<String>,
    /// Model file, if not the first argument
    #[arg(short = 'm', long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// File with the text
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// One JSON array of ids
    #[arg(long)]
    json: bool,
    /// Neither put marks such as <s> around the text nor read them in it
    #[arg(long)]
    no_special: bool,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster tokenize model.gguf 'Once upon a time'
  loadmaster tokenize model.gguf --file story.txt --json
  echo hello | loadmaster tokenize model.gguf";

pub(super) fn run(args: Args) -> Result<()> {
    let mut words = args.words.into_iter();
    let model = args.model.or_else(|| words.next().map(PathBuf::from));
    let model = model.ok_or_else(|| Usage("needed a model file, found none".to_owned()))?;
    let given = words.next();
    if words.next().is_some() || (given.is_some() && args.file.is_some()) {
        return Err(Usage("needed one text, found several".to_owned()).into());
    }
    let text = match (given, &args.file) {
        (Some(text), _) => text,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file);
            text.with_context(|| format!("{}: cannot read the text", file.display()))?
        }
        (None, None) => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("standard input: cannot read the text")?;
            text
        }
    };
    let gguf = open::gguf(&model)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    open::tokenizer_notes(&tokenizer).iter().for_each(|n| note(&format!("note: {n}")));
    let special = !args.no_special;
    let tokens = tokenizer.encode(&text, Encode { add_special: special, parse_special: special });
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&tokens)?)?,
        false => tokens.iter().try_for_each(|&t| writeln!(out, "{:>6}  {}", t.0, piece(&tokenizer, t)))?,
    }
    Ok(out.flush()?)
}

/// The text of a token; bytes that are no text alone as `\x..`.
fn piece(tokenizer: &Tokenizer, token: TokenId) -> String {
    let bytes = tokenizer.piece(token);
    std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), escape)
}
