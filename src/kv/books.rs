//! The books of a cache whose layers do not all keep their rows equally long: those of whole sequences, and for each
//! window books of what it reaches. A sequence has one id in all of them, and tokens are counted in those of the whole.
//!
//! A call succeeds in all books or changes none; where it has to try, nothing is left of it but that cached pages are
//! forgotten in another order. What it hands out is told class by class.

use super::window::Window;
use super::{KvError, KvLayout, Mark, Move, PageId, PagedKv, Rotation, SavedSequence, SequenceId, Usage, Writes};
use crate::index::{CacheClassId, IndexVec};
use crate::units::Tokens;

/// The books of every class of a cache, the first that of whole sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    classes: IndexVec<CacheClassId, PagedKv>,
}

impl Books {
    /// Books of `cells` for whole sequences and of as many as are named for each window.
    pub fn new(layout: KvLayout, cells: Tokens, windows: impl IntoIterator<Item = (Tokens, Window)>) -> Books {
        let sliding = windows.into_iter().map(|(cells, window)| PagedKv::sliding(cells, layout, window));
        Books { classes: [PagedKv::new(cells, layout)].into_iter().chain(sliding).collect() }
    }

    /// The books of whole sequences.
    pub fn whole(&self) -> &PagedKv {
        &self.classes[CacheClassId::WHOLE]
    }

    /// The books by class.
    pub fn classes(&self) -> &IndexVec<CacheClassId, PagedKv> {
        &self.classes
    }

    /// The books of one class, to compact it.
    pub fn class_mut(&mut self, class: CacheClassId) -> &mut PagedKv {
        &mut self.classes[class]
    }

    /// How cells are given out.
    pub fn layout(&self) -> KvLayout {
        self.whole().layout()
    }

    /// Cells of whole sequences.
    pub fn cells(&self) -> Tokens {
        self.whole().cells()
    }

    /// The most tokens at the end of a sequence that a class has between steps.
    pub fn most(&self, class: CacheClassId) -> Tokens {
        self.classes[class].most()
    }

