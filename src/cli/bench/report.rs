//! `bench report`: the records of a folder → one HTML page.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use crate::bench::{Reported, read_record, report};
use crate::cli::note;

/// Draw all records of a folder on one HTML page
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Folder of records, as --record writes them; other files are left out
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster bench report bench-results -o report.html
  loadmaster bench report bench-results > report.html";

pub(super) fn run(args: &Args) -> Result<()> {
    let mut reported = Reported::default();
    for path in files(&args.folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match read_record(&path) {
            Ok(record) => reported.records.push((name, record)),
            Err(why) => {
                note(&format!("note: left out: {why}"));
                let (why, folder) = (why.to_string(), format!("{}: ", path.display()));
                reported.left_out.push((name, why.strip_prefix(&folder).unwrap_or(&why).to_owned()));
            }
        }
    }
    if reported.records.is_empty() {
        bail!("{}: there is no record of `bench` in this folder", args.folder.display());
    }
    let page = report(&reported);
    match &args.out {
        Some(file) => fs::write(file, page).with_context(|| format!("{}: cannot write the page", file.display())),
        None => Ok(io::stdout().lock().write_all(page.as_bytes())?),
    }
}

/// The folder's JSON files, in order of names.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).with_context(|| format!("{}: cannot list it", folder.display()))?;
    let paths = listed.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>();
    let mut paths = paths.with_context(|| format!("{}: cannot list it", folder.display()))?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json") && path.is_file());
    paths.sort();
    Ok(paths)
}
