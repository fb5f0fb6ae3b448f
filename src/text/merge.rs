//! Greedy pair merging, shared by SPM and BPE: symbols in a row → fewer symbols, lowest rank first, leftmost among equals.
//! A linked list and a heap: O(n log n) for n symbols, whatever the text; never rescans the row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::TokenId;

/// A run of bytes of the text, with its token where the vocabulary has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    pub start: usize,
    pub end: usize,
    pub token: Option<TokenId>,
}

/// What a pair becomes: lower ranks merge earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub rank: u32,
    pub token: TokenId,
}

/// Scratch of one encoding, reused from piece to piece.
#[derive(Debug, Default)]
pub(super) struct Merger {
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

/// A symbol in the list; `end == start` once it is merged into its left neighbour.
#[derive(Clone, Copy, Debug)]
struct Link {
    symbol: Symbol,
    prev: usize,
    next: usize,
}

/// A possible merge of `left` with its neighbour; stale unless the pair still spans `start..end` of the text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    end: usize,
    middle: usize,
    token: TokenId,
}

/// The link before the first and after the last.
const NONE: usize = usize::MAX;

impl Merger {
    /// Merges adjacent symbols as long as `find` knows a merge for a pair, and gives what is left to `out`.
    pub(super) fn run(
        &mut self,
        symbols: impl Iterator<Item = Symbol>,
        find: impl Fn(&Symbol, &Symbol) -> Option<Merge>,
        out: impl FnMut(Symbol),
    ) {
        self.link(symbols);
        self.heap.clear();
        for right in 1..self.links.len() {
            self.propose(right - 1, right, &find);
        }
        while let Some(Reverse(best)) = self.heap.pop() {
            if self.is_current(&best) {
                self.join(&best, &find);
            }
        }
        self.links.iter().filter(|l| l.symbol.start < l.symbol.end).map(|l| l.symbol).for_each(out);
    }

    fn link(&mut self, symbols: impl Iterator<Item = Symbol>) {
        self.links.clear();
        self.links.extend(symbols.enumerate().map(|(i, symbol)| Link {
            symbol,
            prev: i.checked_sub(1).unwrap_or(NONE),
            next: i + 1,
        }));
        if let Some(last) = self.links.last_mut() {
            last.next = NONE;
        }
    }

    fn propose(&mut self, left: usize, right: usize, find: &impl Fn(&Symbol, &Symbol) -> Option<Merge>) {
        let (l, r) = (&self.links[left].symbol, &self.links[right].symbol);
        if let Some(Merge { rank, token }) = find(l, r) {
            self.heap.push(Reverse(Candidate { rank, left, middle: l.end, end: r.end, token }));
        }
    }

    /// Whether neither side has been merged since the candidate was proposed.
    fn is_current(&self, c: &Candidate) -> bool {
        let left = &self.links[c.left];
        let alive = left.symbol.start < left.symbol.end && left.symbol.end == c.middle;
        alive && self.links.get(left.next).is_some_and(|right| right.symbol.end == c.end)
    }

    fn join(&mut self, c: &Candidate, find: &impl Fn(&Symbol, &Symbol) -> Option<Merge>) {
        let right = self.links[c.left].next;
        let (prev, next) = (self.links[c.left].prev, self.links[right].next);
        self.links[right].symbol.end = self.links[right].symbol.start;
        let left = &mut self.links[c.left];
        left.symbol.end = c.end;
        left.symbol.token = Some(c.token);
        left.next = next;
        if next != NONE {
            self.links[next].prev = c.left;
            self.propose(c.left, next, find);
        }
        if prev != NONE {
            self.propose(prev, c.left, find);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Merges any two equal-length runs up to `longest`; gives the lengths left and how often a merge was looked up.
    fn merge_runs(n: usize, longest: usize) -> (Vec<usize>, usize) {
        let lookups = Cell::new(0);
        let symbols = (0..n).map(|i| Symbol { start: i, end: i + 1, token: None });
        let find = |l: &Symbol, r: &Symbol| {
            lookups.set(lookups.get() + 1);
            let (left, right) = (l.end - l.start, r.end - r.start);
            let joined = left + right;
            (left == right && joined <= longest)
                .then(|| Merge { rank: u32::try_from(joined).unwrap(), token: TokenId(0) })
        };
        let mut left = Vec::new();
        Merger::default().run(symbols, find, |s| left.push(s.end - s.start));
        (left, lookups.get())
    }

    #[test]
    fn equal_ranks_merge_from_the_left() {
        assert_eq!(merge_runs(7, 2).0, [2, 2, 2, 1]);
        assert_eq!(merge_runs(13, 8).0, [8, 4, 1]);
        assert_eq!(merge_runs(0, 8).0, [] as [usize; 0]);
    }

    #[test]
    fn lookups_are_at_most_three_a_symbol() {
        for n in [1_000, 100_000] {
            for longest in [1, 2, 64, usize::MAX] {
                let (left, lookups) = merge_runs(n, longest);
                assert_eq!(left.iter().sum::<usize>(), n);
                assert!(lookups <= 3 * n, "{lookups} lookups for {n} symbols, runs up to {longest}");
            }
        }
    }
}
