//! Pages are given out, shared, copied and freed; fragmentation does not matter.

use loadmaster::kv::{CellId, Compaction, Depth, KvError, KvLayout, PageId, PagedKv, Run, Writes};
use loadmaster::units::Tokens;

use super::{grow, ids, paged, prompted, started, told};

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
fn neighbours_are_blank_cells_before_cached_ones() {
    let mut kv = PagedKv::new(Tokens(20), KvLayout::Contiguous);
    let id = prompted(&mut kv, &ids(8));
    kv.end(id).unwrap();
    let next = kv.start();
    assert_eq!(grow(&mut kv, next, 12), (8..20).map(CellId).collect::<Vec<_>>());
    assert_eq!((kv.usage().cached, grow(&mut kv, next, 2)), (8, vec![CellId(0), CellId(1)]));
    assert_eq!(kv.usage().cached, 6);
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

/// Where it can a sequence goes on behind its last cell, so that nothing is searched and its cells stay together.
#[test]
fn contiguous_cells_go_on_behind_the_last() {
    let cells = |range: std::ops::Range<u32>| range.map(CellId).collect::<Vec<_>>();
    let mut kv = PagedKv::new(Tokens(40), KvLayout::Contiguous);
    let [one, two] = [started(&mut kv, 10), started(&mut kv, 10)];
    kv.remove(one, 2, 6).unwrap();
    assert_eq!((grow(&mut kv, two, 1), grow(&mut kv, two, 3)), (cells(20..21), cells(21..24)));
    // Its neighbour is taken: the lowest that there are.
    assert_eq!((grow(&mut kv, one, 3), grow(&mut kv, one, 1)), (cells(2..5), cells(5..6)));
    assert_eq!((grow(&mut kv, one, 2), grow(&mut kv, two, 2)), (cells(24..26), cells(26..28)));
    // Sixteen cells are left of which twelve come last.
    assert_eq!(grow(&mut kv, one, 12), cells(28..40));
}

/// Not a blank cell: one that is cached goes in its turn, so that of a prefix the beginning stays; several lie together.
#[test]
fn contiguous_cells_take_the_place_of_what_was_cached_first() {
    let mut kv = PagedKv::new(Tokens(40), KvLayout::Contiguous);
    let prompts: [Vec<u32>; 2] = [(100..120).collect(), (200..220).collect()];
    for id in prompts.each_ref().map(|prompt| prompted(&mut kv, prompt)) {
        kv.end(id).unwrap();
    }
    let next = kv.start();
    let taken: Vec<CellId> = (0..3).flat_map(|_| grow(&mut kv, next, 1)).collect();
    assert_eq!(taken, [CellId(19), CellId(18), CellId(17)]);
    assert_eq!(prompts.each_ref().map(|prompt| kv.clone().start_with_prefix(prompt).1), [Tokens(17), Tokens(20)]);
    assert_eq!(grow(&mut kv, next, 2), [CellId(0), CellId(1)]);
    assert_eq!(grow(&mut kv, next, 4), [CellId(2), CellId(3), CellId(4), CellId(5)]);
    assert_eq!(prompts.each_ref().map(|prompt| kv.clone().start_with_prefix(prompt).1), [Tokens(0), Tokens(20)]);
}
