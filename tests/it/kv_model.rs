//! The books of the cache against a naive one: each sequence a list of positions and payloads, nothing shared, nothing
//! paged. A buffer of payloads does what the books ask: writes at the cells given, copies by move, rotates keys.
//!
//! A payload is a function of all tokens and positions before it, so a page that is wrongly shared is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use loadmaster::kv::{
    Budget, CellId, Compaction, Depth, KvError, KvLayout, Move, MoveCost, PageId, PagedKv, Rotation, SavedSequence,
    SequenceId, Writes,
};
use loadmaster::units::{Bytes, Tokens};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Token {
    id: u32,
    position: u32,
    payload: u64,
}

/// What a cell of a real cache would hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    payload: u64,
    /// What the key is rotated to.
    key_at: u32,
    /// How often it was.
    turns: u32,
}

#[derive(Clone, Debug, Default)]
struct Naive {
    tokens: Vec<Token>,
    promised: u32,
}

struct Pair {
    kv: PagedKv,
    page: u32,
    rows: Vec<Row>,
    naive: BTreeMap<SequenceId, Naive>,
}

/// One operation, as numbers that are cut to what there is.
type Op = (u8, u16, u16, u16);

/// The next token of a sequence.
fn next(tokens: &[Token], id: u32) -> Token {
    let position = tokens.last().map_or(0, |last| last.position + 1);
    let mut hasher = DefaultHasher::new();
    (id, position, tokens).hash(&mut hasher);
    Token { id, position, payload: hasher.finish() }
}

fn copy(rows: &mut [Row], moves: &[Move]) {
    for step in moves {
        let [src, dst, len] = [step.src.0, step.dst.0, step.len.0].map(|n| n as usize);
        assert!(len > 0 && src.abs_diff(dst) >= len, "{step:?} overlaps itself");
        rows.copy_within(src..src + len, dst);
    }
}

fn rotate(rows: &mut [Row], rotations: &[Rotation]) {
    for turn in rotations {
        assert!(turn.delta != 0);
        for row in &mut rows[turn.first.0 as usize..][..turn.len.0 as usize] {
            row.key_at = row.key_at.checked_add_signed(turn.delta).unwrap();
            row.turns += 1;
        }
    }
}

impl Pair {
    fn new(pages: u32, layout: KvLayout) -> Pair {
        let page = match layout {
            KvLayout::Paged { page } => page.0,
            KvLayout::Contiguous => 1,
        };
        let kv = PagedKv::new(Tokens(pages * page), layout);
        assert_eq!(kv.cells(), Tokens(pages * page));
        Pair { kv, page, rows: vec![Row::default(); (pages * page) as usize], naive: BTreeMap::new() }
    }

    fn pick(&self, n: u16) -> Option<SequenceId> {
        let count = self.naive.len().max(1);
        self.naive.keys().nth(usize::from(n) % count).copied()
    }

    /// A range of positions around those of a sequence, and one that lies well within.
    fn range(&self, id: SequenceId, a: u16, b: u16) -> (u32, u32) {
        let end = self.naive[&id].tokens.last().map_or(0, |last| last.position + 1);
        let (a, b) = (u32::from(a) % (end + 2), u32::from(b) % (end + 2));
        (a.min(b), a.max(b))
    }

    fn apply(&mut self, (kind, a, b, c): Op) {
        let sequence = self.pick(a);
        match (kind % 16, sequence) {
            (0, _) if self.naive.len() < 6 => self.start(),
            (1, _) if self.naive.len() < 6 => self.start_with_prefix(b, c),
            (2, _) if self.naive.len() < 6 => self.admit(a, b, c),
            (3..=6, Some(id)) => self.append(id, b % 40, c),
            (7, _) => self.step_in_vain(a, b, c),
            (8, Some(id)) if self.naive.len() < 6 => self.fork(id),
            (9, Some(id)) => self.remove(id, b, c),
            (10, Some(id)) => self.shift(id, b, c),
            (11, Some(id)) => self.reserve(id, b % 64),
            (12, Some(id)) => self.save_and_restore(id),
            (13, Some(id)) if c % 8 == 0 => self.keep(id),
            (13, Some(id)) => self.end(id),
            (14, _) => self.compact(b, c),
            (15, _) => self.rotate(),
            _ => {}
        }
        self.check();
    }

