//! The program: arguments → [`loadmaster::cli`] → an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadmaster::cli::main()
}
