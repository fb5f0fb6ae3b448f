//! Pieces of sequences → one step of the session, and the logits that were asked for. After an error every sequence is
//! as long as before, with what was reserved for it; only where cells were being copied when a device failed have the
//! sequences ended that had them. A steady step allocates nothing.

use super::cells::cell_move;
use super::{CHUNK, Engine, EngineError};
use crate::backend::{CellMove, CellTable, SequenceRows};
use crate::exec::{SessionLimits, StepInput};
use crate::index::{CacheClassId, IndexVec};
use crate::kv::{Books, Depth, KvError, Mark, Run, SequenceId, Writes};
use crate::units::Tokens;

/// Of which tokens of a piece logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Of none.
    None,
    /// Of the last.
    Last,
    /// Of all.
    All,
}

/// The next tokens of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The sequence, in no other piece of the step.
    pub sequence: SequenceId,
    /// Its next tokens; at least one.
    pub ids: &'a [u32],
    /// Which rows of logits.
    pub wanted: Wanted,
}

/// How far a step is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Until its logits are there.
    ToItsEnd,
    /// Others may follow before it has ended; what it wrote is not known to be there.
    Begin,
}

/// The rows of a step while it is put together.
pub(super) struct StepRows {
    writes: IndexVec<CacheClassId, Writes>,
    ids: Vec<u32>,
    positions: Vec<u32>,
    outputs: Vec<u32>,
    /// By class of the cache.
    tables: Vec<CellTable>,
    /// Copies to be made.
    moves: Vec<CellMove>,
    /// The sequences, and where they stood.
    pieces: Vec<(SequenceId, Mark)>,
}

impl StepRows {
    /// Rows of steps of at most `tokens`, over the cache of `kv`.
    pub fn with_room(tokens: Tokens, kv: &Books) -> StepRows {
        let rows = || Vec::with_capacity(tokens.index());
        let pages = kv.cells().pages() as usize;
        let table = || CellTable { cells: rows(), pages: Vec::with_capacity(pages), ..CellTable::default() };
        StepRows {
            writes: kv.classes().iter().map(|_| Writes::with_room(tokens)).collect(),
            ids: rows(),
            positions: rows(),
            outputs: rows(),
            tables: kv.classes().iter().map(|_| table()).collect(),
            moves: Vec::new(),
            pieces: Vec::new(),
        }
    }

    fn clear(&mut self) {
        self.writes.iter_mut().for_each(Writes::clear);
        self.tables.iter_mut().for_each(CellTable::clear);
        for rows in [&mut self.ids, &mut self.positions, &mut self.outputs] {
            rows.clear();
        }
        self.pieces.clear();
    }
}