    fn start(&mut self) {
        let id = self.kv.start();
        assert!(self.naive.insert(id, Naive::default()).is_none(), "{id} was given out twice");
    }

    /// Few different tokens, so that much begins alike.
    fn prompt(&self, b: u16, c: u16) -> Vec<u32> {
        (0..u32::from(c % 50)).map(|i| u32::from(b >> (i / self.page % 3)) & 1).collect()
    }

    fn start_with_prefix(&mut self, b: u16, c: u16) {
        let wanted = self.prompt(b, c);
        let (id, shared) = self.kv.start_with_prefix(&wanted);
        self.go_on(id, &wanted, shared, 0);
    }

    /// A request of a prompt and some tokens more.
    fn admit(&mut self, a: u16, b: u16, c: u16) {
        let wanted = self.prompt(b, c);
        let total = Tokens(wanted.len() as u32 + u32::from(a % 40));
        let before = self.kv.clone();
        match self.kv.admit(&wanted, total) {
            Ok((id, shared)) => self.go_on(id, &wanted, shared, total.0 - shared.0),
            Err(why) => {
                assert_eq!(before, self.kv);
                assert!(matches!(why, KvError::Full { needed, free, .. } if needed > free), "{why}");
                let started = |kv: &mut PagedKv| {
                    let (id, shared) = kv.start_with_prefix(&wanted);
                    kv.reserve(id, Tokens(total.0 - shared.0))
                };
                assert!(self.breaks_promises(SequenceId(u32::MAX), 0, started), "{why}");
            }
        }
    }

    /// A sequence begins with what it shares; the rest of its prompt is written.
    fn go_on(&mut self, id: SequenceId, wanted: &[u32], shared: Tokens, promised: u32) {
        assert!(shared.index() <= wanted.len() && shared.0.is_multiple_of(self.page));
        let mut naive = Naive { tokens: Vec::new(), promised };
        for &token in &wanted[..shared.index()] {
            naive.tokens.push(next(&naive.tokens, token));
        }
        assert!(self.naive.insert(id, naive).is_none());
        self.check();
        self.append_ids(id, &wanted[shared.index()..], true);
    }

    fn append(&mut self, id: SequenceId, count: u16, c: u16) {
        let ids: Vec<u32> = (0..u32::from(count)).map(|i| u32::from(c >> (i / self.page % 3)) & 1).collect();
        self.append_ids(id, &ids, !c.is_multiple_of(5));
    }

    fn append_ids(&mut self, id: SequenceId, ids: &[u32], written: bool) {
        let mut writes = Writes::default();
        if !self.appended(id, ids, &mut writes) {
            return;
        }
        copy(&mut self.rows, &writes.copies);
        let naive = self.naive.get_mut(&id).unwrap();
        naive.promised = naive.promised.saturating_sub(ids.len() as u32);
        assert_eq!(writes.cells.len(), ids.len());
        for (cell, &token) in writes.cells.iter().zip(ids) {
            let token = next(&naive.tokens, token);
            naive.tokens.push(token);
            self.rows[cell.0 as usize] = Row { payload: token.payload, key_at: token.position, turns: 0 };
        }
        if written {
            self.kv.written(id).unwrap();
        }
    }

