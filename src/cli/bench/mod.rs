//! `bench`: llama-bench's tests on a model, for every combination of settings → its table or its JSON, and a record if
//! asked; records → a page, or what moved between two of them.

mod batched;
mod diff;
mod families;
mod report;
mod sweep;
mod table;

use std::fs::{self, File};
use std::io::{self, StdoutLock, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde::Serialize;

use self::sweep::SweepArgs;
use self::table::Table;
use super::args::{EngineArgs, ModelArg};
use super::{Usage, note, open};
use crate::bench::{Kind, Model, Record, Row, Test, foresee, host, memories, time, time_activities};
use crate::cli::cards::{Cards, DeviceName};
use crate::engine::Engine;
use crate::units::Tokens;

/// Measure speed with the tests of llama-bench
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    records: Option<Records>,
    #[command(flatten)]
    model: ModelArg,
    /// Tokens of the prompt test, or several numbers; 0 leaves it out
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "256", allow_negative_numbers = true, value_parser = length())]
    n_prompt: Vec<u32>,
    /// Tokens of the generation test, or several numbers; 0 leaves it out
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "32", allow_negative_numbers = true, value_parser = length())]
    n_gen: Vec<u32>,
    /// Sequences side by side, or several numbers: the tests of llama-batched-bench instead, with -p and -n for each sequence [-npl]
    #[arg(long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=4096))]
    parallel: Vec<u32>,
    /// Repetitions
    #[arg(short, long, value_name = "N", default_value_t = 3, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=10000))]
    repetitions: u32,
    /// llama-bench's table or its JSON
    #[arg(short, long, value_enum, default_value_t = Format::Md, conflicts_with = "json")]
    output: Format,
    /// The same as -o json
    #[arg(long)]
    json: bool,
    /// Also write a record with the machine's facts into this folder
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Revision to write into records [default: the one this program was built from, if known]
    #[arg(long, value_name = "ID")]
    commit: Option<String>,
    /// Also measure time by family of ops, every node alone, on each device that the whole model fits; for records
    #[arg(long, requires = "record", conflicts_with = "parallel")]
    families: bool,
    #[command(flatten)]
    sweep: SweepArgs,
}

/// What is done with records; a model of such a name is given as ./report or with -m.
#[derive(Debug, Subcommand)]
enum Records {
    Report(report::Args),
    Diff(diff::Args),
}

impl Args {
    /// The revision for records.
    fn commit(&self) -> String {
        self.commit.clone().or(option_env!("LOADMASTER_COMMIT").map(str::to_owned)).unwrap_or_default()
    }

    /// Writes a record if one is asked for.
    fn keep<R: Serialize>(&self, record: impl FnOnce() -> Record<R>) -> Result<()> {
        match &self.record {
            Some(folder) => write(folder, &self.model.path(), &record()),
            None => Ok(()),
        }
    }
}

/// How rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Md,
    /// An array of objects
    Json,
}

/// Tokens of a test.
fn length() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=super::args::MOST_TOKENS)
}

const EXAMPLES: &str = "\
Examples:
  loadmaster bench model.gguf -p 256 -n 32 -r 3 -t 2
  loadmaster bench model.gguf --parallel 1,2,4,8,16 -p 128 -n 32
  loadmaster bench model.gguf --json | jq '.[].avg_ts'
  loadmaster bench model.gguf --devices cpu --devices vulkan:0 --devices cpu,vulkan:0 -ngl 8,all -ub 128,512
  loadmaster bench model.gguf --devices cpu,vulkan:0 -ngl 8 --mmap --offload never,auto,32 --record bench-results";

const WHAT: &str = "speed of token generation and prompt processing, in the tests of llama-bench; predicted_ns is the time \
that plans gave all steps of a repetition, memories are what plans take and what devices count as allocated, in bytes";

pub(super) fn run(args: Args) -> Result<()> {
    match &args.records {
        Some(Records::Report(args)) => return report::run(args),
        Some(Records::Diff(args)) => return diff::run(args),
        None => {}
    }
    let combinations = args.sweep.combinations();
    match combinations.as_slice() {
        [one] if !args.parallel.is_empty() => batched::side_by_side(&args, one),
        all if !args.parallel.is_empty() => {
            let found = all.len();
            bail!(Usage(format!("--parallel measures one combination of settings, the options make {found}")))
        }
        all => alone(&args, all),
    }
}

fn nothing() -> Usage {
    Usage("-p 0 and -n 0 leave nothing to measure".to_owned())
}

