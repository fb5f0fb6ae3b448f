//! A device that is lost, or has less memory than it said → an engine that goes on without it, or with less of it: the
//! session is given up, planned and loaded again, and what its sequences have read is read again into the cells that the
//! books have for it. What was asked for then ends as if nothing had happened, and [`Incident`]s tell what did.

use std::fmt;
use std::sync::Arc;

use super::step::push_run;
use super::{Engine, EngineError, Opened};
use crate::backend::{Backend, BackendError, CellTable, Fault, SequenceRows};
use crate::device::{DeviceId, DeviceSpec, Machine};
use crate::exec::{ExecError, Session, StepInput};
use crate::index::{CacheClassId, IndexVec};
use crate::kv::{Run, SequenceId};
use crate::units::{Bytes, Tokens};

/// Opens the backend of a device, as often as it must be.
pub type Opener = Arc<dyn Fn(&DeviceSpec) -> Result<Box<dyn Backend>, BackendError> + Send + Sync>;

/// A device that refuses memory is asked for so many times less before it is left alone.
const TRIES: usize = 8;

/// What a device did, and how the engine went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The device.
    pub device: String,
    /// What it reported.
    pub why: String,
    /// What was done.
    pub remedy: Remedy,
    /// Tokens that were read again.
    pub read_again: u64,
    /// Sequences among them that had dropped tokens: what followed these was read anew, as if they had never been.
    pub shortened: u32,
}

/// How an engine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Without the device.
    Without,
    /// With so much of its memory.
    Less(Bytes),
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Incident { device, why, remedy, read_again, shortened } = self;
        match remedy {
            Remedy::Without => write!(f, "{why}; went on without {device}")?,
            Remedy::Less(budget) => write!(f, "{why}; went on with a budget of {budget} on {device}")?,
        }
        if *read_again > 0 {
            write!(f, ", {read_again} tokens were read again")?;
        }
        match shortened {
            0 => Ok(()),
            texts => write!(f, "; {texts} texts that had dropped a part go on as if it had never been"),
        }
    }
}

/// What is done about a failure: the machine to go on with.
struct Cure {
    machine: Machine,
    incident: Incident,
}

/// What can be done about a failure on `machine` after other incidents; nothing where no device would be left, or none is
/// at fault for good.
fn cure(machine: &Machine, why: &ExecError, before: &[Incident]) -> Option<Cure> {
    let ExecError::Backend(error) = why else { return None };
    let fault = error.fault()?;
    let (id, spec) = machine.devices.iter_ids().find(|(_, spec)| spec.name == fault.device())?;
    let made = |machine: Machine, remedy: Remedy| {
        let (device, why) = (spec.name.clone(), error.to_string());
        Cure { machine, incident: Incident { device, why, remedy, read_again: 0, shortened: 0 } }
    };
    let tries = before.iter().filter(|incident| incident.device == spec.name).count();
    match fault {
        Fault::OutOfMemory(_) if machine.devices.len() > 1 && tries < TRIES => {
            let (machine, budget) = less(machine, id);
            Some(made(machine, Remedy::Less(budget)))
        }
        Fault::OutOfMemory(_) | Fault::Lost(_) => Some(made(machine.without(id)?, Remedy::Without)),
    }
}

/// The machine with a quarter less of what plans may use of a device's memory, and what that is.
fn less(machine: &Machine, device: DeviceId) -> (Machine, Bytes) {
    let memory = machine.devices[device].memory;
    let mut less = machine.clone();
    less.memories[memory].free = machine.memories[memory].free.saturating_sub(Bytes(machine.budget(memory).0 / 4));
    let budget = less.budget(memory);
    (less, budget)
}

impl Opened {
    /// Opens a session, with less of the machine where devices fail at it; and what was done for that.
    ///
    /// # Errors
    /// The last failure, for which there was no remedy.
    pub(super) fn session(
        &mut self,
        open: &dyn Fn(&Opened) -> Result<Session, EngineError>,
    ) -> Result<Session, EngineError> {
        loop {
            let why = match open(self) {
                Err(EngineError::Exec(why)) => why,
                done => return done,
            };
            let Some(cure) = cure(&self.machine, &why, &self.incidents) else { return Err(self.refused(why)) };
            self.take(cure);
        }
    }

    /// Goes on with what a cure leaves.
    fn take(&mut self, cure: Cure) {
        self.machine = cure.machine;
        self.incidents.push(cure.incident);
    }

    /// Why there is no session, and what was tried before if something was.
    fn refused(&self, why: ExecError) -> EngineError {
        match self.incidents.last() {
            Some(incident) => EngineError::Incurable { incident: incident.clone(), why: Box::new(why.into()) },
            None => why.into(),
        }
    }
}

impl Engine {
    /// What devices did that the engine went on after.
    pub fn incidents(&self) -> &[Incident] {
        &self.opened.incidents
    }

