//! What the books of the cache promise, case by case: compaction against the algorithm that the project started from,
//! fragmentation that must not matter, prefixes, shifts, reservations, saved sequences, prices.

use std::collections::BTreeSet;

use loadmaster::kv::{
    Budget, CellId, Compaction, Depth, KvError, KvLayout, Move, MoveCost, PageId, PagedKv, Rotation, Run, SavedRun,
    SavedSequence, SequenceId, Writes, gather,
};
use loadmaster::units::{Bytes, Tokens};
use proptest::prelude::*;

fn paged(cells: u32) -> PagedKv {
    PagedKv::new(Tokens(cells), KvLayout::default())
}

fn ids(count: u32) -> Vec<u32> {
    (0..count).collect()
}

/// The cells that `count` more tokens get; nothing is to be copied for them.
fn grow(kv: &mut PagedKv, id: SequenceId, count: u32) -> Vec<CellId> {
    let mut writes = Writes::default();
    kv.append(id, &ids(count), &mut writes).unwrap();
    assert_eq!(writes.copies, []);
    writes.cells
}

fn started(kv: &mut PagedKv, count: u32) -> SequenceId {
    let id = kv.start();
    grow(kv, id, count);
    id
}

/// A sequence of `tokens` whose step has ended well.
fn prompted(kv: &mut PagedKv, tokens: &[u32]) -> SequenceId {
    let id = kv.start();
    kv.append(id, tokens, &mut Writes::default()).unwrap();
    kv.written(id).unwrap();
    id
}

/// Move by move `src > dst x len`, to be read at a glance.
fn told(moves: &[Move]) -> String {
    let each = moves.iter().map(|step| format!("{} > {} x {}", step.src.0, step.dst.0, step.len.0));
    each.collect::<Vec<_>>().join("\n")
}

fn map(text: &str) -> Vec<bool> {
    text.bytes().map(|b| b == b'#').collect()
}

/// llama.cpp's `defrag_prepare` as the seed patches it, line by line.
fn seed_moves(cells: &[bool]) -> Vec<Move> {
    let mut cells = cells.to_vec();
    let n_kv = cells.iter().rposition(|&live| live).map_or(0, |last| last + 1);
    let n_used = cells.iter().filter(|&&live| live).count();
    let mut ids = vec![n_kv; n_kv];
    let mut moves: Vec<Move> = Vec::new();
    let mut i0 = 0;
    while i0 < n_used {
        if cells[i0] {
            ids[i0] = i0;
            i0 += 1;
            continue;
        }
        let mut nh = 1;
        while i0 + nh < n_used && !cells[i0 + nh] {
            nh += 1;
        }
        let mut nf = 0;
        let mut is = n_kv - 1;
        while is > i0 {
            if cells[is] && ids[is] == n_kv {
                nf += 1;
                if nf == nh {
                    break;
                }
            }
            is -= 1;
        }
        assert_eq!(nf, nh);
        nf = 0;
        let mut cont = false;
        for i1 in is..n_kv {
            if !cells[i1] || ids[i1] != n_kv {
                cont = false;
                continue;
            }
            ids[i1] = i0 + nf;
            cells[i0 + nf] = true;
            cells[i1] = false;
            if cont {
                moves.last_mut().unwrap().len.0 += 1;
            } else {
                moves.push(Move { src: CellId(i1 as u32), dst: CellId((i0 + nf) as u32), len: Tokens(1) });
                cont = true;
            }
            nf += 1;
            if nf == nh {
                break;
            }
        }
        i0 += nh;
    }
    moves
}

fn moved(moves: &[Move]) -> u32 {
    moves.iter().map(|step| step.len.0).sum()
}