    /// Whether the books took the tokens; where they did not, that they had to refuse and that nothing changed.
    fn appended(&mut self, id: SequenceId, ids: &[u32], writes: &mut Writes) -> bool {
        let before = (self.kv.clone(), writes.clone());
        let Err(why) = self.kv.append(id, ids, writes) else { return true };
        assert_eq!((&before.0, &before.1), (&self.kv, &*writes), "{why}");
        match why {
            KvError::Full { needed, free, total } => {
                assert!(needed > free && free <= total);
                assert!(ids.len() as u32 > self.naive[&id].promised, "a promise was not kept: {why}");
                if self.naive.values().all(|naive| naive.promised == 0) {
                    assert_eq!((needed, free), (self.pages_for(id, ids.len() as u32), self.kv.free_pages()));
                }
                assert!(self.breaks_promises(id, 0, |kv| kv.append(id, ids, &mut Writes::default())), "{why}");
                false
            }
            KvError::NoSlot { needed, longest, free } => {
                assert!(needed == ids.len() as u32 && longest < needed && needed <= free);
                if !writes.cells.is_empty() {
                    // Compaction would move cells of this step that are still to be written.
                    return false;
                }
                let moves = Compaction::at_once(Depth::Cells).chunk(&mut self.kv);
                copy(&mut self.rows, &moves);
                self.kv.append(id, ids, writes).expect("free cells are side by side after compaction");
                true
            }
            _ => panic!("{why}"),
        }
    }

    /// Whether after `op`, done on books without reservations, what was reserved could not all be had: `id` keeps `left`.
    fn breaks_promises(&self, id: SequenceId, left: u32, op: impl Fn(&mut PagedKv) -> Result<(), KvError>) -> bool {
        let mut kv = self.kv.clone();
        self.naive.keys().for_each(|&id| kv.reserve(id, Tokens(0)).unwrap());
        let mut kept =
            self.naive.iter().map(|(&other, naive)| (other, if other == id { left } else { naive.promised }));
        op(&mut kv).is_err() || kept.any(|(id, tokens)| kv.reserve(id, Tokens(tokens)).is_err())
    }

    /// By the table alone: pages for new slots, and one for the last if others read it and it has room.
    fn pages_for(&self, id: SequenceId, tokens: u32) -> u32 {
        let table = self.kv.table(id).unwrap();
        let partly = !table.slots.0.is_multiple_of(self.page);
        let shared = table.pages.last().is_some_and(|&last| self.kv.holders(last) > 1);
        (table.slots.0 + tokens).div_ceil(self.page) - table.pages.len() as u32 + u32::from(partly && shared)
    }

    /// A step of several sequences that fails, before or after its copies were made; its rows are garbage.
    fn step_in_vain(&mut self, a: u16, b: u16, c: u16) {
        let mut writes = Writes::default();
        let mut marks = Vec::new();
        let sequences: Vec<SequenceId> = (0..=c % 3).filter_map(|n| self.pick(a.wrapping_add(n))).collect();
        for &id in &sequences {
            let (mark, promised) = (self.kv.mark(id).unwrap(), self.naive[&id].promised);
            if self.appended(id, &vec![0; usize::from(b % 20)], &mut writes) {
                marks.push((id, mark, promised));
                self.naive.get_mut(&id).unwrap().promised = promised.saturating_sub(u32::from(b % 20));
            }
        }
        let begun = b.is_multiple_of(2);
        if begun {
            copy(&mut self.rows, &writes.copies);
            writes
                .cells
                .iter()
                .for_each(|cell| self.rows[cell.0 as usize] = Row { payload: 13, key_at: 1 << 30, turns: 99 });
        }
        // What came last goes first; a sequence that was there twice has two marks.
        for (id, mark, promised) in marks.into_iter().rev() {
            self.kv.take_back(id, mark).unwrap();
            self.naive.get_mut(&id).unwrap().promised = promised;
        }
        if !begun {
            copy(&mut self.rows, &writes.copies);
        }
    }

    fn fork(&mut self, id: SequenceId) {
        let before = self.kv.clone();
        match self.kv.fork(id) {
            Ok(fork) => {
                let tokens = self.naive[&id].tokens.clone();
                assert!(self.naive.insert(fork, Naive { tokens, promised: 0 }).is_none());
            }
            Err(why) => {
                let promised = self.naive[&id].promised;
                assert!(promised > 0 && matches!(why, KvError::Full { .. }), "{why}");
                assert!(self.breaks_promises(id, promised, |kv| kv.fork(id).map(|_| ())), "{why}");
                assert_eq!(before, self.kv);
            }
        }
    }

