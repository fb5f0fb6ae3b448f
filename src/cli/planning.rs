//! A model, a machine and a policy, by their names or files → a plan with all that it was made of. Runs nothing.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{devices, open};
use crate::bench::host;
use crate::device::{BackendKind, Machine, MemoryId};
use crate::exec::homes;
use crate::fit::{Bucket, FitError, Request, Wishes, fit};
use crate::gguf::Gguf;
use crate::graph::{Batch, Graph};
use crate::inspect::{Planned, Source, nearest, shape};
use crate::models::{CacheSpec, Model, ModelError, ShapeFile};
use crate::plan::{Offload, Plan, Policy, plan};
use crate::residency::Residency;
use crate::units::{Bytes, Tokens, Workload};

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
    let mut text = String::new();
    // One byte more than is taken: what has no end is refused by its length.
    let file = File::open(path).with_context(named)?;
    file.take(MOST + 1).read_to_string(&mut text).with_context(named)?;
    if text.len() as u64 > MOST {
        bail!("{}: a file of more than {} is no such text", path.display(), Bytes(MOST));
    }
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
    /// Devices that work on a layer together, on another machine.
    pub together: u32,
}

/// A plan with all that it was made of.
pub(super) struct Made {
    pub graph: Graph,
    homes: Residency,
    policy: Policy,
    plan: Plan,
}

impl Asked<'_> {
    /// The graph, not yet cut along homes.
    pub fn graph(&self) -> Result<Graph, String> {
        self.model.graph(Batch { tokens: self.batch, outputs: Tokens(1) }, self.cache).map_err(|e| e.to_string())
    }

    /// A file on this machine as `run` would plan it, all else with the homes of a fit.
    pub fn made(&self) -> Result<Made, String> {
        let policy = Policy { offload: self.offload, ..Policy::default() };
        match self.subject {
            Subject::File(gguf) if self.site.own => {
                let graph = self.graph()?;
                let homes = homes(&graph, gguf, MemoryId(0), self.keep_mapping);
                let plan = plan(&graph, &homes, &self.site.machine, &policy).map_err(|e| e.to_string())?;
                Ok(Made { graph, homes, policy, plan })
            }
            Subject::File(_) | Subject::Shape(_) => self.fitted(policy).map_err(|e| e.to_string()),
        }
    }

    fn fitted(&self, policy: Policy) -> Result<Made, FitError> {
        let graphs = |batch: Batch| self.model.graph(batch, self.cache).map_err(|e| e.to_string());
        let (workload, wishes) = (Workload::default(), Wishes { together: self.together, ..Wishes::default() });
        let request = Request { ubatch: self.largest.max(self.batch), workload, policy, wishes };
        let found = fit(&graphs, &self.site.machine, &request)?;
        let Bucket { graph, plan, .. } = found.step(&graphs, &self.site.machine, &request, self.batch)?;
        Ok(Made { graph, homes: found.residency, policy: request.policy, plan })
    }
}

impl Made {
    pub fn planned<'a>(&'a self, machine: &'a Machine) -> Planned<'a> {
        let Made { graph, homes, policy, plan } = self;
        Planned { graph, homes, machine, policy, plan }
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
