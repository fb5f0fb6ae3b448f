//! `completions`: a shell's name → its completion script.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster completions bash > ~/.local/share/bash-completion/completions/loadmaster
  loadmaster completions zsh > ~/.zfunc/_loadmaster
  loadmaster completions fish > ~/.config/fish/completions/loadmaster.fish";

pub(super) fn run(args: &Args) -> Result<()> {
    // The generator panics where its writer fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "loadmaster", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}