/// Maps of runs, as caches have them, and of cells at random.
fn maps() -> impl Strategy<Value = Vec<bool>> {
    let runs = prop::collection::vec((any::<bool>(), 1usize..12), 0..60);
    let runs = runs.prop_map(|runs| runs.into_iter().flat_map(|(live, len)| vec![live; len]).collect());
    prop_oneof![runs, prop::collection::vec(any::<bool>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(1000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn moves_are_no_more_than_the_seeds(live in maps()) {
        let (moves, seed) = (gather(&live, Tokens(1)), seed_moves(&live));
        prop_assert!(moves.len() <= seed.len(), "{}\nseed\n{}", told(&moves), told(&seed));
        prop_assert_eq!(moved(&moves), moved(&seed));
        let count = live.iter().filter(|&&is| is).count();
        let mut cells: Vec<Option<usize>> = live.iter().enumerate().map(|(i, &is)| is.then_some(i)).collect();
        for step in &moves {
            for i in 0..step.len.index() {
                let held = cells[step.src.0 as usize + i].take();
                let place = &mut cells[step.dst.0 as usize + i];
                prop_assert!(held.is_some() && place.is_none());
                *place = held;
            }
        }
        prop_assert!(cells[..count].iter().all(Option::is_some) && cells[count..].iter().all(Option::is_none));
    }
}

#[test]
fn runs_stay_together_where_they_fit() {
    insta::assert_snapshot!(told(&gather(&map("##...#..##.....###.##..."), Tokens(1))), @r"
    15 > 2 x 3
    19 > 6 x 2
    ");
    insta::assert_snapshot!(told(&seed_moves(&map("##...#..##.....###.##..."))), @r"
    17 > 2 x 1
    19 > 3 x 2
    15 > 6 x 2
    ");
    insta::assert_snapshot!(told(&gather(&map("#.#..####"), Tokens(16))), @r"
    128 > 16 x 16
    96 > 48 x 32
    ");
    assert_eq!(gather(&map("####...."), Tokens(1)), []);
    assert_eq!(gather(&[], Tokens(1)), []);
}

/// Alternate cells live: no two free cells side by side, though half of the cache is free.
#[test]
fn a_fragmented_cache_is_compacted_to_the_end_and_then_has_room() {
    let mut kv = PagedKv::new(Tokens(32), KvLayout::Contiguous);
    let whole = started(&mut kv, 32);
    (1..32).step_by(2).for_each(|position| kv.remove(whole, position, position + 1).unwrap());
    let next = kv.start();
    let full = kv.append(next, &ids(8), &mut Writes::default());
    assert_eq!(full, Err(KvError::NoSlot { needed: 8, longest: 1, free: 16 }));

    let cost = MoveCost { cell: Bytes(10), nodes: 4 };
    let mut compaction = Compaction::new(Depth::Cells, cost, Budget { bytes: Bytes(1000), nodes: 12 });
    let mut chunks = Vec::new();
    loop {
        let moves = compaction.chunk(&mut kv);
        if moves.is_empty() {
            break;
        }
        chunks.push(told(&moves));
    }
    insta::assert_snapshot!(chunks.join("\n\n"), @r"
    16 > 1 x 1
    18 > 3 x 1
    20 > 5 x 1

    22 > 7 x 1
    24 > 9 x 1
    26 > 11 x 1

    28 > 13 x 1
    30 > 15 x 1
    ");
    assert_eq!((compaction.chunks, compaction.made, compaction.moved), (3, 8, 8));
    let alternate: Vec<bool> = (0..32).map(|i| i % 2 == 0).collect();
    assert!(compaction.made <= seed_moves(&alternate).len() as u64);
    assert!((0..32).all(|cell| kv.holders(PageId(cell)) == u32::from(cell < 16)));
    assert_eq!(grow(&mut kv, next, 16), (16..32).map(CellId).collect::<Vec<_>>());
}

#[test]
fn three_interleaved_sequences_need_no_compaction() {
    let mut kv = paged(256);
    let sequences = [kv.start(), kv.start(), kv.start()];
    for _ in 0..35 {
        sequences.iter().for_each(|&id| _ = grow(&mut kv, id, 2));
    }
    assert_eq!((kv.usage().used, kv.usage().live), (15, Tokens(210)));
    assert_eq!(kv.usage().slack, Tokens(3 * 10));
    let saved = kv.save(sequences[1]).unwrap();
    kv.end(sequences[1]).unwrap();
    assert_eq!(kv.free_pages(), 6);
    let mut writes = Writes::default();
    let restored = kv.restore(&saved, &mut writes).unwrap();
    assert_eq!((kv.length(restored), kv.next_position(restored)), (Ok(Tokens(70)), Ok(70)));
    assert_eq!((writes.cells.len(), kv.free_pages()), (70, 1));
    sequences[..1].iter().chain([&restored]).for_each(|&id| _ = grow(&mut kv, id, 10));
    assert_eq!(kv.free_pages(), 1);
}

/// Slack is what is left of a last page.
#[test]
fn slack_is_under_a_page_a_sequence() {
    let mut kv = paged(4096);
    for count in 1..60 {
        started(&mut kv, count);
        let usage = kv.usage();
        assert!(usage.slack.0 < count * 16 && usage.used == (1..=count).map(|n| n.div_ceil(16)).sum::<u32>());
    }
}

/// Distinct pages that the runs of a sequence lie in.
fn pages_read(kv: &PagedKv, id: SequenceId) -> usize {
    kv.runs(id).unwrap().map(|run| run.page).collect::<BTreeSet<_>>().len()
}

#[test]
fn reading_follows_live_pages_and_compaction_leaves_no_avoidable_one() {
    // The first `kept` of every `of` cells stay.
    for (kept, of, live) in [(1, 8, 4096), (6, 48, 4098)] {
        let mut kv = paged(32 << 10);
        let id = started(&mut kv, 32 << 10);
        (0..32 << 10).filter(|p| p % of >= kept).for_each(|p| kv.remove(id, p, p + 1).unwrap());
        let usage = kv.usage();
        assert_eq!(usage.live, Tokens(live));
        assert_eq!((pages_read(&kv, id), kv.reads()), (usage.used as usize, usage.used));
        let positions: Vec<u32> = positions(&kv, id);

        let price = kv.price(Depth::Cells, Bytes(1600), Tokens(10));
        let mut compaction = Compaction::at_once(Depth::Cells);
        compaction.chunk(&mut kv);
        assert_eq!(compaction.chunk(&mut kv), []);
        let ideal = live.div_ceil(16);
        assert!(pages_read(&kv, id) as f64 <= 1.1 * f64::from(ideal));
        assert_eq!((kv.usage().used, kv.reads()), (ideal, ideal));
        assert!((0..ideal).all(|page| kv.holders(PageId(page)) == 1), "the live span is the live count");
        assert!(kv.table(id).unwrap().is_dense());
        assert_eq!(self::positions(&kv, id), positions);

        assert_eq!((price.reads, price.reads_after), (usage.used, ideal));
        assert_eq!(price.moved, Bytes(compaction.moved * 100));
        assert_eq!(price.saved, Bytes(u64::from(usage.used - ideal) * 1600 * 10));
    }
}

fn positions(kv: &PagedKv, id: SequenceId) -> Vec<u32> {
    kv.runs(id).unwrap().flat_map(|run| run.position..run.position + run.len.0).collect()
}

/// One page of two is given up for eight cells that move, which pays after the first step.
#[test]
fn compaction_pays_when_it_saves_twice_what_it_moves() {
    let mut kv = paged(64);
    let id = started(&mut kv, 32);
    kv.remove(id, 8, 24).unwrap();
    let price = |steps| kv.price(Depth::Cells, Bytes(160), Tokens(steps));
    assert_eq!((price(1).reads, price(1).reads_after, price(1).moved), (2, 1, Bytes(80)));
    assert_eq!((price(1).saved, price(1).pays()), (Bytes(160), false));
    assert_eq!((price(2).saved, price(2).pays()), (Bytes(320), true));
    assert!(!price(0).pays());
    let pages = kv.price(Depth::Pages, Bytes(160), Tokens(1000));
    assert_eq!((pages.moved, pages.saved, pages.pays()), (Bytes(0), Bytes(0), false));
}

/// A reader of contiguous cells reads up to the highest, so moving cells down is what saves.
#[test]
fn the_price_of_contiguous_cells_counts_the_span() {
    let mut kv = PagedKv::new(Tokens(100), KvLayout::Contiguous);
    let [below, above] = [started(&mut kv, 60), started(&mut kv, 2)];
    kv.end(below).unwrap();
    let price = kv.price(Depth::Pages, Bytes(10), Tokens(1));
    assert_eq!((price.reads, price.reads_after, price.moved), (62, 2, Bytes(20)));
    assert_eq!((price.saved, price.pays()), (Bytes(600), true));
    let moves = Compaction::at_once(Depth::Pages).chunk(&mut kv);
    assert_eq!(told(&moves), "60 > 0 x 2");
    let runs: Vec<Run> = kv.runs(above).unwrap().collect();
    assert_eq!(runs, [Run { page: PageId(0), first: 0, len: Tokens(2), position: 0 }]);
}

/// Pages of 16 in one move as long as the budget lasts, and at least a page whatever it is.
#[test]
fn chunks_keep_to_their_budget() {
    let cost = MoveCost { cell: Bytes(100), nodes: 3 };
    let chunks = |bytes, nodes| {
        let mut kv = paged(16 * 20);
        let [below, above] = [started(&mut kv, 16 * 10), started(&mut kv, 16 * 8)];
        kv.end(below).unwrap();
        let mut compaction = Compaction::new(Depth::Pages, cost, Budget { bytes: Bytes(bytes), nodes });
        let mut lengths = Vec::new();
        loop {
            let moves = compaction.chunk(&mut kv);
            assert_eq!(positions(&kv, above), (0..128).collect::<Vec<_>>());
            if moves.is_empty() {
                return lengths;
            }
            lengths.push(moves.iter().map(|step| step.len.0 / 16).collect::<Vec<_>>());
        }
    };
    assert_eq!(chunks(1 << 30, 100), [[8]]);
    assert_eq!(chunks(5000, 100), [[3], [3], [2]]);
    assert_eq!(chunks(1 << 30, 0), [[8]]);
    assert_eq!(chunks(0, 0), [[1]; 8]);
}

/// Pages are filled anew in the free one, whole pieces at a time; the page that this drains is the next free one.
#[test]
fn holes_are_closed_page_by_page() {
    let mut kv = paged(80);
    let id = started(&mut kv, 64);
    kv.remove(id, 20, 22).unwrap();
    insta::assert_snapshot!(told(&Compaction::at_once(Depth::Cells).chunk(&mut kv)), @r"
    16 > 64 x 4
    22 > 68 x 12
    34 > 16 x 16
    50 > 32 x 14
    64 > 48 x 16
    ");
    assert_eq!(positions(&kv, id), (0..20).chain(22..64).collect::<Vec<_>>());
}

/// Not one free page to fill anew: cells move within their pages, piece by piece.
#[test]
fn holes_are_closed_in_a_full_cache() {
    let mut kv = paged(48);
    let id = started(&mut kv, 48);
    [2, 3, 20, 40].into_iter().for_each(|p| kv.remove(id, p, p + 1).unwrap());
    assert_eq!(kv.free_pages(), 0);
    insta::assert_snapshot!(told(&Compaction::at_once(Depth::Cells).chunk(&mut kv)), @r"
    4 > 2 x 2
    6 > 4 x 2
    8 > 6 x 2
    10 > 8 x 2
    12 > 10 x 2
    14 > 12 x 2
    16 > 14 x 2
    18 > 16 x 2
    21 > 18 x 3
    24 > 21 x 3
    27 > 24 x 3
    30 > 27 x 3
    33 > 30 x 2
    35 > 32 x 3
    38 > 35 x 2
    41 > 37 x 4
    45 > 41 x 3
    ");
    assert_eq!((kv.usage().used, kv.usage().slack), (3, Tokens(4)));
    assert_eq!(positions(&kv, id), (0..48).filter(|p| ![2, 3, 20, 40].contains(p)).collect::<Vec<_>>());
}

/// Two readers that would both have to copy their last page: squeezing it would break what they were promised.
#[test]
fn compaction_keeps_promises() {
    let mut kv = paged(64);
    let one = started(&mut kv, 32);
    kv.remove(one, 5, 6).unwrap();
    let other = kv.fork(one).unwrap();
    kv.reserve(one, Tokens(16)).unwrap();
    kv.reserve(other, Tokens(16)).unwrap();
    assert_eq!(Compaction::at_once(Depth::Cells).chunk(&mut kv), []);
    kv.clone().append(one, &ids(16), &mut Writes::default()).unwrap();
    kv.reserve(other, Tokens(0)).unwrap();
    kv.reserve(one, Tokens(0)).unwrap();
    assert!(!Compaction::at_once(Depth::Cells).chunk(&mut kv).is_empty());
    assert_eq!(kv.table(one), kv.table(other));
    assert!(kv.table(one).unwrap().is_dense());
}

#[test]
fn a_shared_page_is_copied_before_it_is_written() {
    let mut kv = paged(160);
    let one = started(&mut kv, 20);
    let two = kv.fork(one).unwrap();
    assert_eq!((kv.usage().used, kv.usage().live), (2, Tokens(20)));
    let mut writes = Writes::default();
    kv.append(two, &[7], &mut writes).unwrap();
    assert_eq!(told(&writes.copies), "16 > 32 x 4");
    assert_eq!(writes.cells, [CellId(36)]);
    assert_eq!(grow(&mut kv, one, 1), [CellId(20)], "nobody else reads that page now");
    assert_eq!(kv.holders(PageId(0)), 2);
    kv.keep(two).unwrap();
    assert_eq!((kv.usage().used, kv.holders(PageId(0))), (2, 1));
}

#[test]
fn whole_pages_are_freed_at_once_and_others_keep_holes() {
    let mut kv = paged(160);
    let id = started(&mut kv, 50);
    kv.remove(id, 10, 35).unwrap();
    assert_eq!((kv.usage().used, kv.usage().slack), (3, Tokens(48 - 25)));
    let table = kv.table(id).unwrap();
    assert_eq!((table.pages, table.is_dense()), (&[PageId(0), PageId(2), PageId(3)][..], false));
    let runs: Vec<Run> = kv.runs(id).unwrap().collect();
    let run = |page, first, len, position| Run { page: PageId(page), first, len: Tokens(len), position };
    assert_eq!(runs, [run(0, 0, 10, 0), run(2, 3, 13, 35), run(3, 0, 2, 48)]);
    kv.truncate(id, 5).unwrap();
    assert_eq!((kv.usage().used, kv.usage().slack, kv.next_position(id)), (1, Tokens(11), Ok(5)));
}

#[test]
fn shifts_add_up_to_one_rotation() {
    let mut kv = paged(160);
    let id = started(&mut kv, 40);
    kv.remove(id, 4, 8).unwrap();
    let mut copies = Vec::new();
    kv.shift(id, 8, 40, -3, &mut copies).unwrap();
    kv.shift(id, 5, 37, -1, &mut copies).unwrap();
    assert_eq!(positions(&kv, id), ids(36));
    assert_eq!(kv.rotations(), [Rotation { first: CellId(8), len: Tokens(32), delta: -4 }]);
    assert_eq!(kv.rotations(), []);
    kv.shift(id, 20, 36, 9, &mut copies).unwrap();
    kv.shift(id, 29, 45, -9, &mut copies).unwrap();
    assert_eq!((kv.rotations(), copies), (vec![], vec![]));
    let refused = kv.shift(id, 10, 20, 5, &mut Vec::new());
    assert_eq!(refused, Err(KvError::Shift { from: 10, to: 20, delta: 5, above: 10, below: 20 }));
    assert_eq!(kv.next_position(id), Ok(36));
}

#[test]
fn a_shift_copies_only_shared_pages_that_it_moves() {
    let mut kv = paged(160);
    let one = started(&mut kv, 48);
    let two = kv.fork(one).unwrap();
    let mut copies = Vec::new();
    kv.shift(two, 20, 48, 2, &mut copies).unwrap();
    assert_eq!(told(&copies), "16 > 48 x 16\n32 > 64 x 16");
    assert_eq!(kv.rotations(), [Rotation { first: CellId(52), len: Tokens(28), delta: 2 }]);
    assert_eq!(positions(&kv, one), ids(48));
    let mut full = paged(64);
    let one = started(&mut full, 48);
    let two = full.fork(one).unwrap();
    let refused = full.shift(two, 0, 48, 2, &mut copies);
    assert_eq!(refused, Err(KvError::Full { needed: 3, free: 1, total: 4 }));
}

#[test]
fn reserved_pages_are_nobody_elses() {
    let mut kv = paged(16 * 8);
    let [one, two] = [started(&mut kv, 10), kv.start()];
    kv.reserve(one, Tokens(70)).unwrap();
    assert_eq!((kv.usage().promised, kv.free_pages()), (4, 7));
    assert_eq!(kv.reserve(two, Tokens(49)), Err(KvError::Full { needed: 4, free: 3, total: 8 }));
    kv.reserve(two, Tokens(48)).unwrap();
    let refused = kv.append(two, &ids(49), &mut Writes::default());
    assert_eq!(refused, Err(KvError::Full { needed: 4, free: 3, total: 8 }));
    assert_eq!(kv.length(two), Ok(Tokens(0)));
    grow(&mut kv, two, 48);
    (0..70).for_each(|_| _ = grow(&mut kv, one, 1));
    assert_eq!((kv.usage().promised, kv.free_pages()), (0, 0));
}

/// What a shortened sequence no longer reads is not free while another reads it, and its last page would have to be copied.
#[test]
fn a_removal_that_would_break_a_promise_is_refused() {
    let mut kv = paged(16 * 5);
    let one = started(&mut kv, 48);
    let two = kv.fork(one).unwrap();
    kv.reserve(one, Tokens(32)).unwrap();
    assert_eq!(kv.remove(one, 20, 48), Err(KvError::Full { needed: 3, free: 2, total: 5 }));
    assert_eq!(kv.fork(one), Ok(SequenceId(2)), "whole pages ask for no copy");
    kv.remove(one, 32, 48).unwrap();
    assert_eq!(kv.fork(one), Ok(SequenceId(3)));
    kv.keep(one).unwrap();
    assert_eq!((kv.length(two), kv.remove(one, 20, 48)), (Err(KvError::NoSequence(two)), Ok(())));
    assert_eq!(grow(&mut kv, one, 32).len(), 32);
}

#[test]
fn what_begins_alike_shares_its_whole_pages() {
    let mut kv = paged(16 * 20);
    let first = prompted(&mut kv, &ids(70));
    let (second, shared) = kv.start_with_prefix(&ids(70));
    assert_eq!((shared, kv.length(second), kv.usage().used), (Tokens(64), Ok(Tokens(64)), 5));
    assert_eq!(kv.next_position(second), Ok(64));
    // The same tokens after others are another content.
    let (third, shared) = kv.start_with_prefix(&ids(70)[16..]);
    assert_eq!((shared, kv.length(third)), (Tokens(0), Ok(Tokens(0))));
    let mut other = ids(70);
    other[20] = 99;
    assert_eq!(kv.start_with_prefix(&other).1, Tokens(16));
    // All have ended, and still it is there, though every page counts as free.
    let kept: Vec<SequenceId> = kv.sequences().collect();
    kept.into_iter().for_each(|id| kv.end(id).unwrap());
    assert_eq!((kv.free_pages(), kv.usage().cached, kv.length(first).is_err()), (20, 4, true));
    assert_eq!(kv.start_with_prefix(&ids(48)).1, Tokens(48));
}

#[test]
fn what_was_not_written_is_not_shared() {
    let mut kv = paged(16 * 20);
    let id = started(&mut kv, 40);
    assert_eq!(kv.start_with_prefix(&ids(40)).1, Tokens(0));
    kv.truncate(id, 20).unwrap();
    kv.written(id).unwrap();
    assert_eq!(kv.start_with_prefix(&ids(40)).1, Tokens(16));
    // Tokens behind a removed one were made from it.
    kv.remove(id, 3, 4).unwrap();
    grow(&mut kv, id, 40);
    kv.written(id).unwrap();
    assert_eq!(kv.start_with_prefix(&ids(40)).1, Tokens(16), "only what was there before");
}

#[test]
fn neighbours_are_blank_cells_before_cached_ones() {
    let mut kv = PagedKv::new(Tokens(20), KvLayout::Contiguous);
    let id = prompted(&mut kv, &ids(8));
    kv.end(id).unwrap();
    let next = kv.start();
    assert_eq!(grow(&mut kv, next, 12), (8..20).map(CellId).collect::<Vec<_>>());
    assert_eq!((kv.usage().cached, grow(&mut kv, next, 2)), (8, vec![CellId(0), CellId(1)]));
    assert_eq!(kv.usage().cached, 6);
}

/// Of two prompts the one that was used last stays, and of each its beginning longest.
#[test]
fn cached_pages_go_least_recently_used_first() {
    let mut kv = paged(16 * 6);
    let (one, two): (Vec<u32>, Vec<u32>) = ((100..148).collect(), (200..248).collect());
    for prompt in [&one, &two] {
        let id = prompted(&mut kv, prompt);
        kv.end(id).unwrap();
    }
    let (again, shared) = kv.start_with_prefix(&one);
    assert_eq!(shared, Tokens(48));
    kv.end(again).unwrap();
    started(&mut kv, 32);
    let cached = |kv: &PagedKv, prompt: &[u32]| kv.clone().start_with_prefix(prompt).1;
    assert_eq!((cached(&kv, &one), cached(&kv, &two)), (Tokens(48), Tokens(16)));
    started(&mut kv, 32);
    assert_eq!((cached(&kv, &one), cached(&kv, &two)), (Tokens(32), Tokens(0)));
}

#[test]
fn compaction_moves_what_can_be_shared_along() {
    let mut kv = paged(16 * 8);
    let below = started(&mut kv, 48);
    let prompt: Vec<u32> = (100..132).collect();
    let above = prompted(&mut kv, &prompt);
    kv.end(below).unwrap();
    assert_eq!(told(&Compaction::at_once(Depth::Pages).chunk(&mut kv)), "48 > 0 x 32");
    let (sharing, shared) = kv.start_with_prefix(&prompt);
    assert_eq!((shared, kv.table(sharing)), (Tokens(32), kv.table(above)));
}

/// A cached page that a reservation counts on cannot be taken out of the free ones.
#[test]
fn sharing_keeps_promises() {
    let mut kv = paged(16 * 4);
    let id = prompted(&mut kv, &ids(64));
    kv.end(id).unwrap();
    let other = kv.start();
    kv.reserve(other, Tokens(40)).unwrap();
    assert_eq!(kv.start_with_prefix(&ids(64)).1, Tokens(16));
    grow(&mut kv, other, 40);
}

#[test]
fn damaged_sequences_are_refused() {
    let run = |len, position, key_at| SavedRun { len, position, key_at };
    let saved = |tokens: u32, runs: &[SavedRun]| SavedSequence { version: 1, tokens: ids(tokens), runs: runs.to_vec() };
    let cases = [
        (saved(4, &[run(4, 0, 0), run(0, 9, 9)]), 1),
        (saved(4, &[run(2, 5, 5), run(2, 6, 6)]), 1),
        (saved(4, &[run(4, u32::MAX, 0)]), 0),
        (saved(4, &[run(4, 0, (1 << 31) - 3)]), 0),
        (saved(4, &[run(5, 0, 0)]), 0),
        (saved(4, &[run(3, 0, 0)]), 1),
        (saved(4, &[]), 0),
    ];
    let mut kv = paged(64);
    for (saved, at) in cases {
        let refused = kv.restore(&saved, &mut Writes::default());
        assert!(matches!(refused, Err(KvError::SavedDamaged { run, .. }) if run == at), "{refused:?} for {saved:?}");
    }
    let foreign = SavedSequence { version: 2, ..saved(4, &[run(4, 0, 0)]) };
    let refused = kv.restore(&foreign, &mut Writes::default());
    assert_eq!(refused, Err(KvError::SavedVersion { found: 2, known: 1 }));
    let large = kv.restore(&saved(65, &[run(65, 0, 0)]), &mut Writes::default());
    assert_eq!(large, Err(KvError::Full { needed: 5, free: 4, total: 4 }));
    assert_eq!((kv.free_pages(), kv.sequences().count()), (4, 0));
    let last = kv.restore(&saved(4, &[run(4, (1 << 31) - 4, 0)]), &mut Writes::default()).unwrap();
    let refused = kv.append(last, &[1], &mut Writes::default());
    assert_eq!(refused, Err(KvError::Positions { next: 1 << 31, needed: 1 }));
}

/// What is saved between a shift and its rotation is rotated where it is restored.
#[test]
fn a_saved_sequence_keeps_the_rotation_it_is_owed() {
    let mut kv = paged(64);
    let id = started(&mut kv, 10);
    kv.shift(id, 4, 10, 3, &mut Vec::new()).unwrap();
    let saved = kv.save(id).unwrap();
    let mut other = paged(64);
    let restored = other.restore(&saved, &mut Writes::default()).unwrap();
    assert_eq!(other.rotations(), [Rotation { first: CellId(4), len: Tokens(6), delta: 3 }]);
    assert_eq!(positions(&other, restored), positions(&kv, id));
}

#[test]
fn a_cache_without_a_page_refuses_every_token() {
    let mut kv = paged(15);
    let id = kv.start();
    let full = Err(KvError::Full { needed: 1, free: 0, total: 0 });
    assert_eq!(kv.append(id, &[1], &mut Writes::default()), full);
    assert_eq!(kv.append(id, &[], &mut Writes::default()), Ok(()));
    assert_eq!((kv.cells(), kv.start_with_prefix(&ids(40)).1), (Tokens(0), Tokens(0)));
    assert_eq!(Compaction::at_once(Depth::Cells).chunk(&mut kv), []);
}
