//! Books of several classes against a naive cache: each sequence a list of tokens, of which a window's class has the last.
//! A buffer of payloads a class does what the books ask. A payload is a function of all tokens and positions before it, so
//! a page that is wrongly shared, given back or moved is seen.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use loadmaster::index::{CacheClassId, IndexVec};
use loadmaster::kv::{Books, Compaction, Depth, KvError, KvLayout, Move, SequenceId, Window, Writes};
use loadmaster::units::Tokens;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Token {
    id: u32,
    position: u32,
    payload: u64,
}

#[derive(Clone, Debug, Default)]
struct Naive {
    tokens: Vec<Token>,
    promised: u32,
}

/// Payload and what the key is rotated to, by cell.
type Rows = Vec<(u64, u32)>;

struct Rig {
    books: Books,
    page: u32,
    step: u32,
    windows: Vec<u32>,
    rows: IndexVec<CacheClassId, Rows>,
    naive: BTreeMap<SequenceId, Naive>,
}

/// One operation, as numbers that are cut to what there is.
type Op = (u8, u16, u16, u16);

fn next(tokens: &[Token], id: u32) -> Token {
    let position = tokens.last().map_or(0, |last| last.position + 1);
    let mut hasher = DefaultHasher::new();
    (id, position, tokens).hash(&mut hasher);
    Token { id, position, payload: hasher.finish() }
}

fn copy(rows: &mut Rows, moves: &[Move]) {
    for step in moves {
        let [src, dst, len] = [step.src.0, step.dst.0, step.len.0].map(|n| n as usize);
        rows.copy_within(src..src + len, dst);
    }
}

impl Rig {
    fn new((pages, layout): (u32, KvLayout), step: u32, windows: &[(u32, u32)]) -> Rig {
        let page = match layout {
            KvLayout::Paged { page } => page.0,
            KvLayout::Contiguous => 1,
        };
        let window = |&(tokens, sequences): &(u32, u32)| {
            let window = Window { tokens: Tokens(tokens), step: Tokens(step) };
            (Tokens(window.pages(layout) * sequences * page), window)
        };
        let books = Books::new(layout, Tokens(pages * page), windows.iter().map(window));
        let rows = books.classes().iter().map(|class| vec![(0, 0); class.cells().index()]).collect();
        let windows = windows.iter().map(|(tokens, _)| *tokens).collect();
        Rig { books, page, step, windows, rows, naive: BTreeMap::new() }
    }

    fn pick(&self, n: u16) -> Option<SequenceId> {
        self.naive.keys().nth(usize::from(n) % self.naive.len().max(1)).copied()
    }

    fn writes(&self) -> IndexVec<CacheClassId, Writes> {
        self.rows.iter().map(|_| Writes::default()).collect()
    }

    fn apply(&mut self, (kind, a, b, c): Op) {
        match (kind % 14, self.pick(a)) {
            (0 | 1, _) if self.naive.len() < 5 => self.admit(a, b, c),
            (2..=5, Some(id)) => self.append(id, b, c),
            (6, Some(id)) => self.steps_in_vain(id, b, c),
            (7, Some(id)) if self.naive.len() < 5 => self.fork(id),
            (8, Some(id)) => self.remove(id, b, c),
            (9, Some(id)) => self.drop_and_shift(id, b, c),
            (10, Some(id)) => self.reserve(id, b % 90),
            (11, Some(id)) => self.end(id),
            (12, _) => self.compact(),
            (13, Some(id)) => self.save_and_restore(id),
            _ => {}
        }
        self.check();
    }