impl Engine {
    /// Appends the next tokens of several sequences in one step. The logits: a row for every token that asks for one, in
    /// order.
    ///
    /// # Errors
    /// There are no tokens or more than a step takes, they do not fit the cache, or the device failed.
    pub fn step(&mut self, pieces: &[Piece<'_>]) -> Result<&[f32], EngineError> {
        self.begin_step();
        for piece in pieces {
            self.add(*piece)?;
        }
        self.run_step(Reach::ToItsEnd)?;
        Ok(self.session.logits())
    }

    /// Appends tokens to a sequence and returns the logits of the last one. All tokens are appended or none: after an
    /// error the sequence is as long as before, or, where layers keep windows and it got too long for that, has ended.
    ///
    /// # Errors
    /// There are no tokens, they do not fit the cache, or the device failed.
    pub fn feed(&mut self, sequence: SequenceId, ids: &[u32]) -> Result<&[f32], EngineError> {
        let mark = self.kv.mark(sequence)?;
        self.fits(mark, ids.len())?;
        let step = self.session.limits().tokens.index();
        let (head, last) = ids.split_at((ids.len() - 1) / step * step);
        let pieces = head.chunks(step).map(|ids| (ids, Wanted::None)).chain([(last, Wanted::Last)]);
        // While one device has work of a step, another has work of the one before.
        let together = self.may_begin();
        for (ids, wanted) in pieces {
            let how = if together && wanted == Wanted::None { Reach::Begin } else { Reach::ToItsEnd };
            self.one(Piece { sequence, ids, wanted }, mark, how)?;
        }
        Ok(self.session.logits())
    }

    /// Appends tokens to a sequence and hands on the logits of each, some rows at a time with the first row's place.
    /// After an error the sequence is as after one of [`Engine::feed`], whatever rows were handed on.
    ///
    /// # Errors
    /// There are no tokens, they do not fit the cache, or the device failed.
    pub fn feed_all(
        &mut self,
        sequence: SequenceId,
        ids: &[u32],
        mut rows: impl FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        let mark = self.kv.mark(sequence)?;
        self.fits(mark, ids.len())?;
        let SessionLimits { tokens, outputs } = self.session.limits();
        let step = tokens.index().min(outputs.index());
        for (i, ids) in ids.chunks(step).enumerate() {
            self.one(Piece { sequence, ids, wanted: Wanted::All }, mark, Reach::ToItsEnd)?;
            rows(i * step, self.session.logits());
        }
        Ok(())
    }

    /// A step of one piece; a failure brings its sequence back to `mark`.
    fn one(&mut self, piece: Piece<'_>, mark: Mark, how: Reach) -> Result<(), EngineError> {
        self.begin_step();
        let done = match self.add(piece) {
            Ok(()) => self.run_step(how),
            // What was begun before counts no more.
            Err(why) => self.certain().and(Err(why)),
        };
        if done.is_err() && self.kv.length(piece.sequence).is_ok() {
            self.bring_back(piece.sequence, mark)?;
        }
        done
    }

    /// Brings a sequence back to `mark`. Where a layer has given up rows since that it would read then, the sequence ends.
    pub(super) fn bring_back(&mut self, sequence: SequenceId, mark: Mark) -> Result<(), EngineError> {
        match self.kv.take_back(sequence, mark) {
            Err(KvError::Window { .. }) => Ok(self.kv.end(sequence)?),
            done => Ok(done?),
        }
    }

    fn fits(&self, mark: Mark, more: usize) -> Result<(), EngineError> {
        let (needed, context) = (mark.count.index() + more, self.kv.cells());
        match more {
            0 => Err(EngineError::Empty),
            _ if needed > context.index() => Err(EngineError::Context { needed, context: context.0 }),
            _ => Ok(()),
        }
    }

    /// Begins to put a step together.
    pub(super) fn begin_step(&mut self) {
        self.rows.clear();
    }

    /// Appends a piece to its sequence and to the step. After an error nothing of the step is appended any more; where a
    /// device failed to copy a page for it, its sequence has ended.
    pub(super) fn add(&mut self, piece: Piece<'_>) -> Result<(), EngineError> {
        let added = self.admit(piece).and_then(|()| match self.append(piece.sequence, piece.ids) {
            // Free cells are there, but not side by side.
            Err(EngineError::Kv(KvError::NoSlot { .. })) => {
                self.make_room()?;
                self.append(piece.sequence, piece.ids)
            }
            done => done,
        });
        if added.is_err() {
            self.take_back()?;
            return added;
        }
        let (first, rows) = (self.rows.ids.len() as u32, &mut self.rows);
        rows.ids.extend_from_slice(piece.ids);
        let end = rows.ids.len() as u32;
        match piece.wanted {
            Wanted::None => {}
            Wanted::Last => rows.outputs.push(end - 1),
            Wanted::All => rows.outputs.extend(first..end),
        }
        Ok(())
    }

    fn admit(&self, piece: Piece<'_>) -> Result<(), EngineError> {
        let (most, tokens) = (self.session.limits().tokens.0, self.rows.ids.len() + piece.ids.len());
        if piece.ids.is_empty() {
            return Err(EngineError::Empty);
        }
        if tokens > most as usize {
            return Err(EngineError::Step { what: "tokens", most, found: tokens });
        }
        match self.rows.pieces.iter().any(|(other, _)| *other == piece.sequence) {
            true => Err(EngineError::Step { what: "piece of a sequence", most: 1, found: 2 }),
            false => Ok(()),
        }
    }

    /// Appends to the books, and makes the copy that this asks for.
    fn append(&mut self, sequence: SequenceId, ids: &[u32]) -> Result<(), EngineError> {
        let rows = &mut self.rows;
        let (mark, next) = (self.kv.mark(sequence)?, self.kv.next_position(sequence)?);
        self.kv.append(sequence, ids, &mut rows.writes)?;
        rows.pieces.push((sequence, mark));
        rows.positions.extend((next..).take(ids.len()));
        for class in self.rows.writes.ids() {
            let StepRows { writes, moves, .. } = &mut self.rows;
            if writes[class].copies.is_empty() {
                continue;
            }
            moves.clear();
            moves.extend(writes[class].copies.drain(..).map(cell_move));
            let copied = self.session.rearrange(class, &self.rows.moves);
            match self.mended(copied) {
                Ok(false) => {}
                // Everything has been read again where it belongs: copies would bring what others have made of it.
                Ok(true) => self.rows.writes.iter_mut().for_each(|writes| writes.copies.clear()),
                Err(why) => {
                    // Whether its rows are there is not known, and the copies of other classes are not made any more.
                    self.rows.writes.iter_mut().for_each(|writes| writes.copies.clear());
                    self.rows.pieces.pop();
                    self.kv.end(sequence)?;
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Brings free cells together, and the pieces so far behind what is moved.
    fn make_room(&mut self) -> Result<(), EngineError> {
        let pieces = self.rows.pieces.clone();
        let lengths: Vec<Tokens> =
            pieces.iter().map(|(sequence, _)| self.kv.length(*sequence)).collect::<Result<_, _>>()?;
        self.take_back()?;
        // Cached cells stand in the way of neighbours, too.
        self.kv.forget_cached();
        self.compact(Depth::Pages, CHUNK)?;
        let ids = std::mem::take(&mut self.rows.ids);
        let mut first = 0;
        let again = pieces.iter().zip(lengths).try_for_each(|((sequence, mark), length)| {
            let end = first + (length.0 - mark.count.0) as usize;
            let appended = self.append(*sequence, &ids[first..end]);
            first = end;
            appended
        });
        self.rows.ids = ids;
        again
    }

    /// Runs the step that was put together; its logits are the session's. After an error nothing is appended any more of it,
    /// nor of the steps that were under way.
    pub(super) fn run_step(&mut self, how: Reach) -> Result<(), EngineError> {
        self.tables()?;
        let mut run = self.attempt(how);
        while let Err(EngineError::Exec(why)) = &run {
            run = match self.recover(why) {
                Ok(true) => self.attempt(Reach::ToItsEnd),
                Ok(false) => break,
                Err(incurable) => Err(incurable),
            };
        }
        match (&run, how) {
            (Err(_), _) => self.take_back()?,
            (Ok(()), Reach::Begin) => {
                self.begun.note(&mut self.rows.pieces);
                return Ok(());
            }
            (Ok(()), Reach::ToItsEnd) => {
                self.rows.pieces.iter().try_for_each(|(sequence, _)| self.kv.written(*sequence))?;
            }
        }
        self.ended(run)
    }

    /// Runs the step that was put together, if none of its sequences is lost.
    fn attempt(&mut self, how: Reach) -> Result<(), EngineError> {
        let StepRows { ids, positions, outputs, tables, pieces, .. } = &self.rows;
        if let Some(&(lost, _)) = pieces.iter().find(|(sequence, _)| self.kv.length(*sequence).is_err()) {
            return Err(EngineError::Lost(lost));
        }
        let input = StepInput { ids, positions, output_rows: outputs, tables };
        let run = match how {
            Reach::ToItsEnd => self.session.step(&input).map(|_| ()),
            Reach::Begin => self.session.begin(&input),
        };
        // Those before it must end all the same.
        Ok(run.or_else(|why| self.session.finish().map(|_| ()).and(Err(why)))?)
    }

    /// Where the rows of every piece are read and written, class by class.
    fn tables(&mut self) -> Result<(), EngineError> {
        let StepRows { writes, tables, pieces, .. } = &mut self.rows;
        for ((class, writes), table) in writes.iter_ids().zip(tables) {
            table.cells.extend(writes.cells.iter().map(|cell| cell.0));
            fill(table, &self.kv, class, pieces)?;
        }
        Ok(())
    }

    /// Removes what the step has appended.
    fn take_back(&mut self) -> Result<(), EngineError> {
        let rows = &mut self.rows;
        rows.writes.iter_mut().for_each(|writes| writes.cells.clear());
        rows.positions.clear();
        while let Some((sequence, mark)) = rows.pieces.pop() {
            // A compaction that failed has ended it.
            if self.kv.length(sequence).is_ok() {
                self.kv.take_back(sequence, mark)?;
            }
        }
        Ok(())
    }
}

/// Adds a run to a block table with masks.
pub(super) fn push_run(table: &mut CellTable, run: Run) {
    table.pages.push(run.page.0);
    table.live.push(u16::MAX >> (u16::BITS - run.len.0) << run.first);
}

/// The block tables of the pieces in one class.
fn fill(
    table: &mut CellTable,
    books: &Books,
    class: CacheClassId,
    pieces: &[(SequenceId, Mark)],
) -> Result<(), EngineError> {
    let kv = &books.classes()[class];
    let mut whole = kv.layout().page() == Tokens::PAGE.0;
    for &(sequence, _) in pieces {
        let aligned = books.behind(class, sequence)?.0.is_multiple_of(Tokens::PAGE.0);
        whole &= aligned && kv.table(sequence)?.is_dense();
    }
    let mut first = 0;
    for &(sequence, mark) in pieces {
        let begin = table.pages.len() as u32;
        if whole {
            table.pages.extend(kv.table(sequence)?.pages.iter().map(|page| page.0));
        } else {
            kv.runs(sequence)?.for_each(|run| push_run(table, run));
        }
        let (length, behind) = (books.length(sequence)?, books.behind(class, sequence)?);
        let (rows, pages) = (length.0 - mark.count.0, begin..table.pages.len() as u32);
        table.sequences.push(SequenceRows { first, rows, length, behind, pages });
        first += rows;
    }
    Ok(())
}
