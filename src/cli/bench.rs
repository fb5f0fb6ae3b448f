//! `bench`: llama-bench's tests on a model → its table or its JSON, and a record if asked.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::args::{EngineArgs, ModelArg};
use super::{Usage, note, open};
use crate::bench::{Batched, BatchedRow, Model, Record, Row, Test, host, time, time_batched};
use crate::units::Tokens;

/// Measure speed with the tests of llama-bench
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
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
    #[command(flatten)]
    engine: EngineArgs,
}

impl Args {
    /// The revision for records.
    fn commit(&self) -> String {
        self.commit.clone().or(option_env!("LOADMASTER_COMMIT").map(str::to_owned)).unwrap_or_default()
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
  loadmaster bench model.gguf --record bench-results";

pub(super) fn run(args: Args) -> Result<()> {
    if args.parallel.is_empty() { alone(&args) } else { side_by_side(&args) }
}

/// The tests of llama-bench.
fn alone(args: &Args) -> Result<()> {
    let prompts = args.n_prompt.iter().map(|&n| Test::Prompt(n));
    let tests = prompts.chain(args.n_gen.iter().map(|&n| Test::Generate(n)));
    let tests: Vec<Test> = tests.filter(|test| test.tokens() > 0).collect();
    let Some(context) = tests.iter().map(|t| t.tokens()).max() else { bail!(nothing()) };
    let path = args.model.path();
    let gguf = open::gguf(&path)?;
    let row = empty_row(Model::of(&gguf, path.display().to_string()), &args.engine, &args.commit());
    let mut engine = open::engine(gguf, &args.engine, Tokens(context), open::Most { outputs: 1, sequences: 1 })?;
    let vocab = engine.model().hparams().vocab;
    let what = "speed of token generation and prompt processing, in the tests of llama-bench";
    let shown = Shown { what, head: HEADER, line: table_row };
    measure(args, &shown, tests, |test| Ok(row.clone().with(&time(&mut engine, test, vocab, args.repetitions)?)))
}

/// The tests of llama-batched-bench.
fn side_by_side(args: &Args) -> Result<()> {
    let tests = batched_tests(args);
    if tests.is_empty() {
        bail!(nothing());
    }
    let Some(cells) = tests.iter().map(|test| test.cells()).collect::<Option<Vec<Tokens>>>() else {
        bail!(Usage("--parallel, -p and -n make more tokens than a cache can have".to_owned()));
    };
    let context = cells.into_iter().max().unwrap_or_default();
    if i64::from(context.0) > super::args::MOST_TOKENS {
        let most = super::args::MOST_TOKENS;
        bail!(Usage(format!("--parallel, -p and -n make {context} tokens, a cache holds {most} at most")));
    }
    let most = args.parallel.iter().copied().max().unwrap_or(1);
    let most = open::Most { outputs: most, sequences: most };
    let mut engine = open::engine(open::gguf(&args.model.path())?, &args.engine, context, most)?;
    let vocab = engine.model().hparams().vocab;
    let what = "speed of sequences side by side, in the tests of llama-batched-bench; times are medians";
    let shown = Shown { what, head: BATCHED, line: batched_line };
    measure(args, &shown, tests, |test| Ok(time_batched(&mut engine, test, vocab, args.repetitions)?))
}

fn nothing() -> Usage {
    Usage("-p 0 and -n 0 leave nothing to measure".to_owned())
}

/// How rows of one kind are shown.
struct Shown<R> {
    what: &'static str,
    head: &'static str,
    line: fn(&R) -> String,
}

/// Rows as they come, or as JSON at the end, and a record if asked.
fn measure<T, R: Serialize>(
    args: &Args,
    shown: &Shown<R>,
    tests: Vec<T>,
    mut time: impl FnMut(T) -> Result<R>,
) -> Result<()> {
    let as_json = args.json || args.output == Format::Json;
    let mut rows = Vec::new();
    let mut out = io::stdout().lock();
    if !as_json {
        out.write_all(shown.head.as_bytes())?;
    }
    for test in tests {
        let row = time(test)?;
        if !as_json {
            writeln!(out, "{}", (shown.line)(&row))?;
            out.flush()?;
        }
        rows.push(row);
    }
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    }
    match &args.record {
        Some(folder) => record(folder, &args.model.path(), Record::new(shown.what, rows, args.commit(), now())),
        None => Ok(()),
    }
}

fn batched_tests(args: &Args) -> Vec<Batched> {
    let mut tests = Vec::new();
    for &prompt in &args.n_prompt {
        for &generate in args.n_gen.iter().filter(|&&n| prompt > 0 || n > 0) {
            tests.extend(args.parallel.iter().map(|&sequences| Batched { prompt, generate, sequences }));
        }
    }
    tests
}

const BATCHED: &str = "\
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
";

fn batched_line(row: &BatchedRow) -> String {
    let BatchedRow { pp, tg, pl, n_kv, t_pp, speed_pp, t_tg, speed_tg, t, speed, .. } = row;
    format!(
        "| {pp:5} | {tg:6} | {pl:4} | {n_kv:6} | {t_pp:8.3} | {speed_pp:8.2} | {t_tg:8.3} | {speed_tg:8.2} | {t:8.3} | {speed:8.2} |"
    )
}

fn empty_row(model: Model, engine: &EngineArgs, commit: &str) -> Row {
    let (backends, gpu_info) = engine.computing();
    Row {
        build_commit: commit.to_owned(),
        build_number: 0,
        cpu_info: host::cpu_name(),
        gpu_info,
        backends,
        model,
        n_batch: engine.batch_size,
        n_ubatch: engine.step(),
        n_threads: engine.threads.unwrap_or_else(host::physical_cores),
        type_k: engine.cache_type_k,
        type_v: engine.cache_type_v,
        n_gpu_layers: 0,
        use_mmap: engine.mmap,
        n_prompt: 0,
        n_gen: 0,
        n_depth: 0,
        test_time: now(),
        avg_ns: 0,
        stddev_ns: 0,
        avg_ts: 0.0,
        stddev_ts: 0.0,
        samples_ns: Vec::new(),
        samples_ts: Vec::new(),
    }
}

const HEADER: &str = "\
| model                          |       size |     params | backend    | threads |            test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: | -------------------: |
";

fn table_row(row: &Row) -> String {
    const GIB: f64 = (1u64 << 30) as f64;
    let (size, parameters) = (row.model.model_size as f64, row.model.model_n_params as f64);
    let size = if size >= GIB { format!("{:.2} GiB", size / GIB) } else { format!("{:.2} MiB", size / GIB * 1024.0) };
    let parameters =
        if parameters >= 1e9 { format!("{:.2} B", parameters / 1e9) } else { format!("{:.2} M", parameters / 1e6) };
    let rate = format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts);
    let name = crate::inspect::escape(&row.model.model_type);
    let (backends, threads, test) = (&row.backends, row.n_threads, row.test());
    format!("| {name:30} | {size:>10} | {parameters:>10} | {backends:10} | {threads:>7} | {test:>15} | {rate:>20} |")
}

/// A new file, named for the model and the time.
fn record<R: Serialize>(folder: &Path, model: &Path, record: Record<R>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    let model = model.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let safe =
        |s: &str| s.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let (date, model): (String, String) = (safe(&record.date), safe(&model));
    let path = folder.join(format!("{date}-{model}.json"));
    let text = serde_json::to_string_pretty(&record)? + "\n";
    fs::write(&path, text).with_context(|| format!("{}: cannot write the record", path.display()))?;
    note(&format!("record: {}", path.display()));
    Ok(())
}

/// Seconds are enough.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
