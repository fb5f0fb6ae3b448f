//! A model, a machine and a policy, by their names or files → a plan with all that it was made of. Runs nothing.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{devices, open};
use crate::bench::host;
use crate::device::{BackendKind, Machine, MemoryId};
use crate::exec::{homes, homes_for};
use crate::gguf::Gguf;
use crate::graph::{Batch, Graph};
use crate::inspect::{Planned, Source, nearest, shape};
use crate::models::{CacheSpec, Model, ModelError, ShapeFile};
use crate::plan::{Offload, Plan, Policy, partition, plan};
use crate::residency::Residency;
use crate::units::{Bytes, Tokens};

/// A model, with its weights or without.
pub(super) enum Subject {
    File(Gguf),
    Shape(ShapeFile),
}

impl Subject {
    /// A model file, a shape file, or the shipped model of this name.
    pub fn open(path: &Path) -> Result<Subject> {
        let shipped = path.to_str().filter(|_| !path.exists()).and_then(ShapeFile::shipped);
        if let Some(shape) = shipped {
            return Ok(Subject::Shape(shape?));
        }
        if begins_with_brace(path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Ok(Subject::Shape(ShapeFile::parse(&name, &text(path)?)?));
        }
        let opened = open::gguf(path).map(Subject::File);
        match path.exists() {
            true => opened,
            false => opened.with_context(|| {
                let asked = path.to_string_lossy();
                let near = nearest(&asked, ShapeFile::shipped_names());
                format!("there is no file {asked}, nor is it a shipped model; the nearest are {}", near.join(", "))
            }),
        }
    }

    pub fn source(&self) -> Source<'_> {
        match self {
            Subject::File(gguf) => Source::File(gguf),
            Subject::Shape(shape) => Source::Shape(shape),
        }
    }

    pub fn model(&self) -> Result<Model, ModelError> {
        match self {
            Subject::File(gguf) => Model::from_gguf(gguf),
            Subject::Shape(shape) => Model::from_shape(shape),
        }
    }

    /// Its shape file.
    pub fn shape(&self) -> String {
        match self {
            Subject::File(gguf) => shape(gguf),
            Subject::Shape(shape) => shape.to_json(),
        }
    }
}

/// Whether a file looks like JSON; no GGUF file begins so.
fn begins_with_brace(path: &Path) -> bool {
    let mut start = [0; 64];
    let read = File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    start[..read].trim_ascii_start().starts_with(b"{")
}

/// The text of a file that is small if it is what it should be.
pub(super) fn text(path: &Path) -> Result<String> {
    const MOST: u64 = 1 << 28;
    let named = || path.display().to_string();
    let mut file = File::open(path).with_context(named)?;
    if file.metadata().with_context(named)?.len() > MOST {
        bail!("{}: a file of more than {} is no such text", path.display(), Bytes(MOST));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(named)?;
    Ok(text)
}

/// Where something is to run.
pub(super) struct Site {
    pub machine: Machine,
    /// Whether it is this machine, as `run` uses it.
    own: bool,
}

impl Site {
    /// The machine of this name or file; without either, this one as `run` uses it, with so many threads.
    pub fn resolve(named: Option<&str>, threads: Option<u32>) -> Result<Site> {
        let Some(named) = named else {
            let threads = threads.unwrap_or_else(host::physical_cores);
            let budget = host::available_memory().unwrap_or(Bytes(1 << 60));
            return Ok(Site { machine: Machine::single(BackendKind::Cpu, threads, budget), own: true });
        };
        Ok(Site { machine: devices::described(named)?.machine()?, own: false })
    }
}

/// What a plan is asked for.
pub(super) struct Asked<'a> {
    pub subject: &'a Subject,
    pub model: &'a Model,
    pub site: &'a Site,
    pub batch: Tokens,
    /// Tokens of the largest step, for which homes are chosen.
    pub largest: Tokens,
    pub cache: CacheSpec,
    pub offload: Offload,
    /// Whether weights stay in the file mapping, on this machine.
    pub keep_mapping: bool,
}

/// A graph and its homes.
pub(super) struct Housed {
    pub graph: Graph,
    pub homes: Residency,
    pub policy: Policy,
}

impl Asked<'_> {
    pub fn graph(&self) -> Result<Housed, String> {
        let graph = |tokens| {
            let batch = Batch { tokens, outputs: Tokens(1) };
            self.model.graph(batch, self.cache).map_err(|e| e.to_string())
        };
        let (graph, largest) = (graph(self.batch)?, graph(self.batch.max(self.largest))?);
        let policy = Policy { offload: self.offload, ..Policy::default() };
        let homes = match self.subject {
            Subject::File(gguf) if self.site.own => homes(&graph, gguf, MemoryId(0), self.keep_mapping),
            Subject::File(_) | Subject::Shape(_) => homes_for(&largest, &self.site.machine, &policy),
        };
        let graph = partition(&graph, &homes).map_err(|e| e.to_string())?;
        Ok(Housed { graph, homes, policy })
    }
}

impl Housed {
    pub fn plan(&self, machine: &Machine) -> Result<Plan, String> {
        plan(&self.graph, &self.homes, machine, &self.policy).map_err(|e| e.to_string())
    }

    pub fn planned<'a>(&'a self, machine: &'a Machine, plan: &'a Plan) -> Planned<'a> {
        Planned { graph: &self.graph, homes: &self.homes, machine, policy: &self.policy, plan }
    }
}

/// `never`, `auto`, or the rows from which on weights in host memory are streamed.
pub(super) fn offload(text: &str) -> Result<Offload, String> {
    match text {
        "never" => Ok(Offload::Never),
        "auto" => Ok(Offload::Auto),
        rows => {
            let rows = rows.parse().ok().filter(|&rows| rows > 0);
            let rows = rows.ok_or("needed never, auto, or a number of rows from 1 on")?;
            Ok(Offload::AtLeast(Tokens(rows)))
        }
    }
}
