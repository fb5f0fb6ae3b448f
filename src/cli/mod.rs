//! Arguments → one subcommand → text on stdout, news on stderr, an exit code: 0, 1 for a failure, 2 for wrong usage.
//! The only module that prints. What a file says is escaped before it reaches a terminal.

mod args;
mod argv;
mod bench;
mod budget;
mod cards;
mod chat;
mod compare;
mod completions;
mod devices;
mod fit;
mod inspect;
mod interrupt;
mod logits;
mod npy;
mod open;
mod perplexity;
mod planning;
mod progress;
mod prompts;
mod run;
mod session;
mod shipped;
mod sim;
mod steps;
mod synth;
mod tokenize;
mod trace;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

pub use argv::rewrite;

/// Run, measure and inspect language models in GGUF files.
#[derive(Debug, Parser)]
#[command(name = "loadmaster", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster run                                     the built-in model tells a story
  loadmaster run model.gguf -p 'The capital of France is' -n 32
  loadmaster run model.gguf -cnv                     chat
  loadmaster inspect model.gguf                      what is in a file, and what would run where
  loadmaster synth llama-1b --type q4_k -o m.gguf && loadmaster bench m.gguf
  loadmaster bench report bench-results > r.html     all records of a folder on one page
  loadmaster compare m.gguf --devices cpu,vulkan:0   which node computes something else, and how fast
  loadmaster devices --machine rtx4090               a machine that plans can be made for

`loadmaster COMMAND --help` has more. Options of llama.cpp such as -m, -ngl, -ub and -ctk work here too.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Logits(logits::Args),
    Tokenize(tokenize::Args),
    Inspect(inspect::Args),
    Synth(synth::Args),
    Fit(fit::Args),
    Sim(sim::Args),
    Bench(bench::Args),
    Compare(compare::Args),
    Devices(devices::Args),
    Perplexity(perplexity::Args),
    Completions(completions::Args),
}

/// The program. Times to the first token count from here.
pub fn main() -> ExitCode {
    let start = Instant::now();
    let cli = match Cli::try_parse_from(rewrite(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // A terminal that is gone needs no message.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(args, start),
        Command::Logits(args) => logits::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Fit(args) => fit::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Completions(args) => completions::run(&args),
    };
    done.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// An argument that the parser cannot judge alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// One line on stderr; a reader of stdout that has gone is no failure.
fn failed(error: &anyhow::Error) -> ExitCode {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(gone) {
        return ExitCode::SUCCESS;
    }
    note(&format!("error: {}", in_one_line(error)));
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

/// An error with its causes.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many messages quote their cause already.
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A line on stderr, harmless to a terminal.
fn note(text: &str) {
    use io::Write;
    // There is nowhere else to say that stderr is gone.
    let _ = writeln!(io::stderr(), "{}", crate::inspect::one_line(text));
}
