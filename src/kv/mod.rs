//! Which cells of the cache hold which token of which sequence: pages, block tables, positions. Bookkeeping only: no
//! buffers, and no idea of what a cell holds.
//!
//! Pages are counted by the sequences that hold them and copied when one of those writes. What the books cannot do
//! themselves they hand out: [`Move`]s of cells and [`Rotation`]s of keys. The caller carries them out in the order in
//! which they came, before it writes to cells that came after them and before it reads.
//!
//! Everything that can fail does so before it changes anything. Appending to a running sequence and looking up its
//! table allocate nothing.

mod admit;
mod append;
mod books;
mod cells;
mod compact;
mod edit;
mod gather;
mod layout;
mod mark;
mod pages;
mod prefix;
mod price;
mod promise;
mod save;
mod share;
mod sink;
mod squeeze;
mod table;
mod window;

use thiserror::Error;

use crate::define_id;
use crate::index::IndexVec;
use crate::units::Tokens;

use cells::Cells;
use pages::Pages;
use table::{Runs, Sequence};

pub use append::Writes;
pub use books::Books;
pub use compact::{Budget, Compaction, Depth, MoveCost};
pub use edit::Rotation;
pub use gather::{Move, gather};
pub use layout::KvLayout;
pub use mark::Mark;
pub use price::Price;
pub use save::{SavedRun, SavedSequence};
pub use table::{Run, Table};
pub use window::Window;

define_id! {
    /// A sequence of a cache.
    pub SequenceId("q"),
    /// A page of a cache.
    pub PageId("p"),
    /// A cell of a cache: one token's row in every layer.
    pub CellId("c"),
}

/// Positions stay below this, so that a shift fits a signed number.
const POSITIONS: u32 = 1 << 31;

/// Why something cannot be had of a cache.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KvError {
    /// Too few pages are free.
    #[error("the KV cache is full: {needed} pages are needed, {free} of {total} are free and not reserved")]
    Full {
        /// Pages asked for.
        needed: u32,
        /// Pages that nobody holds and that are set aside for nobody.
        free: u32,
        /// Pages in all.
        total: u32,
    },
    /// Cells are free, but not side by side; compaction brings them together.
    #[error("the KV cache has no room for {needed} cells side by side: {free} are free, at most {longest} together")]
    NoSlot {
        /// Cells asked for.
        needed: u32,
        /// The longest run of free cells.
        longest: u32,
        /// Free cells.
        free: u32,
    },
    /// The sequence ended or never was.
    #[error("sequence {0} does not exist")]
    NoSequence(SequenceId),
    /// A window would reach back to rows that were given up.
    #[error(
        "{sequence} cannot be brought to {tokens} tokens: its window would reach back over {needed} of them, rows of {found} are kept"
    )]
    Window {
        /// The sequence.
        sequence: SequenceId,
        /// Its tokens afterwards.
        tokens: u32,
        /// Those of them that a window reaches.
        needed: u32,
        /// Those of them that the window's cache has.
        found: u32,
    },
    /// A shift would bring positions together or out of range.
    #[error("positions {from} to {to} cannot be shifted by {delta}: they would not stay between {above} and {below}")]
    Shift {
        /// First position of the range.
        from: u32,
        /// Position behind the range.
        to: u32,
        /// By how much.
        delta: i32,
        /// The least position that is not taken by what precedes.
        above: u32,
        /// The position that what follows begins with.
        below: u32,
    },
    /// Positions end at 2^31.
    #[error("{needed} tokens more do not fit a sequence that goes on at position {next}: positions end at 2147483648")]
    Positions {
        /// Where the sequence goes on.
        next: u32,
        /// Tokens to be appended.
        needed: usize,
    },
    /// A saved sequence is of another version of this format.
    #[error("the saved sequence has format {found}; this version reads format {known}")]
    SavedVersion {
        /// That of the saved sequence.
        found: u32,
        /// That which can be read.
        known: u32,
    },
    /// A saved sequence contradicts itself.
    #[error("the saved sequence is damaged at run {run}: {why}")]
    SavedDamaged {
        /// The run, by its place.
        run: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// What is taken of a cache; pages are those of its [`KvLayout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Pages in all.
    pub total: u32,
    /// Pages that sequences hold.
    pub used: u32,
    /// Pages that nobody holds, the cached ones among them.
    pub free: u32,
    /// Free pages whose content can still be shared.
    pub cached: u32,
    /// Free pages that are set aside for tokens that were [reserved](PagedKv::reserve).
    pub promised: u32,
    /// Cells that are read by some sequence.
    pub live: Tokens,
    /// Cells of held pages that no sequence reads.
    pub slack: Tokens,
}

/// The pages of a cache and the sequences that hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedKv {
    layout: KvLayout,
    pages: Pages,
    cells: Cells,
    /// What sequences keep: all, or what a window reaches.
    window: Option<Window>,
    sequences: IndexVec<SequenceId, Option<Sequence>>,
    /// Whether keys may have to be rotated.
    turned: bool,
}

