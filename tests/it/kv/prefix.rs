//! What begins alike shares its pages.

use loadmaster::kv::{Compaction, Depth, Mark, PageId, PagedKv, SequenceId, Writes};
use loadmaster::units::Tokens;

use super::{grow, ids, paged, positions, prompted, started, told};

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

/// However pages are given back: the beginning of a prefix, without which the rest is never found, stays longest.
#[test]
fn a_cached_prefix_loses_its_end_first() {
    type GiveBack = fn(&mut PagedKv, SequenceId);
    let ways: [(&str, GiveBack); 5] = [
        ("end", |kv, id| kv.end(id).unwrap()),
        ("truncate", |kv, id| kv.truncate(id, 0).unwrap()),
        ("remove", |kv, id| kv.remove(id, 0, 64).unwrap()),
        ("take back", |kv, id| {
            let mark = kv.mark(id).unwrap();
            kv.truncate(id, 64).unwrap();
            kv.take_back(id, Mark { count: Tokens(0), ..mark }).unwrap();
        }),
        ("squeeze", |kv, id| {
            // The pages of the prefix are filled anew elsewhere.
            kv.remove(id, 0, 1).unwrap();
            grow(kv, id, 80);
            Compaction::at_once(Depth::Cells).chunk(kv);
        }),
    ];
    for (way, give_back) in ways {
        let mut kv = paged(16 * 16);
        let id = prompted(&mut kv, &ids(64));
        give_back(&mut kv, id);
        let cached = kv.usage().cached;
        let blank = kv.free_pages() - cached;
        assert!(cached >= 3, "{way}: {cached} cached");
        let mut found = Vec::new();
        for more in 0..=2 {
            let mut kv = kv.clone();
            started(&mut kv, (blank + more) * 16);
            found.push(kv.start_with_prefix(&ids(64)).1.0 / 16);
        }
        assert_eq!(found, [cached, cached - 1, cached - 2], "{way}");
    }
}

/// Two prompts that are evaluated in the same steps: each page is kept once, and found as long as one of them runs.
#[test]
fn prompts_that_are_in_flight_together_end_up_sharing() {
    let mut kv = paged(16 * 8);
    let [one, two] = [kv.start(), kv.start()];
    for chunk in ids(50).chunks(20) {
        [one, two].into_iter().for_each(|id| kv.append(id, chunk, &mut Writes::default()).unwrap());
        [one, two].into_iter().for_each(|id| kv.written(id).unwrap());
    }
    assert_eq!((kv.usage().used, kv.usage().live), (5, Tokens(48 + 2 + 2)));
    assert_eq!((kv.length(two), positions(&kv, two)), (Ok(Tokens(50)), ids(50)));
    assert_eq!(kv.table(one).unwrap().pages[..3], kv.table(two).unwrap().pages[..3]);
    kv.end(one).unwrap();
    started(&mut kv, 16 * 4);
    assert_eq!((kv.free_pages(), kv.start_with_prefix(&ids(50)).1), (0, Tokens(48)));
}

/// The other prompt has ended: its page, cached, makes room for the one that is held.
#[test]
fn a_content_that_nobody_holds_is_found_where_it_is_held() {
    let mut kv = paged(16 * 4);
    let [one, two] = [started(&mut kv, 16), started(&mut kv, 16)];
    kv.written(one).unwrap();
    kv.end(one).unwrap();
    assert_eq!((kv.usage().cached, kv.free_pages()), (1, 3));
    kv.written(two).unwrap();
    assert_eq!((kv.usage().cached, kv.free_pages()), (0, 3));
    started(&mut kv, 48);
    assert_eq!(kv.start_with_prefix(&ids(16)).1, Tokens(16));
    assert_eq!(kv.table(two).unwrap().pages, [PageId(1)]);
}

/// Forks of one of them share its pages with each other until each was told of.
#[test]
fn forks_take_the_page_that_is_found_one_by_one() {
    let mut kv = paged(16 * 4);
    let [one, two] = [started(&mut kv, 16), started(&mut kv, 16)];
    let fork = kv.fork(two).unwrap();
    [one, two].into_iter().for_each(|id| kv.written(id).unwrap());
    assert_eq!((kv.holders(PageId(0)), kv.holders(PageId(1))), (2, 1));
    kv.written(fork).unwrap();
    assert_eq!((kv.holders(PageId(0)), kv.usage().used, kv.usage().cached), (3, 1, 0));
}

/// The first ends within its page and was promised to go on there; shared, it would have to be copied.
#[test]
fn pages_of_one_content_stay_apart_where_sharing_would_break_a_promise() {
    let mut kv = paged(16 * 3);
    let [one, two] = [prompted(&mut kv, &ids(16)), started(&mut kv, 16)];
    let fork = kv.fork(two).unwrap();
    kv.truncate(one, 10).unwrap();
    kv.reserve(one, Tokens(22)).unwrap();
    assert_eq!((kv.usage().promised, kv.free_pages()), (1, 1));
    kv.written(two).unwrap();
    assert_eq!((kv.holders(PageId(0)), kv.holders(PageId(1))), (1, 2));
    assert_eq!(grow(&mut kv.clone(), one, 22).len(), 22);
    // Its own page comes free instead.
    kv.end(fork).unwrap();
    kv.truncate(two, 0).unwrap();
    kv.append(two, &ids(16), &mut Writes::default()).unwrap();
    kv.written(two).unwrap();
    assert_eq!((kv.holders(PageId(0)), kv.usage().promised, kv.free_pages()), (2, 2, 2));
    let mut writes = Writes::default();
    kv.append(one, &[0; 22], &mut writes).unwrap();
    assert_eq!(told(&writes.copies), "0 > 16 x 10");
}