/// The tests of llama-bench, for every combination. One alone must run; of several, those that do not say why.
fn alone(args: &Args, combinations: &[EngineArgs]) -> Result<()> {
    let prompts = args.n_prompt.iter().map(|&n| Test::Prompt(n));
    let tests = prompts.chain(args.n_gen.iter().map(|&n| Test::Generate(n)));
    let tests: Vec<Test> = tests.filter(|test| test.tokens() > 0).collect();
    let Some(context) = tests.iter().map(|test| test.tokens()).max() else { bail!(nothing()) };
    let path = args.model.path();
    let model = Model::of(&open::gguf(&path)?, path.display().to_string());
    let table = Table::new(args.sweep.varied(), combinations.len() > 1);
    let mut shown = Shown::new(args, &table.head())?;
    let mut rows = Vec::new();
    for combination in combinations {
        let row = about(&model, combination, &args.commit());
        let most = open::Most { outputs: 1, sequences: 1 };
        let mut engine = open::gguf(&path).and_then(|gguf| open::engine(gguf, combination, Tokens(context), most));
        for &test in &tests {
            let settings = row.settings.clone().of(test);
            let row = Row { settings, test_time: now(), ..row.clone() };
            let row = match (&mut engine, combinations) {
                (Ok(engine), [_]) => measured(args, engine, test, row)?,
                (Err(_), [_]) => return engine.map(drop),
                (Ok(engine), _) => measured(args, engine, test, row.clone()).unwrap_or_else(|why| refused(row, &why)),
                (Err(why), _) => refused(row, why),
            };
            shown.line(|| table.line(&row))?;
            rows.push(row);
        }
    }
    shown.end(&rows)?;
    let none = rows.iter().all(|row| row.not_run.is_some());
    args.keep(|| recorded(args, combinations, rows, &tests))?;
    if none { bail!("no combination of these settings runs here") } else { Ok(()) }
}

fn measured(args: &Args, engine: &mut Engine, test: Test, row: Row) -> Result<Row> {
    let vocab = engine.model().hparams().vocab;
    let samples = time(engine, test, vocab, args.repetitions)?;
    let foresight = foresee(engine, test)?;
    // One more run, which only a record has a place for.
    let activities = match &args.record {
        Some(_) => time_activities(engine, test, vocab)?,
        None => Vec::new(),
    };
    Ok(Row { foresight, activities, memories: memories(engine), ..row.with(&samples) })
}

fn refused(row: Row, why: &Error) -> Row {
    Row { not_run: Some(super::in_one_line(why)), ..row }
}

/// A record of a sweep.
fn recorded(args: &Args, combinations: &[EngineArgs], rows: Vec<Row>, tests: &[Test]) -> Record<Row> {
    let mut record = Record::new(Kind::Bench, WHAT, rows, args.commit(), now());
    let named: Vec<DeviceName> = combinations.iter().flat_map(|combination| combination.devices.clone()).collect();
    record.machine.adapters = Cards::of(&named).adapters();
    if args.families {
        record.time_by_family = families::times(&args.model.path(), combinations, tests, args.repetitions);
    }
    record
}

/// A row that holds all but what is measured.
fn about(model: &Model, engine: &EngineArgs, commit: &str) -> Row {
    let cards = engine.cards();
    let (backends, gpu_info) = engine.computing(&cards);
    Row {
        build_commit: commit.to_owned(),
        cpu_info: host::cpu_name(),
        gpu_info,
        backends,
        model: model.clone(),
        settings: sweep::settings(engine, &cards),
        ..Row::default()
    }
}

/// Rows as they come, or as JSON at the end.
struct Shown {
    out: StdoutLock<'static>,
    as_json: bool,
}

impl Shown {
    fn new(args: &Args, head: &str) -> Result<Shown> {
        let mut shown = Shown { out: io::stdout().lock(), as_json: args.json || args.output == Format::Json };
        if !shown.as_json {
            shown.out.write_all(head.as_bytes())?;
        }
        Ok(shown)
    }

    fn line(&mut self, line: impl FnOnce() -> String) -> Result<()> {
        if !self.as_json {
            writeln!(self.out, "{}", line())?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn end<R: Serialize>(mut self, rows: &[R]) -> Result<()> {
        if self.as_json {
            writeln!(self.out, "{}", serde_json::to_string_pretty(rows)?)?;
        }
        Ok(())
    }
}

/// A new file, named for the model and the time.
fn write<R: Serialize>(folder: &Path, model: &Path, record: &Record<R>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    let model = model.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let safe =
        |s: &str| s.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let (date, model): (String, String) = (safe(&record.date), safe(&model));
    let (path, mut file) = new_file(folder, &format!("{date}-{model}"))?;
    let text = serde_json::to_string_pretty(&record)? + "\n";
    file.write_all(text.as_bytes()).with_context(|| format!("{}: cannot write the record", path.display()))?;
    note(&format!("record: {}", path.display()));
    Ok(())
}

/// A JSON file of this name, with a number where there are such of the same second.
fn new_file(folder: &Path, name: &str) -> Result<(PathBuf, File)> {
    let mut path = folder.join(format!("{name}.json"));
    for number in 2.. {
        match File::create_new(&path) {
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                path = folder.join(format!("{name}-{number}.json"));
            }
            made => {
                let made = made.with_context(|| format!("{}: cannot write the record", path.display()))?;
                return Ok((path, made));
            }
        }
    }
    bail!("{}: cannot write the record", path.display())
}

/// Seconds are enough.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