impl PagedKv {
    /// A cache of `cells`, rounded down to whole pages.
    pub fn new(cells: Tokens, layout: KvLayout) -> PagedKv {
        let page = layout.page();
        let total = cells.0 / page;
        PagedKv {
            layout,
            pages: Pages::new(total, page),
            cells: Cells::new(total * page),
            window: None,
            sequences: IndexVec::new(),
            turned: false,
        }
    }

    /// How cells are given out.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Cells of all pages.
    pub fn cells(&self) -> Tokens {
        Tokens(self.pages.total() * self.page())
    }

    /// Pages that no sequence holds; those that are cached or promised count.
    pub fn free_pages(&self) -> u32 {
        self.pages.free()
    }

    /// How many sequences hold a page.
    pub fn holders(&self, page: PageId) -> u32 {
        if page.0 < self.pages.total() { self.pages.holders(page) } else { 0 }
    }

    /// What is taken. Goes over all tables.
    pub fn usage(&self) -> Usage {
        let mut masks = vec![0u64; self.pages.total() as usize];
        for sequence in self.sequences.iter().flatten() {
            for (page, live) in sequence.pages.iter().zip(&sequence.live) {
                masks[page.0 as usize] |= live;
            }
        }
        let (total, free, used) = (self.pages.total(), self.pages.free(), self.used());
        let live = masks.iter().map(|mask| mask.count_ones()).sum();
        Usage {
            total,
            used,
            free,
            cached: self.pages.cached(),
            promised: self.promised(),
            live: Tokens(live),
            slack: Tokens(used * self.page() - live),
        }
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        let sequence = Some(Sequence::new(self.pages.total()));
        self.put(sequence)
    }

    /// Ends a sequence, whatever state it is in, and gives back its pages and what was set aside for it.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn end(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.sequence(id)?;
        let ended = self.sequences[id].take();
        // The last pages first, so that of a cached prefix its beginning stays longest.
        for page in ended.iter().flat_map(|sequence| sequence.pages.iter().rev()) {
            self.pages.release(*page);
        }
        Ok(())
    }

    /// Ends all sequences but one.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn keep(&mut self, id: SequenceId) -> Result<(), KvError> {
        self.sequence(id)?;
        for other in self.sequences.ids() {
            if other != id && self.sequences[other].is_some() {
                self.end(other)?;
            }
        }
        Ok(())
    }

    /// Forgets what is cached of sequences that have ended; its pages are blank from now on.
    pub fn forget_cached(&mut self) {
        self.pages.forget_cached();
    }

    /// Ends all sequences and forgets what is cached of them.
    pub fn clear(&mut self) {
        for id in self.sequences.ids() {
            if let Some(sequence) = self.sequences[id].take() {
                sequence.pages.iter().for_each(|&page| self.pages.release(page));
            }
        }
        self.forget_cached();
    }

    /// Running sequences.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceId> {
        self.sequences.iter_ids().filter(|(_, sequence)| sequence.is_some()).map(|(id, _)| id)
    }

    /// Tokens in a sequence.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn length(&self, id: SequenceId) -> Result<Tokens, KvError> {
        Ok(Tokens(self.sequence(id)?.count))
    }

    /// The position of the next token of a sequence: one past its last, 0 where it has none.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn next_position(&self, id: SequenceId) -> Result<u32, KvError> {
        Ok(self.sequence(id)?.next_position(&self.cells, self.page()))
    }

    /// The block table of a sequence.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn table(&self, id: SequenceId) -> Result<Table<'_>, KvError> {
        let sequence = self.sequence(id)?;
        let (slots, live) = (Tokens(sequence.slots(self.page())), Tokens(sequence.count));
        Ok(Table { pages: &sequence.pages, slots, live })
    }

    /// The live cells of a sequence in order, as runs of cells side by side whose positions follow each other.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn runs(&self, id: SequenceId) -> Result<impl Iterator<Item = Run>, KvError> {
        let cells = self.sequence(id)?.cells(self.page()).peekable();
        Ok(Runs { cells, facts: &self.cells, layout: self.layout })
    }

    fn page(&self) -> u32 {
        self.layout.page()
    }

    /// Pages that sequences hold.
    pub fn used(&self) -> u32 {
        self.pages.total() - self.pages.free()
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence, KvError> {
        self.sequences.get(id).and_then(Option::as_ref).ok_or(KvError::NoSequence(id))
    }

    fn sequence_mut(&mut self, id: SequenceId) -> Result<&mut Sequence, KvError> {
        self.sequence(id)?;
        self.sequences[id].as_mut().ok_or(KvError::NoSequence(id))
    }

    /// Gives a sequence the first id that is not taken.
    fn put(&mut self, sequence: Option<Sequence>) -> SequenceId {
        let unused = self.sequences.iter_ids().find(|(_, s)| s.is_none()).map(|(id, _)| id);
        match unused {
            Some(id) => {
                self.sequences[id] = sequence;
                id
            }
            None => self.sequences.push(sequence),
        }
    }
}
