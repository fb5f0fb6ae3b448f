//! Pages full of tokens, found again by their content: the tokens of a page and all that precede them.
//!
//! A content is named by a chain number that is given once and never again. A page is looked up under the chain of the
//! page before it and its own tokens; the hash of both only picks a bucket, what decides is that they are equal. A page
//! whose predecessor was forgotten is therefore never found, whatever comes in that place later.
//! Buckets are linked through the pages themselves: nothing is allocated after the index was made.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::PageId;
use crate::index::Id;

/// The content of a page and of all pages before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain(u64);

impl Chain {
    /// Before the first page.
    pub(super) const ROOT: Chain = Chain(0);
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// [`Chain::ROOT`]: the page is not in the index.
    chain: Chain,
    parent: Chain,
    bucket: usize,
    next: Option<PageId>,
}

/// The index of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrefixIndex {
    page: usize,
    buckets: Vec<Option<PageId>>,
    entries: Vec<Entry>,
    last: Chain,
}

impl PrefixIndex {
    /// An empty index of `total` pages of `page` tokens.
    pub(super) fn new(total: u32, page: u32) -> PrefixIndex {
        let buckets = vec![None; (total as usize).next_power_of_two()];
        PrefixIndex { page: page as usize, buckets, entries: vec![Entry::default(); total as usize], last: Chain::ROOT }
    }

    /// Whether a page can be found.
    pub(super) fn holds(&self, page: PageId) -> bool {
        self.entries[page.index()].chain != Chain::ROOT
    }

    /// The content up to the end of a page that can be found.
    pub(super) fn content(&self, page: PageId) -> Option<Chain> {
        Some(self.entries[page.index()].chain).filter(|&chain| chain != Chain::ROOT)
    }

    /// The page that holds `ids` after `parent`, and the chain up to its end; `tokens` are those of all cells.
    pub(super) fn find(&self, parent: Chain, ids: &[u32], tokens: &[u32]) -> Option<(PageId, Chain)> {
        let mut at = self.buckets[self.bucket(parent, ids)];
        while let Some(page) = at {
            let entry = &self.entries[page.index()];
            if entry.parent == parent && self.tokens_of(page, tokens) == ids {
                return Some((page, entry.chain));
            }
            at = entry.next;
        }
        None
    }

    /// The chain of the content of `page` after `parent`, and the page under which it is found: this one, unless there
    /// is one of the same content already.
    pub(super) fn insert(&mut self, parent: Chain, page: PageId, tokens: &[u32]) -> (PageId, Chain) {
        let ids = self.tokens_of(page, tokens);
        let found = self.find(parent, ids, tokens);
        if let Some(known) = found.filter(|&(found, _)| found == page) {
            return known;
        }
        let bucket = self.bucket(parent, ids);
        self.forget(page);
        if let Some(other) = found {
            return other;
        }
        self.last = Chain(self.last.0 + 1);
        self.entries[page.index()] = Entry { chain: self.last, parent, bucket, next: self.buckets[bucket] };
        self.buckets[bucket] = Some(page);
        (page, self.last)
    }

    /// Takes a page out of the index, if it is there: its content is about to change.
    pub(super) fn forget(&mut self, page: PageId) {
        if self.holds(page) {
            let Entry { bucket, next, .. } = std::mem::take(&mut self.entries[page.index()]);
            self.relink(bucket, page, next);
        }
    }

    /// The content of `src` is now in `dst`, which is not in the index.
    pub(super) fn rename(&mut self, src: PageId, dst: PageId) {
        if self.holds(src) {
            let entry = std::mem::take(&mut self.entries[src.index()]);
            self.relink(entry.bucket, src, Some(dst));
            self.entries[dst.index()] = entry;
        }
    }

    /// Has whatever led to `page` lead to `to`.
    fn relink(&mut self, bucket: usize, page: PageId, to: Option<PageId>) {
        let mut at = self.buckets[bucket];
        if at == Some(page) {
            self.buckets[bucket] = to;
            return;
        }
        while let Some(before) = at {
            let next = &mut self.entries[before.index()].next;
            if *next == Some(page) {
                *next = to;
                return;
            }
            at = *next;
        }
    }

    fn tokens_of<'a>(&self, page: PageId, tokens: &'a [u32]) -> &'a [u32] {
        &tokens[page.index() * self.page..(page.index() + 1) * self.page]
    }

    fn bucket(&self, parent: Chain, ids: &[u32]) -> usize {
        let mut hasher = FixedState::default().build_hasher();
        hasher.write_u64(parent.0);
        ids.iter().for_each(|&id| hasher.write_u32(id));
        hasher.finish() as usize & (self.buckets.len() - 1)
    }
}