    /// A request of a prompt and some tokens more; few different tokens, so that much begins alike.
    fn admit(&mut self, a: u16, b: u16, c: u16) {
        let prompt: Vec<u32> = (0..u32::from(c % 70)).map(|i| u32::from(b >> (i / self.page % 2)) & 1).collect();
        let total = Tokens(prompt.len() as u32 + u32::from(a % 60));
        match self.books.admit(&prompt, total) {
            Ok((id, shared)) => {
                let mut naive = Naive { tokens: Vec::new(), promised: total.0 - shared.0 };
                for &token in &prompt[..shared.index()] {
                    naive.tokens.push(next(&naive.tokens, token));
                }
                assert!(self.naive.insert(id, naive).is_none());
                self.check();
                for ids in prompt[shared.index()..].chunks(self.step as usize) {
                    assert!(self.feed(id, ids, true), "a promise was not kept");
                }
            }
            Err(KvError::Full { needed, free, .. }) => assert!(needed > free),
            Err(why) => panic!("{why}"),
        }
    }

    fn append(&mut self, id: SequenceId, b: u16, c: u16) {
        let ids: Vec<u32> = (0..u32::from(b) % self.step + 1).map(|i| u32::from(c >> (i % 16)) & 1).collect();
        self.feed(id, &ids, true);
    }

    /// Whether a step took tokens; what was set aside for it is always there.
    fn feed(&mut self, id: SequenceId, ids: &[u32], written: bool) -> bool {
        let mut writes = self.writes();
        let mut taken = self.taken(id, ids, &mut writes);
        if let Err(KvError::NoSlot { .. }) = taken {
            self.books.forget_cached();
            self.compact();
            taken = self.taken(id, ids, &mut writes);
        }
        if let Err(why) = taken {
            assert!(matches!(why, KvError::Full { needed, free, .. } if needed > free), "{why}");
            assert!(ids.len() as u32 > self.naive[&id].promised, "a promise was not kept: {why}");
            return false;
        }
        let naive = self.naive.get_mut(&id).unwrap();
        let from = naive.tokens.len();
        ids.iter().for_each(|&token| naive.tokens.push(next(&naive.tokens, token)));
        naive.promised = naive.promised.saturating_sub(ids.len() as u32);
        for ((_, writes), rows) in writes.iter_ids().zip(self.rows.iter_mut()) {
            copy(rows, &writes.copies);
            assert_eq!(writes.cells.len(), ids.len());
            for (cell, token) in writes.cells.iter().zip(&naive.tokens[from..]) {
                rows[cell.0 as usize] = (token.payload, token.position);
            }
        }
        if written {
            self.books.written(id).unwrap();
        }
        true
    }

    fn taken(
        &mut self,
        id: SequenceId,
        ids: &[u32],
        writes: &mut IndexVec<CacheClassId, Writes>,
    ) -> Result<(), KvError> {
        let before = (self.books.clone(), writes.clone());
        self.books.append(id, ids, writes).inspect_err(|why| {
            assert_eq!((&before.0, &before.1), (&self.books, &*writes), "{why}");
        })
    }

    /// Steps of which the last fails once its rows are written: all are taken back, if windows still have what they reach.
    fn steps_in_vain(&mut self, id: SequenceId, b: u16, c: u16) {
        let (mark, naive) = (self.books.mark(id).unwrap(), self.naive[&id].clone());
        assert_eq!((mark.count.index(), mark.promised.0), (naive.tokens.len(), naive.promised));
        let ids = vec![u32::from(c) & 1; usize::from(b) % self.step as usize + 1];
        let before = c / 2 % 5;
        if !(0..before).all(|_| self.feed(id, &ids, true)) || !self.feed(id, &ids, false) {
            return;
        }
        let (left, reach) = (naive.tokens.len(), |window: &u32| (*window as usize - 1).max(1));
        let held = |class| left.saturating_sub(self.books.behind(class, id).unwrap().index());
        let mut classes = self.books.classes().ids().skip(1).zip(&self.windows);
        let kept = classes.all(|(class, window)| held(class) >= reach(window).min(left));
        match self.books.take_back(id, mark) {
            Ok(()) => {
                assert!(kept, "a window has lost what it reaches");
                self.naive.insert(id, naive);
            }
            Err(why) => {
                assert!(matches!(why, KvError::Window { .. }) && !kept, "{why}");
                self.books.written(id).unwrap();
            }
        }
    }

