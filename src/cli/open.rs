//! Shared options → an open model and a running engine, with a progress bar while a large one loads.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::args::{EngineArgs, GpuLayers, MOST_TOKENS};
use super::note;
use super::progress::Bar;
use crate::bench::host;
use crate::engine::{Engine, EngineOptions};
use crate::gguf::Gguf;
use crate::text::{Note, Tokenizer};
use crate::units::{Bytes, Tokens};

/// Opens a model file.
pub(super) fn gguf(path: &Path) -> Result<Gguf> {
    Ok(Gguf::open(path)?)
}

/// The context of a run that does not ask for one: the model's, up to this.
const USUAL_CONTEXT: u32 = 4096;

/// Cells for `asked` tokens; none is the usual number, 0 the model's own as far as a context may go.
pub(super) fn context(gguf: &Gguf, asked: Option<u32>) -> Result<Tokens> {
    context_of(crate::models::Model::from_gguf(gguf)?.hparams().context, asked)
}

/// The same for a model that was trained on `own` tokens.
pub(super) fn context_of(own: u32, asked: Option<u32>) -> Result<Tokens> {
    Ok(Tokens(match asked {
        None => own.min(USUAL_CONTEXT),
        Some(0) if i64::from(own) > MOST_TOKENS => {
            bail!(
                "the model says that it was trained on {own} tokens, a cache holds {MOST_TOKENS} at most; ask with -c"
            )
        }
        Some(0) => own,
        Some(asked) => {
            if asked > own {
                note(&format!("note: -c {asked} is past the {own} tokens that the model was trained on"));
            }
            asked
        }
    }))
}

/// The most that a step is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Rows of logits.
    pub outputs: u32,
    /// Sequences at a time.
    pub sequences: u32,
}

/// Loads the model.
pub(super) fn engine(gguf: Gguf, args: &EngineArgs, context: Tokens, most: Most) -> Result<Engine> {
    match args.n_gpu_layers {
        Some(GpuLayers::Count(1..) | GpuLayers::All) if args.only_processors() => {
            note(
                "note: -ngl asks for a GPU and --devices names none: everything runs on the CPU; try --devices cuda:0 or vulkan:0",
            );
        }
        Some(GpuLayers::Count(_) | GpuLayers::All | GpuLayers::Auto) | None => {}
    }
    let (threads, budget) =
        (args.threads.unwrap_or_else(host::physical_cores), host::available_memory().unwrap_or(Bytes(1 << 60)));
    let cards = args.cards();
    let machine = args.machine(&cards, threads, budget)?;
    let options = EngineOptions {
        context,
        step: Tokens(args.step()),
        outputs: Tokens(most.outputs),
        threads,
        cache_keys: args.cache_type_k,
        cache_values: args.cache_type_v,
        keep_mapping: args.mmap,
        budget,
        together: args.split.together(),
        layout: args.layout(),
        sequences: most.sequences,
        gpu_layers: args.n_gpu_layers.and_then(GpuLayers::asked),
        fitted: args.fitted(&cards),
        offload: args.offload,
    };
    let bar = Bar::bytes("loading");
    let engine = Engine::open_on(machine, gguf, options, &|done, total| bar.at(done.0, total.0));
    drop(bar);
    let engine = engine.context("the model cannot be run")?;
    if let [first, rest @ ..] = engine.model().unused_tensors()?.as_slice() {
        note(&format!(
            "note: nothing uses the file's tensor {first:?} and {} others; `inspect` lists them",
            rest.len()
        ));
    }
    Ok(engine)
}

/// What was odd in a vocabulary, in words.
pub(super) fn tokenizer_notes(tokenizer: &Tokenizer) -> Vec<String> {
    let words = |note: &Note| match note {
        Note::PreTokenizer { found: Some(found) } => {
            format!(
                "pre-tokenizer {found:?} is not known here; words may split differently from what the model learned"
            )
        }
        Note::PreTokenizer { found: None } => {
            "the file names no pre-tokenizer; words may split differently from what the model learned".to_owned()
        }
        Note::Merges { ignored, first } => format!("{ignored} merges name no tokens and are left out, first {first:?}"),
        Note::Bytes { missing } => format!("{missing} of the bytes that text has cannot be spelled; they are left out"),
        Note::SpecialId { key, found, tokens } => {
            format!("{key} is {found}, past the {tokens} tokens; the file counts as having no such token")
        }
    };
    tokenizer.notes().iter().map(words).collect()
}
