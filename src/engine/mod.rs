//! Sequences of tokens → logits and text: a model, its session, its cache and its tokenizer under one roof.
//! Cuts prompts into steps, puts many sequences into one and keeps the books; what runs where is the plan's business.

mod begun;
mod cells;
mod generate;
mod placed;
mod queue;
mod recover;
mod request;
mod saved;
mod share;
mod step;
mod tidy;

use std::sync::Arc;

use thiserror::Error;

use crate::backend;
use crate::device::{BackendKind, Machine};
use crate::exec::{ExecError, GraphSource, Progress, Session, SessionLimits, Setup};
use crate::fit::FitError;
use crate::gguf::Gguf;
use crate::graph::{Batch, Graph};
use crate::index::{CacheClassId, IndexVec};
use crate::kv::{Books, Budget, KvError, KvLayout, SequenceId, Usage, Window};
use crate::models::{CacheSpec, Model, ModelError, Sliding};
use crate::plan::{MemoryUse, Offload, Policy};
use crate::sample::SampleError;
use crate::tensor::DType;
use crate::text::{TextError, Tokenizer};
use crate::units::{Bytes, Tokens};

use begun::Begun;
use step::StepRows;

pub use cells::{Compacted, Shifted};
pub use generate::{Finish, Generate, Generated};
pub use queue::{Finished, Queue, QueueLimits, RequestId, StepReport};
pub use recover::{Incident, Opener, Remedy};
pub use request::Request;
pub use saved::{FactOf, Loaded, SavedError, SavedFile};
pub use step::{Piece, Wanted};

/// How a model is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Cells of the KV cache; rounded up to whole pages.
    pub context: Tokens,
    /// Most tokens of a step (llama.cpp's ubatch).
    pub step: Tokens,
    /// Most rows of logits of a step.
    pub outputs: Tokens,
    /// Workers.
    pub threads: u32,
    /// Type of cached keys.
    pub cache_keys: DType,
    /// Type of cached values.
    pub cache_values: DType,
    /// Whether weights stay in the file mapping instead of being repacked.
    pub keep_mapping: bool,
    /// Host memory that weights, cache and arena may take.
    pub budget: Bytes,
    /// Devices that work on a layer together, paired by their links; with 1, each has layers of its own.
    pub together: u32,
    /// How cells of the cache are given out; pages are those of the devices, [`Tokens::PAGE`].
    pub layout: KvLayout,
    /// Sequences that run at a time: layers that look back over a window keep one a sequence. More wait for room there.
    pub sequences: u32,
    /// Layers, from the last, that accelerators have beside processors; none: in proportion to the memories' budgets.
    pub gpu_layers: Option<u32>,
    /// Instead, the homes that [`fit`](crate::fit::fit) predicts to be fastest, where processors and accelerators compute.
    pub fitted: bool,
    /// When ops whose weights are in host memory run on an accelerator all the same.
    pub offload: Offload,
}

/// Why the engine cannot start or go on.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum EngineError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error("text cannot be generated without a tokenizer: {0}")]
    NoTokenizer(String),
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Saved(#[from] SavedError),
    #[error("there is nothing to evaluate: the prompt has no tokens")]
    Empty,
    #[error("{needed} tokens do not fit the context of {context}; ask for a larger one with -c")]
    Context { needed: usize, context: u32 },
    #[error("{0} has holes, or lost its beginning: half of its context cannot be dropped")]
    Holes(SequenceId),
    #[error("{0} was lost when a device failed")]
    Lost(SequenceId),
    #[error("{incident}, which failed: {why}")]
    Incurable { incident: Incident, why: Box<EngineError> },
    #[error("cells are read in pages of {needed}, the cache is to have pages of {found}")]
    Page { needed: u32, found: u32 },
    #[error("request {0} does not run")]
    NoRequest(RequestId),
    #[error("a step takes {most} {what}, found {found}")]
    Step { what: &'static str, most: u32, found: usize },
}

/// A model that evaluates sequences.
pub struct Engine {
    gguf: Arc<Gguf>,
    model: Model,
    tokenizer: Result<Tokenizer, TextError>,
    session: Session,
    kv: Books,
    rows: StepRows,
    begun: Begun,
    opened: Opened,
}

/// How the session was opened, and is again if a device fails.
struct Opened {
    opener: Opener,
    machine: Machine,
    options: EngineOptions,
    incidents: Vec<Incident>,
}

impl Opened {
    /// Plans and loads the model on what there is of the machine.
    fn open(&self, gguf: &Arc<Gguf>, model: &Model, progress: Progress<'_>) -> Result<Session, EngineError> {
        let Opened { machine, options, .. } = self;
        let tokens = Tokens(options.step.0.clamp(1, options.context.0.max(1)));
        let sliding = Some(Sliding { sequences: options.sequences, step: tokens });
        let (keys, values) = (options.cache_keys, options.cache_values);
        let cache = CacheSpec { cells: options.context, keys, values, sliding };
        let limits = SessionLimits { tokens, outputs: Tokens(options.outputs.0.clamp(1, tokens.0)) };
        let source = ModelSource { model: model.clone(), cache };
        let policy = Policy { offload: options.offload, ..Policy::default() };
        let (together, residency) = self.placed(source, gguf, &policy, limits)?;
        let setup = Setup { open: &*self.opener, policy, ..Setup::new(machine.clone(), limits) };
        Ok(Session::open(Box::new(together), gguf, setup, |_, _| residency, progress)?)
    }
}

/// What a chunk of a compaction takes unless told otherwise: a few milliseconds of copying, as many commands as a large
/// graph has nodes.
pub const CHUNK: Budget = Budget { bytes: Bytes(64 << 20), nodes: 8192 };

/// Graphs of one model with one kind of cache.
struct ModelSource {
    model: Model,
    cache: CacheSpec,
}

impl GraphSource for ModelSource {
    fn graph(&self, batch: Batch) -> Result<Graph, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.model.graph(batch, self.cache)?)
    }
}

