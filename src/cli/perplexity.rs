//! `perplexity`: a text → how well the model foresees it, or how far its logits are from another engine's.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::args::{EngineArgs, ModelArg};
use super::progress::Bar;
use super::{Usage, open};
use crate::bench::{
    BaseError, BaseFile, Divergence, DivergenceSummary, Estimate, Perplexity, PerplexityError, evaluate, score,
};
use crate::engine::Engine;
use crate::gguf::Gguf;
use crate::text::{Encode, Tokenizer};
use crate::units::Tokens;

/// Measure how well a model foresees a text, or compare its logits with llama.cpp's
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// File with the text
    #[arg(short, long, value_name = "FILE", required_unless_present = "kl_divergence_base")]
    file: Option<PathBuf>,
    /// Tokens of a chunk; the second half of each is scored
    #[arg(short, long, value_name = "N", default_value_t = 512, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(4..=super::args::MOST_TOKENS))]
    ctx_size: u32,
    /// Chunks at most
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    chunks: Option<i64>,
    /// Compare with this file of log-probabilities, which llama.cpp's perplexity tool writes under the same option
    #[arg(long, value_name = "FILE")]
    kl_divergence_base: Option<PathBuf>,
    /// Taken for granted with --kl-divergence-base; here so that llama.cpp's command line works
    #[arg(long, requires = "kl_divergence_base")]
    kl_divergence: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster perplexity model.gguf -f text.txt -c 512 --chunks 20
  llama-perplexity -m model-f16.gguf -f text.txt --kl-divergence-base base.kld
  loadmaster perplexity model-q4_k.gguf --kl-divergence-base base.kld";

pub(super) fn run(args: Args) -> Result<()> {
    let most = match args.chunks {
        Some(0) => bail!(Usage("--chunks 0 leaves nothing to measure".to_owned())),
        Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let gguf = open::gguf(&args.model.path())?;
    match (&args.kl_divergence_base, &args.file) {
        (Some(base), _) => divergence(gguf, &args.engine, base, most),
        (None, Some(file)) => perplexity(gguf, &args.engine, file, args.ctx_size as usize, most),
        (None, None) => bail!(Usage("needed -f FILE or --kl-divergence-base FILE".to_owned())),
    }
}

fn perplexity(gguf: Gguf, options: &EngineArgs, file: &Path, context: usize, most: usize) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot read the text", file.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    let how = Encode { add_special: true, parse_special: false };
    let tokens: Vec<u32> = tokenizer.encode(&text, how).iter().map(|t| t.0).collect();
    if tokens.len() < 2 * context {
        return Err(PerplexityError::Short { found: tokens.len(), needed: 2 * context, context }.into());
    }
    let chunks = (tokens.len() / context).min(most);
    let mut engine = engine(gguf, options, context)?;
    let mut sum = Perplexity::default();
    let bar = Bar::steps("chunks");
    evaluate(
        &mut engine,
        &tokens[..chunks * context],
        context,
        bos(&tokenizer),
        |_, _, logits, came| sum.add(&score(logits, came)),
        |done| bar.at(done as u64, chunks as u64),
    )?;
    drop(bar);
    let (value, error) = sum.value();
    writeln!(
        io::stdout(),
        "Final estimate: PPL = {value:.4} +/- {error:.5} ({} tokens scored in {chunks} chunks)",
        sum.count()
    )?;
    Ok(())
}

fn divergence(gguf: Gguf, options: &EngineArgs, base: &Path, most: usize) -> Result<()> {
    let mut base = BaseFile::open(base)?;
    // Marks are known from the file's vocabulary; without one no chunk starts with bos.
    let bos = Tokenizer::from_metadata(gguf.metadata()).ok().as_ref().and_then(bos);
    let (context, chunks) = (base.context(), base.chunks().min(most));
    let mut engine = engine(gguf, options, context)?;
    if engine.logits_width() < base.vocab() {
        bail!(
            "the base file has {} logits a row, the model {}: they are of different models",
            base.vocab(),
            engine.logits_width()
        );
    }
    let tokens = base.tokens()[..chunks * context].to_vec();
    let (mut sum, mut row, mut failed): (_, _, Option<BaseError>) = (Divergence::default(), Vec::new(), None);
    let bar = Bar::steps("chunks");
    evaluate(
        &mut engine,
        &tokens,
        context,
        bos,
        |_, _, logits, came| match base.next_row(&mut row) {
            Ok(()) => sum.add(&logits[..row.len()], &row, came),
            Err(why) => failed = failed.take().or(Some(why)),
        },
        |done| bar.at(done as u64, chunks as u64),
    )?;
    drop(bar);
    if let Some(why) = failed {
        return Err(why.into());
    }
    let summary = sum.summary().context("the base file has too few scored tokens for statistics")?;
    Ok(io::stdout().write_all(statistics(&summary).as_bytes())?)
}

fn engine(gguf: Gguf, options: &EngineArgs, context: usize) -> Result<Engine> {
    let outputs = options.step().min(128);
    open::engine(gguf, options, Tokens(context as u32), open::Most { outputs, sequences: 1 })
}

/// What stands over the first token of a chunk.
fn bos(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.special_ids().bos.filter(|_| tokenizer.adds_bos()).map(|t| t.0)
}

/// The lines of llama.cpp's tool.
fn statistics(summary: &DivergenceSummary) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| out.push_str(&format!("{name}: {value}\n"));
    let both = |e: Estimate| format!("{:10.6} ± {:10.6}", e.mean, e.error);
    let percent = |e: Estimate| format!("{:7.3} ± {:6.3} %", 100.0 * e.mean, 100.0 * e.error);
    line("Scored tokens                 ", format!("{:10}", summary.count));
    line("Mean PPL(Q)                   ", both(summary.perplexity));
    line("Mean PPL(base)                ", both(summary.base));
    line("Cor(ln(PPL(Q)), ln(PPL(base)))", format!("{:7.3} %", 100.0 * summary.correlation));
    line("Mean ln(PPL(Q)/PPL(base))     ", both(summary.log_ratio));
    line("Mean PPL(Q)/PPL(base)         ", both(summary.ratio));
    line("Mean    KLD", both(summary.kld));
    for (fraction, name) in PLACES {
        line(&format!("{name:7} KLD"), format!("{:10.6}", summary.kld_percentile(fraction)));
    }
    line("Mean    Δp", percent(summary.change));
    for (fraction, name) in PLACES {
        line(&format!("{name:7} Δp"), format!("{:7.3} %", 100.0 * summary.change_percentile(fraction)));
    }
    line("RMS Δp    ", percent(summary.change_rms));
    line("Same top p", percent(summary.same_top));
    out
}

/// Fractions of tokens and their names.
const PLACES: [(f64, &str); 11] = [
    (1.0, "Maximum"),
    (0.999, "99.9%"),
    (0.99, "99.0%"),
    (0.95, "95.0%"),
    (0.9, "90.0%"),
    (0.5, "Median"),
    (0.1, "10.0%"),
    (0.05, "5.0%"),
    (0.01, "1.0%"),
    (0.001, "0.1%"),
    (0.0, "Minimum"),
];