    /// Goes on after a failure, if there is a way: the books are as before and all that they hold is read again. False: there
    /// is none, and nothing has changed.
    ///
    /// # Errors
    /// There was a way, but it led nowhere: the engine has no session any more.
    pub(super) fn recover(&mut self, why: &ExecError) -> Result<bool, EngineError> {
        let Some(cure) = cure(&self.opened.machine, why, &self.opened.incidents) else { return Ok(false) };
        let traces = self.session.traces();
        let done = self.recovered(cure);
        if done.is_err() {
            self.session.close();
            self.kv.forget_cached();
        } else if traces {
            self.session.trace();
        }
        done.map(|()| true)
    }

    /// What a call between steps made of cells. True: a device failed at it and the engine went on, all cells are as the books
    /// have them now.
    ///
    /// # Errors
    /// As for [`Engine::recover`], or there was no way to go on.
    pub(super) fn mended(&mut self, done: Result<(), ExecError>) -> Result<bool, EngineError> {
        match done {
            Ok(()) => Ok(false),
            Err(why) => self.recover(&why).and_then(|recovered| if recovered { Ok(true) } else { Err(why.into()) }),
        }
    }

    fn recovered(&mut self, mut cure: Cure) -> Result<(), EngineError> {
        loop {
            self.session.close();
            self.opened.take(cure);
            let (gguf, model) = (Arc::clone(&self.gguf), self.model.clone());
            self.session = self.opened.session(&|opened| opened.open(&gguf, &model, &|_, _| {}))?;
            let again = match self.read_again() {
                Err(EngineError::Exec(again)) => again,
                done => return done,
            };
            let next = super::recover::cure(&self.opened.machine, &again, &self.opened.incidents);
            cure = next.ok_or_else(|| self.opened.refused(again))?;
        }
    }

    /// Reads again what all sequences have read, into the same cells. Sequences of which not all is known any more end:
    /// those of which windows have given up rows, and those with keys that are owed a turn.
    fn read_again(&mut self) -> Result<(), EngineError> {
        let mut all = Vec::new();
        for sequence in self.kv.whole().sequences().collect::<Vec<_>>() {
            let saved = self.kv.save(sequence)?;
            let owed = saved.runs.iter().any(|run| run.position != run.key_at);
            match owed || self.kv.tail(sequence)? > Tokens(0) {
                true => self.kv.end(sequence)?,
                false => all.push((sequence, saved)),
            }
        }
        // Of what nobody holds, no row is there any more.
        self.kv.forget_cached();
        let mut there: IndexVec<CacheClassId, Vec<bool>> =
            self.kv.classes().iter().map(|books| vec![false; books.cells().index()]).collect();
        let (mut tokens, mut shortened) = (0, 0);
        for (sequence, saved) in all {
            let positions = saved.runs.iter().flat_map(|run| (run.position..).take(run.len as usize));
            let positions: Vec<u32> = positions.collect();
            let whole = (0..).zip(&positions).all(|(at, &position)| at == position);
            shortened += u32::from(!whole || saved.runs.iter().any(|run| run.turns > 0));
            tokens += self.read_sequence(sequence, &saved.tokens, &positions, &mut there)?;
        }
        if let Some(last) = self.opened.incidents.last_mut() {
            (last.read_again, last.shortened) = (tokens, shortened);
        }
        Ok(())
    }

    /// Reads the tokens of one sequence into its cells, but for those at its beginning that are `there`, in every class; how
    /// many these were.
    fn read_sequence(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        positions: &[u32],
        there: &mut IndexVec<CacheClassId, Vec<bool>>,
    ) -> Result<u64, EngineError> {
        let cells = self.cells_of(sequence)?;
        let is_there =
            |class: CacheClassId| cells[class].iter().take_while(|&&cell| there[class][cell as usize]).count();
        let known = cells.ids().map(is_there).min().unwrap_or(0);
        let step = self.session.limits().tokens.index();
        for first in (known..tokens.len()).step_by(step) {
            let end = tokens.len().min(first + step);
            let mut tables = Vec::with_capacity(cells.len());
            for (class, cells) in cells.iter_ids() {
                tables.push(table(self.kv.classes()[class].runs(sequence)?, &cells[first..end], end as u32));
            }
            let (ids, positions) = (&tokens[first..end], &positions[first..end]);
            self.session.step(&StepInput { ids, positions, output_rows: &[], tables: &tables })?;
        }
        for (class, cells) in cells.iter_ids() {
            cells.iter().for_each(|&cell| there[class][cell as usize] = true);
        }
        Ok((tokens.len() - known) as u64)
    }
}

/// The last of the first `length` cells of a sequence, which are in `runs`, to be written.
fn table(runs: impl Iterator<Item = Run>, cells: &[u32], length: u32) -> CellTable {
    let mut table = CellTable { cells: cells.to_vec(), ..CellTable::default() };
    let mut left = length;
    for run in runs {
        let len = run.len.min(Tokens(left));
        if len == Tokens(0) {
            break;
        }
        push_run(&mut table, Run { len, ..run });
        left -= len.0;
    }
    let (rows, pages) = (cells.len() as u32, 0..table.pages.len() as u32);
    table.sequences.push(SequenceRows { first: 0, rows, length: Tokens(length), behind: Tokens(0), pages });
    table
}