    fn remove(&mut self, id: SequenceId, b: u16, c: u16) {
        let (from, to) = self.range(id, b, c);
        let before = self.kv.clone();
        match self.kv.remove(id, from, to) {
            Ok(()) => {
                let naive = self.naive.get_mut(&id).unwrap();
                naive.tokens.retain(|token| !(from..to).contains(&token.position));
            }
            Err(why) => {
                let promised = self.naive[&id].promised;
                assert!(promised > 0 && matches!(why, KvError::Full { .. }), "{why}");
                assert!(self.breaks_promises(id, promised, |kv| kv.remove(id, from, to)), "{why}");
                assert_eq!(before, self.kv);
            }
        }
    }

    fn shift(&mut self, id: SequenceId, b: u16, c: u16) {
        let (from, to) = self.range(id, b, c);
        let delta = i32::from(c % 9) - 6;
        let before = self.kv.clone();
        let mut copies = Vec::new();
        let mut shifted = self.naive[&id].tokens.clone();
        let mut fits = true;
        for token in shifted.iter_mut().filter(|token| (from..to).contains(&token.position)) {
            match token.position.checked_add_signed(delta) {
                Some(position) => token.position = position,
                None => fits = false,
            }
        }
        fits &= shifted.is_sorted_by(|a, b| a.position < b.position);
        match self.kv.shift(id, from, to, delta, &mut copies) {
            Ok(()) => {
                assert!(fits);
                self.naive.get_mut(&id).unwrap().tokens = shifted;
                copy(&mut self.rows, &copies);
            }
            Err(why) => {
                assert_eq!((before, copies), (self.kv.clone(), Vec::new()));
                match why {
                    KvError::Full { needed, free, .. } => {
                        assert!(fits && needed > free);
                        let promised = self.naive[&id].promised;
                        let shift = |kv: &mut PagedKv| kv.shift(id, from, to, delta, &mut Vec::new());
                        assert!(self.breaks_promises(id, promised, shift), "{why}");
                    }
                    KvError::Shift { .. } => assert!(!fits),
                    _ => panic!("{why}"),
                }
            }
        }
    }

    fn reserve(&mut self, id: SequenceId, tokens: u16) {
        let before = self.kv.clone();
        let tokens = u32::from(tokens);
        match self.kv.reserve(id, Tokens(tokens)) {
            Ok(()) => self.naive.get_mut(&id).unwrap().promised = tokens,
            Err(why) => {
                assert_eq!(before, self.kv);
                let KvError::Full { needed, free, .. } = why else { panic!("{why}") };
                assert!(needed > free && needed == self.pages_for(id, tokens));
            }
        }
    }

    /// Through text, and with the rows in the order of the runs.
    fn save_and_restore(&mut self, id: SequenceId) {
        let text = serde_json::to_string(&self.kv.save(id).unwrap()).unwrap();
        let rows: Vec<Row> = self.cells_of(id).into_iter().map(|cell| self.rows[cell.0 as usize]).collect();
        let tokens = self.naive.remove(&id).unwrap().tokens;
        self.kv.end(id).unwrap();
        self.check();
        let saved: SavedSequence = serde_json::from_str(&text).unwrap();
        let mut writes = Writes::default();
        match self.kv.restore(&saved, &mut writes) {
            Ok(id) => {
                assert!(writes.copies.is_empty() && writes.cells.len() == rows.len());
                writes.cells.iter().zip(rows).for_each(|(cell, row)| self.rows[cell.0 as usize] = row);
                self.naive.insert(id, Naive { tokens, promised: 0 });
            }
            Err(KvError::Full { needed, free, .. }) => assert!(needed > free),
            Err(KvError::NoSlot { needed, longest, .. }) => assert!(longest < needed),
            Err(why) => panic!("{why}"),
        }
    }

    fn keep(&mut self, id: SequenceId) {
        self.kv.keep(id).unwrap();
        self.naive.retain(|&other, _| other == id);
    }

    fn end(&mut self, id: SequenceId) {
        self.kv.end(id).unwrap();
        self.naive.remove(&id);
        assert_eq!(self.kv.end(id), Err(KvError::NoSequence(id)));
        assert_eq!(self.kv.table(id), Err(KvError::NoSequence(id)));
    }

