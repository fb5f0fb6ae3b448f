//! `logits`: token ids → the logits after each, as a NumPy file.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::args::{EngineArgs, ModelArg};
use super::npy::Npy;
use super::{Usage, note, open};
use crate::units::Tokens;

/// Write the logits after each of some tokens to a NumPy file
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Token ids, separated by commas or spaces
    #[arg(long, value_name = "IDS", required_unless_present = "tokens_file", conflicts_with = "tokens_file")]
    tokens: Option<String>,
    /// File with token ids
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// File to write: float32 [tokens, vocabulary]
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens computed in one step; the result is the same for all [default: -ub]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: Option<u32>,
    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster logits model.gguf --tokens 1,403,407 --out logits.npy
  loadmaster logits model.gguf --tokens-file ids.txt --out logits.npy --batch 1
  python3 -c \"import numpy; print(numpy.load('logits.npy').shape)\"";

pub(super) fn run(args: Args) -> Result<()> {
    let text = match (&args.tokens, &args.tokens_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("{}: cannot read the token ids", file.display()))?
        }
        (None, None) => bail!(Usage("needed --tokens or --tokens-file".to_owned())),
    };
    let ids = parse(&text)?;
    let mut options = args.engine;
    options.ubatch_size = args.batch.unwrap_or(options.step());
    options.batch_size = options.ubatch_size;
    let gguf = open::gguf(&args.model.path())?;
    let outputs = options.step().min(64);
    let most = open::Most { outputs: outputs.max(args.batch.unwrap_or(1)), sequences: 1 };
    let mut engine = open::engine(gguf, &options, Tokens(ids.len() as u32), most)?;
    let (rows, columns) = (ids.len(), engine.logits_width());
    let failed = || format!("{}: cannot write it", args.out.display());
    let file = File::create(&args.out).with_context(failed)?;
    let mut npy = Npy::new(BufWriter::with_capacity(1 << 20, file), rows, columns).with_context(failed)?;
    let sequence = engine.start();
    let mut written = Ok(());
    engine.feed_all(sequence, &ids, |_, logits| {
        if written.is_ok() {
            written = npy.write(logits);
        }
    })?;
    written.and_then(|()| npy.finish()).with_context(failed)?;
    note(&format!("{}: float32 [{rows}, {columns}]", args.out.display()));
    Ok(())
}

/// Ids separated by anything but digits, letters and signs.
fn parse(text: &str) -> Result<Vec<u32>> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty());
    let id = |word: &str| word.parse().map_err(|_| Usage(format!("{word:?} is no token id, needed a number")));
    let ids = words.map(id).collect::<Result<Vec<u32>, Usage>>()?;
    match ids.is_empty() {
        true => bail!(Usage("found no token ids, needed at least one".to_owned())),
        false => Ok(ids),
    }
}