    fn fork(&mut self, id: SequenceId) {
        let before = self.books.usage();
        match self.books.fork(id) {
            Ok(fork) => {
                let naive = Naive { promised: 0, ..self.naive[&id].clone() };
                assert!(self.naive.insert(fork, naive).is_none());
            }
            Err(why) => {
                assert_eq!(before.iter().collect::<Vec<_>>(), self.books.usage().iter().collect::<Vec<_>>(), "{why}");
                assert!(matches!(why, KvError::Full { needed, free, .. } if needed > free), "{why}");
            }
        }
    }

    fn remove(&mut self, id: SequenceId, b: u16, c: u16) {
        let end = self.naive[&id].tokens.last().map_or(0, |last| last.position + 1);
        let (b, c) = (u32::from(b) % (end + 2), u32::from(c) % (end + 2));
        self.removed(id, b.min(c), b.max(c));
    }

    fn removed(&mut self, id: SequenceId, from: u32, to: u32) -> bool {
        let within = |token: &Token| (from..to).contains(&token.position);
        let mut left = self.naive[&id].tokens.clone();
        left.retain(|token| !within(token));
        // A class that has lost tokens before its first must keep what its window reaches.
        let held = |class: CacheClassId| self.held(class, id).iter().filter(|token| !within(token)).count();
        let reach = |window: &u32| (*window as usize - 1).max(1).min(left.len());
        let kept = self.books.classes().ids().skip(1).zip(&self.windows).all(|(class, w)| held(class) >= reach(w));
        let before = self.books.clone();
        match self.books.remove(id, from, to) {
            Ok(()) => assert!(kept, "a window has lost what it reaches"),
            Err(why) => {
                assert_eq!(before, self.books, "{why}");
                match why {
                    KvError::Window { needed, found, .. } => assert!(needed > found && !kept),
                    KvError::Full { .. } => assert!(self.naive[&id].promised > 0),
                    why => panic!("{why}"),
                }
                return false;
            }
        }
        self.naive.get_mut(&id).unwrap().tokens = left;
        true
    }

    /// The tokens of a sequence that a class has.
    fn held(&self, class: CacheClassId, id: SequenceId) -> &[Token] {
        let (tokens, behind) = (&self.naive[&id].tokens, self.books.behind(class, id).unwrap());
        &tokens[behind.index()..]
    }

    /// Drops tokens in the middle, moves what follows to their positions, and rotates its keys.
    fn drop_and_shift(&mut self, id: SequenceId, b: u16, c: u16) {
        let end = self.naive[&id].tokens.last().map_or(0, |last| last.position + 1);
        let (from, len) = (u32::from(b) % (end + 1), u32::from(c) % (end + 1));
        if len == 0 || from + len > end || !self.removed(id, from, from + len) {
            return;
        }
        let before = self.books.clone();
        match self.books.shift(id, (from + len, end), -(len as i32)) {
            Ok(copies) => {
                for (class, copies) in copies.iter_ids() {
                    copy(&mut self.rows[class], copies);
                }
                let moved = self.naive.get_mut(&id).unwrap().tokens.iter_mut();
                moved.filter(|token| token.position >= from).for_each(|token| token.position -= len);
            }
            Err(why) => {
                assert_eq!(before, self.books, "{why}");
                assert!(matches!(why, KvError::Full { .. }), "{why}");
            }
        }
        for (class, turns) in self.books.rotations().iter_ids() {
            for turn in turns {
                for row in &mut self.rows[class][turn.first.0 as usize..][..turn.len.index()] {
                    row.1 = row.1.checked_add_signed(turn.delta).unwrap();
                }
            }
        }
    }

    fn reserve(&mut self, id: SequenceId, tokens: u16) {
        let before = self.books.clone();
        match self.books.reserve(id, Tokens(tokens.into())) {
            Ok(()) => self.naive.get_mut(&id).unwrap().promised = tokens.into(),
            Err(why) => {
                assert_eq!(before, self.books, "{why}");
                assert!(matches!(why, KvError::Full { needed, free, .. } if needed > free), "{why}");
            }
        }
    }