impl Engine {
    /// Builds, plans and loads the model on the CPU. A file without a usable tokenizer still evaluates token ids.
    ///
    /// # Errors
    /// The model cannot be built, does not fit the budget, or cannot be loaded.
    pub fn open(gguf: Gguf, options: EngineOptions, progress: Progress<'_>) -> Result<Engine, EngineError> {
        let machine = Machine::single(BackendKind::Cpu, options.threads, options.budget);
        Engine::open_on(machine, gguf, options, progress)
    }

    /// As [`Engine::open`], on the devices of `machine`, layers dealt over them or cut; the machine's workers and budgets count
    /// instead of those in `options`.
    ///
    /// # Errors
    /// As for [`Engine::open`]; the error names the memory that is too small.
    pub fn open_on(
        machine: Machine,
        gguf: Gguf,
        options: EngineOptions,
        progress: Progress<'_>,
    ) -> Result<Engine, EngineError> {
        Engine::open_with(Arc::new(backend::open), machine, gguf, options, progress)
    }

    /// As [`Engine::open_on`], with devices that `open` opens.
    ///
    /// # Errors
    /// As for [`Engine::open_on`].
    pub fn open_with(
        opener: Opener,
        machine: Machine,
        gguf: Gguf,
        options: EngineOptions,
        progress: Progress<'_>,
    ) -> Result<Engine, EngineError> {
        if let KvLayout::Paged { page } = options.layout
            && page != Tokens::PAGE
        {
            return Err(EngineError::Page { needed: Tokens::PAGE.0, found: page.0 });
        }
        let gguf = Arc::new(gguf);
        let model = Model::from_gguf(&gguf)?;
        let tokenizer = Tokenizer::from_metadata(gguf.metadata());
        let context = Tokens(options.context.pages().saturating_mul(Tokens::PAGE.0));
        let options = EngineOptions { context, ..options };
        let mut opened = Opened { opener, machine, options, incidents: Vec::new() };
        let session = opened.session(&|opened| opened.open(&gguf, &model, progress))?;
        let kv = books(&session, context, options.layout);
        let rows = StepRows::with_room(session.limits().tokens, &kv);
        Ok(Engine { gguf, model, tokenizer, session, kv, rows, begun: Begun::default(), opened })
    }

    /// The model file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Why the file has none that can be used.
    pub fn tokenizer(&self) -> Result<&Tokenizer, &TextError> {
        self.tokenizer.as_ref()
    }

    /// Elements of a row of logits.
    pub fn logits_width(&self) -> usize {
        self.session.logits_width()
    }

    /// Bytes allocated for weights, cache, arenas and rings.
    pub fn memory(&self) -> MemoryUse {
        self.session.memory()
    }

    /// The same of each memory, with its name.
    pub fn memories(&self) -> impl ExactSizeIterator<Item = (&str, MemoryUse)> {
        let named = self.session.machine().memories.iter().zip(self.session.memories().iter());
        named.map(|(spec, &held)| (spec.name.as_str(), held))
    }

    /// Tokens that the cache has room for in whole.
    pub fn context(&self) -> Tokens {
        self.kv.cells()
    }

    /// What is taken of the cache of layers that keep all their rows.
    pub fn usage(&self) -> Usage {
        self.kv.whole().usage()
    }

    /// What is taken of the cache, by class.
    pub fn usages(&self) -> IndexVec<CacheClassId, Usage> {
        self.kv.usage()
    }

    /// The session, to warm up its buckets.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        self.kv.start()
    }

    /// Tokens of a sequence.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn length(&self, sequence: SequenceId) -> Result<Tokens, EngineError> {
        Ok(self.kv.length(sequence)?)
    }

    /// Removes the tokens from position `length` on: all but the first `length`, unless some of those were removed.
    ///
    /// # Errors
    /// A layer has given up rows that its window would reach then, or there is no such sequence. Nothing has changed.
    pub fn truncate(&mut self, sequence: SequenceId, length: Tokens) -> Result<(), EngineError> {
        Ok(self.kv.truncate(sequence, length.0)?)
    }

    /// Ends a sequence and frees its cells.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn end(&mut self, sequence: SequenceId) -> Result<(), EngineError> {
        Ok(self.kv.end(sequence)?)
    }
}

/// Books of the caches of a session, where whole sequences have `context` cells.
fn books(session: &Session, context: Tokens, layout: KvLayout) -> Books {
    let step = session.limits().tokens;
    let windows = session.classes().iter().filter_map(|class| {
        let tokens = class.window?;
        Some((class.cells, Window { tokens, step }))
    });
    Books::new(layout, context, windows)
}
