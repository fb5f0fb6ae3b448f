//! Compaction: complete whatever the budget, and only as dear as it is worth.

use std::collections::BTreeSet;

use loadmaster::kv::{
    Budget, CellId, Compaction, Depth, KvError, KvLayout, MoveCost, PageId, PagedKv, SequenceId, Writes,
};
use loadmaster::units::{Bytes, Tokens};

use super::moves::seed_moves;
use super::{grow, ids, paged, positions, prompted, started, told};

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

        let price = kv.price(Depth::Cells, Bytes(100), Tokens(10));
        let mut compaction = Compaction::at_once(Depth::Cells);
        compaction.chunk(&mut kv);
        assert_eq!(compaction.chunk(&mut kv), []);
        let ideal = live.div_ceil(16);
        assert!(pages_read(&kv, id) as f64 <= 1.1 * f64::from(ideal));
        assert_eq!((kv.usage().used, kv.reads()), (ideal, ideal));
        assert!((0..ideal).all(|page| kv.holders(PageId(page)) == 1), "the live span is the live count");
        assert!(kv.table(id).unwrap().is_dense());
        assert_eq!(super::positions(&kv, id), positions);

        assert_eq!((price.reads, price.reads_after), (usage.used, ideal));
        assert_eq!(price.moved, Bytes(compaction.moved * 100));
        assert_eq!(price.saved, Bytes(u64::from(usage.used - ideal) * 1600 * 10));
    }
}

/// One page of two is given up for eight cells that move, which pays after the first step.
#[test]
fn compaction_pays_when_it_saves_twice_what_it_moves() {
    let mut kv = paged(64);
    let id = started(&mut kv, 32);
    kv.remove(id, 8, 24).unwrap();
    let price = |steps| kv.price(Depth::Cells, Bytes(10), Tokens(steps));
    assert_eq!((price(1).reads, price(1).reads_after, price(1).moved), (2, 1, Bytes(80)));
    assert_eq!((price(1).saved, price(1).pays()), (Bytes(160), false));
    assert_eq!((price(2).saved, price(2).pays()), (Bytes(320), true));
    assert!(!price(0).pays());
    let pages = kv.price(Depth::Pages, Bytes(10), Tokens(1000));
    assert_eq!((pages.moved, pages.saved, pages.pays()), (Bytes(0), Bytes(0), false));
}

/// A sequence whose cells lie in four pages, because another had those between, can have them in one.
#[test]
fn the_price_of_contiguous_cells_counts_the_pages_that_they_lie_in() {
    let mut kv = PagedKv::new(Tokens(100), KvLayout::Contiguous);
    let [below, above] = [kv.start(), kv.start()];
    for at in 0..4 {
        for (id, count) in [(below, 15), (above, 1)] {
            kv.append(id, &vec![at; count], &mut Writes::default()).unwrap();
        }
    }
    assert_eq!(kv.reads(), 4 + 4);
    kv.end(below).unwrap();
    let price = kv.price(Depth::Pages, Bytes(10), Tokens(1));
    assert_eq!((price.reads, price.reads_after, price.moved), (4, 1, Bytes(40)));
    assert_eq!((price.saved, price.pays()), (Bytes(480), true));
    let moves = Compaction::at_once(Depth::Pages).chunk(&mut kv);
    assert_eq!(moves.iter().map(|step| step.len.0).sum::<u32>(), 4);
    assert!(kv.runs(above).unwrap().all(|run| run.page == PageId(0)));
    assert_eq!(kv.reads(), 1);
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

/// What is cached below moves out of the way, whole; without a blank page the one that was given back first makes room.
#[test]
fn compaction_keeps_what_is_cached() {
    let cached_below = |pages: u32, held: u32| {
        let mut kv = paged(16 * pages);
        let prompt = prompted(&mut kv, &ids(48));
        kv.end(prompt).unwrap();
        started(&mut kv, 16 * held);
        kv
    };
    let mut kv = cached_below(8, 2);
    insta::assert_snapshot!(told(&Compaction::at_once(Depth::Pages).chunk(&mut kv)), @r"
    0 > 80 x 32
    48 > 0 x 32
    ");
    assert_eq!((kv.usage().cached, kv.start_with_prefix(&ids(48)).1), (3, Tokens(48)));

    let mut kv = cached_below(6, 2);
    insta::assert_snapshot!(told(&Compaction::at_once(Depth::Pages).chunk(&mut kv)), @r"
    0 > 80 x 16
    48 > 0 x 16
    16 > 48 x 16
    64 > 16 x 16
    ");
    assert_eq!((kv.usage().cached, kv.start_with_prefix(&ids(48)).1), (3, Tokens(48)));

    let mut kv = cached_below(5, 2);
    insta::assert_snapshot!(told(&Compaction::at_once(Depth::Pages).chunk(&mut kv)), @r"
    0 > 32 x 16
    48 > 0 x 16
    16 > 48 x 16
    64 > 16 x 16
    ");
    assert_eq!((kv.usage().cached, kv.start_with_prefix(&ids(48)).1), (2, Tokens(32)), "its end was given up");
}

/// It is forgotten in the same order as it would have been in its old place.
#[test]
fn what_is_cached_keeps_its_turn_when_it_moves() {
    let mut kv = paged(16 * 8);
    let prompts: [Vec<u32>; 2] = [(100..132).collect(), (200..232).collect()];
    let both = prompts.each_ref().map(|prompt| prompted(&mut kv, prompt));
    started(&mut kv, 32);
    both.into_iter().rev().for_each(|id| kv.end(id).unwrap());
    Compaction::at_once(Depth::Pages).chunk(&mut kv);
    let blank = kv.free_pages() - kv.usage().cached;
    started(&mut kv, 16 * blank);
    let mut left = Vec::new();
    loop {
        left.push(prompts.each_ref().map(|prompt| kv.clone().start_with_prefix(prompt).1.0 / 16));
        if kv.free_pages() == 0 {
            break;
        }
        started(&mut kv, 16);
    }
    assert_eq!(left, [[2, 2], [2, 1], [2, 0], [1, 0], [0, 0]]);
}

/// Whether to ask for a price is told by counts alone.
#[test]
fn no_price_is_asked_for_where_nothing_is_to_be_saved() {
    let mut kv = paged(16 * 20);
    let [one, two] = [started(&mut kv, 70), started(&mut kv, 50)];
    let avoidable = |kv: &PagedKv| [Depth::Pages, Depth::Cells].map(|depth| kv.avoidable(depth));
    assert_eq!(avoidable(&kv), [0, 0]);
    kv.remove(one, 10, 25).unwrap();
    assert_eq!(avoidable(&kv), [0, 1], "55 tokens need four pages of five");
    kv.remove(two, 16, 48).unwrap();
    assert_eq!(avoidable(&kv), [0, 1], "two pages were given back whole");
    Compaction::at_once(Depth::Cells).chunk(&mut kv);
    assert_eq!(avoidable(&kv), [0, 0]);

    let mut kv = PagedKv::new(Tokens(100), KvLayout::Contiguous);
    let [below, _] = [started(&mut kv, 60), started(&mut kv, 2)];
    assert_eq!((avoidable(&kv), kv.reads()), ([0, 0], 5));
    kv.end(below).unwrap();
    assert_eq!((avoidable(&kv), kv.reads()), ([120, 120], 1));
    Compaction::at_once(Depth::Pages).chunk(&mut kv);
    assert_eq!((avoidable(&kv), kv.reads()), ([0, 0], 1));
}