    fn end(&mut self, id: SequenceId) {
        self.books.end(id).unwrap();
        self.naive.remove(&id);
    }

    fn compact(&mut self) {
        for class in self.books.classes().ids() {
            let mut compaction = Compaction::at_once(Depth::Cells);
            loop {
                let moves = compaction.chunk(self.books.class_mut(class));
                copy(&mut self.rows[class], &moves);
                if moves.is_empty() {
                    break;
                }
            }
        }
    }

    /// Saves a sequence with the rows that each class has, and takes it up beside itself.
    fn save_and_restore(&mut self, id: SequenceId) {
        let saved = self.books.save(id).unwrap();
        let held: IndexVec<CacheClassId, u32> =
            self.books.classes().ids().map(|class| self.held(class, id).len() as u32).collect();
        let (before, mut writes) = (self.books.usage(), self.writes());
        match self.books.restore(&saved, &held, &mut writes) {
            Ok(restored) => {
                let naive = Naive { promised: 0, ..self.naive[&id].clone() };
                for (class, writes) in writes.iter_ids() {
                    let tokens = &naive.tokens[naive.tokens.len() - held[class] as usize..];
                    for (cell, token) in writes.cells.iter().zip(tokens) {
                        self.rows[class][cell.0 as usize] = (token.payload, token.position);
                    }
                }
                assert!(self.naive.insert(restored, naive).is_none());
                self.check();
                self.end(restored);
            }
            Err(why) => {
                assert_eq!(before.iter().collect::<Vec<_>>(), self.books.usage().iter().collect::<Vec<_>>(), "{why}");
                assert!(matches!(why, KvError::Full { .. } | KvError::NoSlot { .. }), "{why}");
            }
        }
    }

    fn check(&self) {
        for (class, books) in self.books.classes().iter_ids() {
            let usage = books.usage();
            assert_eq!(usage.used + usage.free, usage.total);
            assert!(usage.promised <= usage.free, "{class}: {usage:?}");
            assert!(books.sequences().eq(self.naive.keys().copied()));
            for (&id, naive) in &self.naive {
                assert_eq!(self.books.length(id).unwrap().index(), naive.tokens.len());
                let tokens = self.held(class, id);
                let reach = class.0.checked_sub(1).map(|at| (self.windows[at as usize] as usize - 1).max(1));
                assert!(tokens.len() >= reach.unwrap_or(usize::MAX).min(naive.tokens.len()), "{class} {id}");
                let reader = if self.page == 1 { 16 } else { self.page };
                let runs = books.runs(id).unwrap();
                let found =
                    runs.flat_map(|run| (0..run.len.0).map(move |i| (run.page.0 * reader + run.first + i, run, i)));
                let found: Vec<_> =
                    found.map(|(cell, run, i)| (self.rows[class][cell as usize], run.position + i)).collect();
                let expected: Vec<_> =
                    tokens.iter().map(|token| ((token.payload, token.position), token.position)).collect();
                assert_eq!(found, expected, "{class} {id}");
            }
        }
    }
}

fn layouts() -> impl Strategy<Value = (u32, KvLayout)> {
    let paged = |page| KvLayout::Paged { page: Tokens(page) };
    prop_oneof![
        (8u32..60).prop_map(move |pages| (pages, paged(4))),
        (4u32..30).prop_map(move |pages| (pages, paged(16))),
        (40u32..200).prop_map(|cells| (cells, KvLayout::Contiguous)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(1500)))]

    #[test]
    fn classes_agree_with_a_naive_cache(
        layout in layouts(),
        step in 1u32..24,
        windows in prop::collection::vec((1u32..50, 1u32..4), 1..3),
        ops in prop::collection::vec(any::<Op>(), 1..60),
    ) {
        let mut rig = Rig::new(layout, step, &windows);
        ops.into_iter().for_each(|op| rig.apply(op));
        for id in rig.naive.keys().copied().collect::<Vec<_>>() {
            rig.end(id);
        }
        rig.books.classes().iter().for_each(|class| assert_eq!(class.usage().free, class.usage().total));
    }
}
