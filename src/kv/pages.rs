//! Which pages are held, by how many sequences, and which are free.
//!
//! A page that nobody holds is free. If its content can be found again it stays in the cache until its room is needed,
//! those first that were given back first; otherwise it is blank, and blank pages are given out lowest first.
//! Nothing is allocated after the books were opened.

use super::PageId;
use super::prefix::PrefixIndex;
use crate::index::Id;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    older: Option<PageId>,
    newer: Option<PageId>,
}

/// The pages of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) index: PrefixIndex,
    holders: Vec<u32>,
    /// A bit a blank page.
    blank: Vec<u64>,
    blanks: u32,
    /// The first word of `blank` that has a bit.
    lowest: u32,
    cached: u32,
    /// One past the highest page that is held.
    span: u32,
    links: Vec<Link>,
    oldest: Option<PageId>,
    newest: Option<PageId>,
}

impl Pages {
    /// `total` blank pages of `page` tokens.
    pub(super) fn new(total: u32, page: u32) -> Pages {
        let mut blank = vec![0; total.div_ceil(64) as usize];
        (0..total).for_each(|p| blank[p as usize / 64] |= 1 << (p % 64));
        Pages {
            index: PrefixIndex::new(total, page),
            holders: vec![0; total as usize],
            blank,
            blanks: total,
            lowest: 0,
            cached: 0,
            span: 0,
            links: vec![Link::default(); total as usize],
            oldest: None,
            newest: None,
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.holders.len() as u32
    }

    /// Pages that nobody holds, the cached ones among them.
    pub(super) fn free(&self) -> u32 {
        self.blanks + self.cached
    }

    /// Free pages whose content can still be found.
    pub(super) fn cached(&self) -> u32 {
        self.cached
    }

    /// One past the highest page that is held.
    pub(super) fn span(&self) -> u32 {
        self.span
    }

    /// Whether nobody holds a page, but its content can be found.
    pub(super) fn is_cached(&self, page: PageId) -> bool {
        self.holders(page) == 0 && self.index.holds(page)
    }

    /// Sequences that hold a page.
    pub(super) fn holders(&self, page: PageId) -> u32 {
        self.holders[page.index()]
    }

    /// By page, whether anybody holds it.
    pub(super) fn map(&self) -> Vec<bool> {
        self.holders.iter().map(|&n| n > 0).collect()
    }

    /// The page to be taken next: the lowest blank one, or else the cached one that was given back first.
    pub(super) fn next(&self) -> Option<PageId> {
        self.lowest_blank().or(self.oldest)
    }

    fn lowest_blank(&self) -> Option<PageId> {
        let bits = self.blank.get(self.lowest as usize)?;
        Some(PageId(self.lowest * 64 + bits.trailing_zeros()))
    }

    /// Takes the next page; it is held once.
    pub(super) fn take(&mut self) -> Option<PageId> {
        let page = self.next()?;
        self.claim(page);
        Some(page)
    }

    /// Takes a page that nobody holds; what was cached in it is forgotten.
    pub(super) fn claim(&mut self, page: PageId) {
        self.pick(page);
        self.index.forget(page);
    }

    /// Holds a page once more, with its content.
    pub(super) fn hold(&mut self, page: PageId) {
        match self.holders(page) {
            0 => self.pick(page),
            held => self.holders[page.index()] = held + 1,
        }
    }

    /// Gives a page back once.
    pub(super) fn release(&mut self, page: PageId) {
        let held = self.holders(page).saturating_sub(1);
        self.holders[page.index()] = held;
        match (held, self.index.holds(page)) {
            (0, true) => self.append_cached(page),
            (0, false) => self.set_blank(page),
            _ => {}
        }
        self.lower_span();
    }

    /// Has a page count as given back just now, if it is cached.
    pub(super) fn refresh(&mut self, page: PageId) {
        if self.is_cached(page) {
            self.unlink(page);
            self.append_cached(page);
        }
    }

    /// Has the content of `cached`, which nobody holds, be found in `page`, where it is too; `cached` becomes blank.
    pub(super) fn succeed(&mut self, cached: PageId, page: PageId) {
        self.unlink(cached);
        self.index.rename(cached, page);
        self.set_blank(cached);
    }

    /// Hands all that is held of `src` to `dst`, which is free, and leaves `src` blank.
    pub(super) fn relocate(&mut self, src: PageId, dst: PageId) {
        self.claim(dst);
        self.index.rename(src, dst);
        self.holders[dst.index()] = std::mem::take(&mut self.holders[src.index()]);
        self.set_blank(src);
        self.lower_span();
    }

    /// Has what is cached in `src` be cached in `dst`, which is blank; its turn to be forgotten stays.
    pub(super) fn relocate_cached(&mut self, src: PageId, dst: PageId) {
        self.unset_blank(dst);
        self.index.rename(src, dst);
        let link = std::mem::take(&mut self.links[src.index()]);
        self.links[dst.index()] = link;
        self.join(link.older, Some(dst));
        self.join(Some(dst), link.newer);
        self.set_blank(src);
    }

    /// Has all that is cached be blank.
    pub(super) fn forget_cached(&mut self) {
        while let Some(oldest) = self.oldest {
            self.unlink(oldest);
            self.index.forget(oldest);
            self.set_blank(oldest);
        }
    }

    /// Has a page be blank if there is none: the cached one that was given back first.
    pub(super) fn have_blank(&mut self) {
        if let Some(oldest) = self.oldest.filter(|_| self.blanks == 0) {
            self.unlink(oldest);
            self.index.forget(oldest);
            self.set_blank(oldest);
        }
    }

    /// The lowest blank pages side by side, at most `most`: where and how many.
    pub(super) fn blanks(&self, most: u32) -> (PageId, u32) {
        let start = self.lowest_blank().unwrap_or(PageId(self.total()));
        let side_by_side = (start.0..self.total()).take_while(|&page| self.is_blank(page));
        (start, side_by_side.take(most as usize).count() as u32)
    }

    /// Where `count` free pages lie side by side. Blank ones: behind `last`, where a sequence goes on, or else the lowest;
    /// then cached ones too: that which was given back first, or where more are needed behind `last` or the lowest. A
    /// single page, and what is blank behind `last`, is found without a search.
    ///
    /// # Errors
    /// The length of the longest run of free pages.
    pub(super) fn run(&self, count: u32, last: Option<PageId>) -> Result<PageId, u32> {
        let free = |page: u32| self.holders[page as usize] == 0;
        let behind = |serves: &dyn Fn(u32) -> bool| {
            let first = last?.0 + 1;
            let end = first.checked_add(count).filter(|&end| end <= self.total())?;
            (first..end).all(serves).then_some(PageId(first))
        };
        let blank = behind(&|page| self.is_blank(page)).or_else(|| self.blank_run(count));
        let single = || self.oldest.filter(|_| count == 1);
        match blank.or_else(single).or_else(|| behind(&free)) {
            Some(first) => Ok(first),
            None => self.run_of(count, 0, free),
        }
    }

    /// The lowest run of blank pages.
    fn blank_run(&self, count: u32) -> Option<PageId> {
        match count {
            1 => self.lowest_blank(),
            _ if count > self.blanks => None,
            _ => self.run_of(count, self.lowest * 64, |page| self.is_blank(page)).ok(),
        }
    }

    /// The lowest run of pages that serve, from `first` on.
    fn run_of(&self, count: u32, first: u32, serves: impl Fn(u32) -> bool) -> Result<PageId, u32> {
        let (mut length, mut longest) = (0, 0);
        for page in first..self.total() {
            length = if serves(page) { length + 1 } else { 0 };
            longest = longest.max(length);
            if length == count {
                return Ok(PageId(page + 1 - count));
            }
        }
        Err(longest)
    }

    fn is_blank(&self, page: u32) -> bool {
        self.blank[page as usize / 64] >> (page % 64) & 1 == 1
    }

    /// From free to held once.
    fn pick(&mut self, page: PageId) {
        if self.is_blank(page.0) {
            self.unset_blank(page);
        } else {
            self.unlink(page);
        }
        self.holders[page.index()] = 1;
        self.span = self.span.max(page.0 + 1);
    }

    /// To be called whenever a page is not held any more; goes over those at the end only.
    fn lower_span(&mut self) {
        while self.span.checked_sub(1).is_some_and(|last| self.holders[last as usize] == 0) {
            self.span -= 1;
        }
    }

    fn set_blank(&mut self, page: PageId) {
        self.blank[page.index() / 64] |= 1 << (page.0 % 64);
        self.blanks += 1;
        self.lowest = self.lowest.min(page.0 / 64);
    }

    fn unset_blank(&mut self, page: PageId) {
        self.blank[page.index() / 64] &= !(1 << (page.0 % 64));
        self.blanks -= 1;
        while self.blank.get(self.lowest as usize).is_some_and(|&bits| bits == 0) {
            self.lowest += 1;
        }
    }

    fn append_cached(&mut self, page: PageId) {
        self.join(self.newest, Some(page));
        self.join(Some(page), None);
        self.cached += 1;
    }

    fn unlink(&mut self, page: PageId) {
        let Link { older, newer } = std::mem::take(&mut self.links[page.index()]);
        self.join(older, newer);
        self.cached -= 1;
    }

    /// Has `newer` come right after `older` in the order in which cached pages were given back; none is an end of it.
    fn join(&mut self, older: Option<PageId>, newer: Option<PageId>) {
        match older {
            Some(older) => self.links[older.index()].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.links[newer.index()].older = older,
            None => self.newest = older,
        }
    }
}