    /// A chunk of some budget, or all of them: then everything lies as close together as it can.
    fn compact(&mut self, b: u16, c: u16) {
        let depth = if b.is_multiple_of(2) { Depth::Cells } else { Depth::Pages };
        let cost = MoveCost { cell: Bytes(3), nodes: 2 };
        let budget = Budget { bytes: Bytes(u64::from(b % 200)), nodes: u32::from(b / 200 % 20) };
        let mut compaction = Compaction::new(depth, cost, budget);
        let price = self.kv.price(depth, Bytes(1), Tokens(1));
        assert!(price.reads <= price.reads_after + self.kv.avoidable(depth), "{price:?}");
        let before = self.kv.usage();
        loop {
            let moves = compaction.chunk(&mut self.kv);
            let cells: u32 = moves.iter().map(|step| step.len.0).sum();
            let (bytes, nodes) = (u64::from(cells) * 3, moves.len() as u32 * 2);
            assert!(bytes <= budget.bytes.0 || cells <= self.page, "{moves:?} in {budget:?}");
            assert!(nodes <= budget.nodes || moves.len() == 1, "{moves:?} in {budget:?}");
            copy(&mut self.rows, &moves);
            self.check();
            if moves.is_empty() {
                break;
            } else if c.is_multiple_of(3) {
                return;
            }
        }
        if depth == Depth::Pages {
            let forgotten = u32::from(price.moved > Bytes::ZERO && before.cached == before.free);
            assert_eq!(self.kv.usage().cached, before.cached - forgotten);
        }
        let used = self.kv.usage().used;
        assert!((0..used).all(|page| self.kv.holders(PageId(page)) > 0), "live pages are the first {used}");
        if depth == Depth::Cells && self.kv.usage().promised == 0 {
            self.check_squeezed();
            // Which contiguous cell goes where depends on where a chunk ends.
            if self.kv.layout() != KvLayout::Contiguous {
                assert_eq!(self.kv.reads(), price.reads_after);
            }
        }
    }

    /// Where nothing is shared no page could be spared and nothing is in the way.
    fn check_squeezed(&self) {
        for &id in self.naive.keys() {
            let table = self.kv.table(id).unwrap();
            if table.pages.iter().all(|&page| self.kv.holders(page) == 1) {
                assert!(table.is_dense());
                assert_eq!(table.pages.len() as u32, table.live.0.div_ceil(self.page));
            }
        }
    }

    fn rotate(&mut self) {
        let rotations = self.kv.rotations();
        rotate(&mut self.rows, &rotations);
        assert_eq!(self.kv.rotations(), []);
    }

    fn cells_of(&self, id: SequenceId) -> Vec<CellId> {
        let unit = if self.kv.layout() == KvLayout::Contiguous { 16 } else { self.page };
        let runs = self.kv.runs(id).unwrap();
        runs.flat_map(|run| {
            assert!(run.first + run.len.0 <= unit, "{run:?} leaves its page");
            (0..run.len.0).map(move |i| CellId(run.page.0 * unit + run.first + i))
        })
        .collect()
    }

    /// Everything that must hold after every operation.
    fn check(&self) {
        let mut kv = self.kv.clone();
        let mut turned = self.rows.clone();
        rotate(&mut turned, &kv.rotations());
        let mut holders: BTreeMap<PageId, u32> = BTreeMap::new();
        let mut live: BTreeSet<CellId> = BTreeSet::new();
        assert!(self.kv.sequences().eq(self.naive.keys().copied()));
        for (&id, naive) in &self.naive {
            let cells = self.cells_of(id);
            let read: Vec<(u64, u32)> =
                cells.iter().map(|cell| turned[cell.0 as usize]).map(|row| (row.payload, row.key_at)).collect();
            let expected: Vec<(u64, u32)> = naive.tokens.iter().map(|t| (t.payload, t.position)).collect();
            assert_eq!(read, expected, "{id}");
            let positions = self.kv.runs(id).unwrap().flat_map(|run| run.position..run.position + run.len.0);
            assert!(positions.eq(naive.tokens.iter().map(|token| token.position)));
            let turns = cells.iter().map(|cell| self.rows[cell.0 as usize].turns).max();
            assert_eq!(self.kv.turns(id), Ok(turns.unwrap_or(0)), "{id}");
            self.check_table(id, &cells);
            self.check_room(id);
            live.extend(&cells);
            for &page in self.kv.table(id).unwrap().pages {
                *holders.entry(page).or_default() += 1;
            }
        }
        self.check_usage(&holders, &live);
        self.check_promises();
    }