    /// Tokens of a sequence that a class no longer has.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn behind(&self, class: CacheClassId, id: SequenceId) -> Result<Tokens, KvError> {
        Ok(Tokens(self.length(id)?.0 - self.classes[class].length(id)?.0))
    }

    /// Tokens at the end of a sequence that nothing may be dropped from: those that windows reach which have given up what
    /// is before them.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn tail(&self, id: SequenceId) -> Result<Tokens, KvError> {
        self.classes.iter_ids().try_fold(Tokens(0), |tail, (class, books)| {
            let slid = self.behind(class, id)? > Tokens(0);
            Ok(if slid { tail.max(books.reach()) } else { tail })
        })
    }

    /// As [`PagedKv::usage`], by class.
    pub fn usage(&self) -> IndexVec<CacheClassId, Usage> {
        self.classes.iter().map(PagedKv::usage).collect()
    }

    /// As [`PagedKv::length`].
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn length(&self, id: SequenceId) -> Result<Tokens, KvError> {
        self.whole().length(id)
    }

    /// As [`PagedKv::next_position`].
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn next_position(&self, id: SequenceId) -> Result<u32, KvError> {
        self.whole().next_position(id)
    }

    /// As [`PagedKv::start`].
    pub fn start(&mut self) -> SequenceId {
        let ids = self.each(PagedKv::start);
        ids[CacheClassId::WHOLE]
    }

    /// As [`PagedKv::end`].
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn end(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.try_each(|books| books.end(id))
    }

    /// As [`PagedKv::keep`].
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn keep(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.try_each(|books| books.keep(id))
    }

    /// As [`PagedKv::clear`].
    pub fn clear(&mut self) {
        self.each(PagedKv::clear);
    }

    /// As [`PagedKv::forget_cached`].
    pub fn forget_cached(&mut self) {
        self.each(PagedKv::forget_cached);
    }

    /// As [`PagedKv::admit`]; shared are as many whole pages as all classes have what they need of.
    ///
    /// # Errors
    /// As for [`PagedKv::admit`], for the first class that has too few pages.
    pub fn admit(&mut self, tokens: &[u32], total: Tokens) -> Result<(SequenceId, Tokens), KvError> {
        let total = Tokens(total.0.max(u32::try_from(tokens.len()).unwrap_or(u32::MAX)));
        let mut found = self.whole().found(tokens);
        let windows: Vec<_> = self.classes.iter().skip(1).map(|books| books.found_along(tokens, &found)).collect();
        found.truncate(self.reached_by_all(&windows, found.len()));
        let reached: Vec<Vec<PageId>> = self
            .classes
            .iter()
            .skip(1)
            .zip(windows)
            .map(|(books, all)| {
                all[found.len().saturating_sub(books.pages_reached())..found.len()].iter().copied().flatten().collect()
            })
            .collect();
        let (id, shared) = self.classes[CacheClassId::WHOLE].admit_found(&found, total)?;
        for (class, reached) in self.classes.ids().skip(1).zip(reached) {
            if let Err(full) = self.classes[class].admit_behind(&reached, shared, total) {
                self.end_before(class, id)?;
                return Err(full);
            }
        }
        Ok((id, shared))
    }

    /// The most of `found` leading pages whose end all windows have, as far as they reach.
    fn reached_by_all(&self, windows: &[Vec<Option<PageId>>], found: usize) -> usize {
        let mut runs = vec![0; windows.len()];
        let mut most = 0;
        for n in 1..=found {
            let mut all = true;
            for ((run, pages), books) in runs.iter_mut().zip(windows).zip(self.classes.iter().skip(1)) {
                *run = if pages[n - 1].is_some() { *run + 1 } else { 0 };
                all &= *run >= books.pages_reached().min(n);
            }
            most = if all { n } else { most };
        }
        most
    }

    /// As [`PagedKv::room`], of the class that has the least.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn room(&self, id: SequenceId) -> Result<Tokens, KvError> {
        self.classes.iter().try_fold(Tokens(u32::MAX), |room, books| Ok(room.min(books.room(id)?)))
    }

    /// As [`PagedKv::reserve`].
    ///
    /// # Errors
    /// As for [`PagedKv::reserve`], for the first class that has too few pages.
    pub fn reserve(&mut self, id: SequenceId, tokens: Tokens) -> Result<(), KvError> {
        let before = self.mark(id)?.promised;
        for class in self.classes.ids() {
            if let Err(full) = self.classes[class].reserve(id, tokens) {
                for done in self.classes.ids().take_while(|&done| done < class) {
                    self.classes[done].reserve(id, before)?;
                }
                return Err(full);
            }
        }
        Ok(())
    }

    /// As [`PagedKv::append`], with writes by class.
    ///
    /// # Errors
    /// As for [`PagedKv::append`], for the first class that has no room.
    pub fn append(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        writes: &mut IndexVec<CacheClassId, Writes>,
    ) -> Result<(), KvError> {
        if self.classes.len() > 1 {
            self.classes.iter().try_for_each(|books| books.may_append(id, tokens.len()))?;
        }
        self.classes.ids().try_for_each(|class| self.classes[class].append(id, tokens, &mut writes[class]))
    }

    /// As [`PagedKv::written`]; pages that windows have left behind are given back.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn written(&mut self, id: SequenceId) -> Result<(), KvError> {
        let mut all = self.classes.iter_mut();
        let Some(whole) = all.next() else { return Ok(()) };
        whole.written(id)?;
        all.try_for_each(|books| {
            books.written_along(id, whole)?;
            books.slide(id)
        })
    }

    /// As [`PagedKv::mark`].
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn mark(&self, id: SequenceId) -> Result<Mark, KvError> {
        self.whole().mark(id)
    }

    /// As [`PagedKv::take_back`].
    ///
    /// # Errors
    /// As for [`PagedKv::take_back`]; or what a window would reach back to was given up, because what followed was
    /// [written](Books::written) since.
    pub fn take_back(&mut self, id: SequenceId, mark: Mark) -> Result<(), KvError> {
        let tokens = self.length(id)?.0.min(mark.count.0);
        let mut marks = IndexVec::<CacheClassId, Mark>::new();
        for (class, books) in self.classes.iter_ids() {
            let held = tokens.saturating_sub(self.behind(class, id)?.0);
            books.reaches(id, tokens, held)?;
            let mark = Mark { count: Tokens(held), ..mark };
            books.may_take_back(id, mark)?;
            marks.push(mark);
        }
        self.classes.ids().try_for_each(|class| self.classes[class].take_back(id, marks[class]))
    }

    /// As [`PagedKv::fork`].
    ///
    /// # Errors
    /// As for [`PagedKv::fork`], for the first class that has too few pages.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, KvError> {
        let fork = self.classes[CacheClassId::WHOLE].fork(id)?;
        for class in self.classes.ids().skip(1) {
            if let Err(full) = self.classes[class].fork(id) {
                self.end_before(class, fork)?;
                return Err(full);
            }
        }
        Ok(fork)
    }

    /// As [`PagedKv::remove`].
    ///
    /// # Errors
    /// As for [`PagedKv::remove`]; or a window would then reach back to what was given up.
    pub fn remove(&mut self, id: SequenceId, from: u32, to: u32) -> Result<(), KvError> {
        let left = self.whole().without(id, from, to)?;
        for books in self.classes.iter() {
            books.reaches(id, left, books.without(id, from, to)?)?;
            books.may_remove(id, from, to)?;
        }
        self.try_each(|books| books.remove(id, from, to))
    }

    /// Removes the tokens from position `to` on.
    ///
    /// # Errors
    /// As for [`Books::remove`].
    pub fn truncate(&mut self, id: SequenceId, to: u32) -> Result<(), KvError> {
        self.remove(id, to, u32::MAX)
    }

    /// As [`PagedKv::shift`], with copies by class.
    ///
    /// # Errors
    /// As for [`PagedKv::shift`], for the first class that cannot.
    pub fn shift(
        &mut self,
        id: SequenceId,
        (from, to): (u32, u32),
        delta: i32,
    ) -> Result<IndexVec<CacheClassId, Vec<Move>>, KvError> {
        let before = self.clone();
        let mut all = IndexVec::new();
        for class in self.classes.ids() {
            let mut copies = Vec::new();
            if let Err(why) = self.classes[class].shift(id, from, to, delta, &mut copies) {
                *self = before;
                return Err(why);
            }
            all.push(copies);
        }
        Ok(all)
    }

    /// As [`PagedKv::rotations`], by class.
    pub fn rotations(&mut self) -> IndexVec<CacheClassId, Vec<Rotation>> {
        self.each(PagedKv::rotations)
    }

    /// As [`PagedKv::save`], of the whole sequence.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn save(&self, id: SequenceId) -> Result<SavedSequence, KvError> {
        self.whole().save(id)
    }

    /// As [`PagedKv::restore`]: `held` are the tokens at its end that each class has rows of.
    ///
    /// # Errors
    /// As for [`PagedKv::restore`]; or a class has not what its window reaches.
    pub fn restore(
        &mut self,
        saved: &SavedSequence,
        held: &IndexVec<CacheClassId, u32>,
        writes: &mut IndexVec<CacheClassId, Writes>,
    ) -> Result<SequenceId, KvError> {
        let id = self.start();
        let restored = self.may_restore(id, saved, held).and_then(|()| {
            let mut classes = self.classes.ids();
            classes.try_for_each(|c| self.classes[c].restore_as(id, &saved.last(held[c]), &mut writes[c]))
        });
        match restored {
            Ok(()) => Ok(id),
            Err(why) => {
                self.end(id)?;
                Err(why)
            }
        }
    }

    fn may_restore(
        &self,
        id: SequenceId,
        saved: &SavedSequence,
        held: &IndexVec<CacheClassId, u32>,
    ) -> Result<(), KvError> {
        saved.check()?;
        let tokens = saved.tokens.len() as u32;
        self.classes.iter_ids().try_for_each(|(class, books)| {
            books.reaches(id, tokens, held[class].min(tokens))?;
            books.may_append(id, held[class] as usize)
        })
    }

    /// Ends a sequence that only the classes before `class` have.
    fn end_before(&mut self, class: CacheClassId, id: SequenceId) -> Result<(), KvError> {
        self.classes.ids().take_while(|&done| done < class).try_for_each(|done| self.classes[done].end(id))
    }

    fn each<T>(&mut self, change: impl Fn(&mut PagedKv) -> T) -> IndexVec<CacheClassId, T> {
        self.classes.ids().map(|class| change(&mut self.classes[class])).collect()
    }

    fn try_each(&mut self, change: impl Fn(&mut PagedKv) -> Result<(), KvError>) -> Result<(), KvError> {
        self.classes.ids().try_for_each(|class| change(&mut self.classes[class]))
    }
}
