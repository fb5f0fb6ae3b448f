//! `bench --parallel`: the tests of llama-batched-bench → its table or its JSON.

use anyhow::{Result, bail};

use super::{Args, Shown, nothing};
use crate::bench::{Batched, BatchedRow, Kind, Record, time_batched};
use crate::cli::args::{EngineArgs, MOST_TOKENS};
use crate::cli::{Usage, open};
use crate::units::Tokens;

const WHAT: &str = "speed of sequences side by side, in the tests of llama-batched-bench; times are medians";

const HEAD: &str = "\
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
";

/// Measures with one combination of settings.
pub(super) fn side_by_side(args: &Args, engine: &EngineArgs) -> Result<()> {
    let tests = tests(args);
    if tests.is_empty() {
        bail!(nothing());
    }
    let Some(cells) = tests.iter().map(|test| test.cells()).collect::<Option<Vec<Tokens>>>() else {
        bail!(Usage("--parallel, -p and -n make more tokens than a cache can have".to_owned()));
    };
    let context = cells.into_iter().max().unwrap_or_default();
    if i64::from(context.0) > MOST_TOKENS {
        bail!(Usage(format!("--parallel, -p and -n make {context} tokens, a cache holds {MOST_TOKENS} at most")));
    }
    let most = args.parallel.iter().copied().max().unwrap_or(1);
    let most = open::Most { outputs: most, sequences: most };
    let mut engine = open::engine(open::gguf(&args.model.path())?, engine, context, most)?;
    let vocab = engine.model().hparams().vocab;
    let mut shown = Shown::new(args, HEAD)?;
    let mut rows = Vec::new();
    for test in tests {
        let row = time_batched(&mut engine, test, vocab, args.repetitions)?;
        shown.line(|| line(&row))?;
        rows.push(row);
    }
    shown.end(&rows)?;
    args.keep(|| Record::new(Kind::Batched, WHAT, rows, args.commit(), super::now()))
}

fn tests(args: &Args) -> Vec<Batched> {
    let mut tests = Vec::new();
    for &prompt in &args.n_prompt {
        for &generate in args.n_gen.iter().filter(|&&n| prompt > 0 || n > 0) {
            tests.extend(args.parallel.iter().map(|&sequences| Batched { prompt, generate, sequences }));
        }
    }
    tests
}

fn line(row: &BatchedRow) -> String {
    let BatchedRow { pp, tg, pl, n_kv, t_pp, speed_pp, t_tg, speed_tg, t, speed, .. } = row;
    format!(
        "| {pp:5} | {tg:6} | {pl:4} | {n_kv:6} | {t_pp:8.3} | {speed_pp:8.2} | {t_tg:8.3} | {speed_tg:8.2} | {t:8.3} | {speed:8.2} |"
    )
}