    fn check_table(&self, id: SequenceId, cells: &[CellId]) {
        let table = self.kv.table(id).unwrap();
        assert_eq!(table.live.index(), cells.len());
        assert_eq!(self.kv.length(id), Ok(table.live));
        assert_eq!(table.slots.pages_of(self.page), table.pages.len() as u32);
        assert_eq!(table.is_dense(), table.slots.index() == cells.len());
        let slot = |i: u32| table.pages[(i / self.page) as usize].0 * self.page + i % self.page;
        if table.is_dense() {
            assert!((0..table.slots.0).map(slot).eq(cells.iter().map(|cell| cell.0)));
        }
        let unique: BTreeSet<&PageId> = table.pages.iter().collect();
        assert_eq!(unique.len(), table.pages.len(), "a page is twice in a table");
    }

    /// Each page has as many holders as tables name it, so a cell of two sequences is in a page that both hold.
    fn check_usage(&self, holders: &BTreeMap<PageId, u32>, live: &BTreeSet<CellId>) {
        let usage = self.kv.usage();
        for page in (0..usage.total).map(PageId) {
            assert_eq!(self.kv.holders(page), holders.get(&page).copied().unwrap_or(0), "{page}");
        }
        assert_eq!((usage.used as usize, usage.live.index()), (holders.len(), live.len()));
        assert_eq!((usage.used + usage.free, usage.free), (usage.total, self.kv.free_pages()));
        assert_eq!(usage.slack.0, usage.used * self.page - usage.live.0);
        assert!(usage.cached <= usage.free && usage.promised <= usage.free);
    }

    /// A sequence takes as much as there is said to be room for, and no more.
    fn check_room(&self, id: SequenceId) {
        let room = self.kv.room(id).unwrap().index();
        let takes = |count| self.kv.clone().append(id, &vec![7; count], &mut Writes::default());
        assert!(!matches!(takes(room), Err(KvError::Full { .. })));
        assert!(matches!(takes(room + 1), Err(KvError::Full { .. })));
    }

    /// All that was promised can be had, one token here and one there.
    fn check_promises(&self) {
        let mut kv = self.kv.clone();
        let most = self.naive.values().map(|naive| naive.promised).max().unwrap_or(0);
        let mut writes = Writes::default();
        for round in 0..most {
            for (&id, _) in self.naive.iter().filter(|(_, naive)| naive.promised > round) {
                kv.append(id, &[7], &mut writes).expect("it was promised");
            }
        }
    }
}

trait PagesOf {
    fn pages_of(self, page: u32) -> u32;
}

impl PagesOf for Tokens {
    fn pages_of(self, page: u32) -> u32 {
        self.0.div_ceil(page)
    }
}

fn layouts() -> impl Strategy<Value = (u32, KvLayout)> {
    let paged = |page: u32| KvLayout::Paged { page: Tokens(page) };
    prop_oneof![
        (4u32..24).prop_map(move |pages| (pages, paged(16))),
        (4u32..40).prop_map(move |pages| (pages, paged(4))),
        (2u32..4).prop_map(move |pages| (pages, paged(64))),
        (30u32..200).prop_map(|pages| (pages, KvLayout::Contiguous)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(1000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_books_agree_with_a_naive_cache((pages, layout) in layouts(), ops in prop::collection::vec(any::<Op>(), 1..60)) {
        let mut pair = Pair::new(pages, layout);
        ops.into_iter().for_each(|op| pair.apply(op));
        for id in pair.naive.keys().copied().collect::<Vec<_>>() {
            pair.end(id);
            pair.check();
        }
        prop_assert_eq!(pair.kv.free_pages(), pages);
    }
}
